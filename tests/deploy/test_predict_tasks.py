"""`predict` by task: equal to a forward written out, in Python, in files and from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.deploy.inputs import InputItem
from reslab.deploy.outputs import PredictionFile
from reslab.deploy.predict import predict
from reslab.deploy.prediction import ClassScore, Prediction, prediction_from_dict
from reslab.deploy.prediction_formats import PREDICTION_FORMATS
from reslab.deploy.prediction_images import GradCam, draw_grad_cam
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.nn.segmentation import SegmentationNetwork
from reslab.spec.preprocess import Preprocess

PREPROCESS = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SMALL = {"backbone.depths": (1, 1, 1, 1), "backbone.widths": (8, 8, 8, 16)}
LABELS = {"name": "multi-label", "thresholds": [0.3, 0.5, 0.999]}
VALUES = {"name": "regression", "mean": [40.0, -3.0], "std": [12.0, 0.5]}


def build_network(task: dict[str, object], classes: tuple[str, ...]) -> ResidualNetwork:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", num_classes=len(classes), image_size=(16, 16), depths=(1, 1, 1))
    assert isinstance(network, ResidualNetwork)
    network.set_metadata(classes=classes, preprocess=PREPROCESS, task=task)
    return network.eval()


@pytest.fixture
def labels() -> ResidualNetwork:
    return build_network(LABELS, ("ant", "bee", "cat"))


@pytest.fixture
def values() -> ResidualNetwork:
    return build_network(VALUES, ("age", "tilt"))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in range(4):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths


def forward(network: ResidualNetwork, path: Path) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    with torch.no_grad():
        outputs: Tensor = network(((read_image(path) / 255 - mean) / std)[None])[0]
    return outputs


def test_labels_are_the_classes_above_their_thresholds(labels: ResidualNetwork, images: list[Path]) -> None:
    labels.temperature = 3.0  # fitted to a softmax: it says nothing here
    for path, row in zip(images, predict(labels, images), strict=True):
        probabilities = forward(labels, path).sigmoid().tolist()
        triples = zip(("ant", "bee", "cat"), probabilities, LABELS["thresholds"], strict=True)
        expected = sorted(((p, name, t) for name, p, t in triples if p >= t), reverse=True)
        assert [score.name for score in row.classes] == [name for _, name, _ in expected]
        assert [score.probability for score in row.classes] == pytest.approx([p for p, _, _ in expected], rel=1e-5)
        assert [score.threshold for score in row.classes] == [t for _, _, t in expected]
    (everything,) = predict(labels, images[0], top_k=9)
    assert {score.name for score in everything.classes} == {"ant", "bee", "cat"}
    assert [score.is_predicted for score in everything.classes if score.name == "cat"] == [False]
    assert everything.to_dict()["classes"][0].keys() == {"name", "probability", "threshold"}


def test_values_are_in_the_unit_of_the_targets(values: ResidualNetwork, images: list[Path]) -> None:
    for path, row in zip(images, predict(values, images), strict=True):
        standardized = forward(values, path).tolist()
        assert row.values == {
            "age": pytest.approx(40 + 12 * standardized[0], rel=1e-5),
            "tilt": pytest.approx(-3 + 0.5 * standardized[1], rel=1e-5),
        }
        assert row.to_dict().keys() == {"path", "values"}
    (missing,) = predict(values, images[0].with_name("none.png"))
    assert missing.to_dict() == {"path": missing.path, "values": {}, "error": "no such file"}


def test_the_task_travels_with_the_weights(values: ResidualNetwork, images: list[Path], tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", values)
    assert predict(tmp_path / "model.safetensors", images) == predict(values, images)


def test_a_heatmap_of_each_class_and_target(
    labels: ResidualNetwork, values: ResidualNetwork, images: list[Path], tmp_path: Path
) -> None:
    def contents(network: ResidualNetwork, name: str) -> bytes:
        (row,) = predict(network, images[0], grad_cam_dir=tmp_path / "maps", grad_cam_class=name)
        return Path(row.grad_cam).read_bytes()

    assert contents(labels, "ant") != contents(labels, "bee")
    assert contents(values, "") == contents(values, "age") != contents(values, "tilt")
    with pytest.raises(ValueError, match=r"cat.*nearest.*|nearest.*cat"):
        predict(labels, images[0], grad_cam_dir=tmp_path / "maps", grad_cam_class="cats")


LABEL_ROWS = [
    Prediction("a.png", (ClassScore("cat", 0.75, 0.5), ClassScore("dog", 0.25, 0.125))),
    Prediction("b.png"),
    Prediction("c.png", error="broken"),
]
VALUE_ROWS = [Prediction("a.png", values={"age": 40.5, "=tilt": -3.25}), Prediction("c.png", error="broken", values={})]
MASK_ROWS = [
    Prediction("a.png", shares={"sky": 0.75, "sea": 0.25}, mask_path="m/a.png", overlay_path="m/a_overlay.png"),
    Prediction("c.png", error="broken", shares={}),
]


@pytest.mark.parametrize("rows", [LABEL_ROWS, VALUE_ROWS, MASK_ROWS])
@pytest.mark.parametrize("ending", PREDICTION_FORMATS)
def test_files_are_read_as_written(tmp_path: Path, ending: str, rows: list[Prediction]) -> None:
    path = tmp_path / f"out{ending}"
    file = PredictionFile(path, [InputItem(row.path) for row in rows], {})
    for row in rows:
        file.add(row)
    assert file.finish() == rows
    assert PREDICTION_FORMATS[ending].read(path)[0] == rows
    assert [prediction_from_dict(json.loads(json.dumps(row.to_dict()))) for row in rows] == rows


def test_csv_has_a_line_for_each_target() -> None:
    text = PREDICTION_FORMATS[".csv"].encode(VALUE_ROWS, {}).decode()
    assert text.splitlines() == ["path,target,value,error", "a.png,age,40.5,", "a.png,'=tilt,-3.25,", "c.png,,,broken"]


@pytest.fixture
def masks() -> SegmentationNetwork:
    torch.manual_seed(0)
    network = create_model("fcn_resnet50", num_classes=3, image_size=(64, 64), **SMALL)
    assert isinstance(network, SegmentationNetwork)
    names, preprocess = ("sky", "sea", "land"), Preprocess(3, "resize(40)", PREPROCESS.mean, PREPROCESS.std)
    network.set_metadata(classes=names, preprocess=preprocess, task={"name": "segmentation"})
    return network.eval()


def test_a_mask_has_the_size_of_its_image(masks: SegmentationNetwork, tmp_path: Path) -> None:
    from torchvision.transforms.v2 import functional as transforms

    generator = torch.Generator().manual_seed(0)
    sizes = [(50, 70), (90, 61), (50, 70)]
    pixels = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    rows = predict(masks, pixels, masks_dir=tmp_path / "masks")
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    for image, row in zip(pixels, rows, strict=True):
        resized = transforms.resize(image, [40], antialias=True)
        with torch.no_grad():
            logits = masks(((resized / 255 - mean) / std)[None])
        logits = torch.nn.functional.interpolate(logits, image.shape[1:], mode="bilinear", align_corners=False)
        expected = logits.argmax(1)[0]
        assert row.mask is not None
        assert (row.mask == expected).float().mean() > 0.999  # batches round differently
        shares = {name: float((row.mask == k).float().mean()) for k, name in enumerate(("sky", "sea", "land"))}
        assert row.shares == {name: pytest.approx(share) for name, share in shares.items() if share}
        with Image.open(row.mask_path) as saved:
            assert saved.mode == "P"
            assert torch.equal(torch.from_numpy(np.array(saved)), row.mask)
            assert saved.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        with Image.open(row.overlay_path) as overlay:
            assert overlay.size == image.shape[:0:-1]
    assert {Path(row.mask_path).name for row in rows} == {"#0.png", "#1.png", "#2.png"}


def test_images_that_a_network_for_masks_cannot_take(masks: SegmentationNetwork) -> None:
    masks.set_metadata(preprocess=Preprocess(3, "", PREPROCESS.mean, PREPROCESS.std))
    small, large = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 64, 64, dtype=torch.uint8)
    first, second = predict(masks, [small, large])
    assert "4x4" in first.error
    assert first.to_dict()["shares"] == {}
    assert second.shares is not None
    masks.set_metadata(preprocess=Preprocess(3, "resize(40) center-crop(32)", PREPROCESS.mean, PREPROCESS.std))
    with pytest.raises(ValueError, match="whole image"):
        predict(masks, [large])


def test_grad_cam_of_a_class_of_pixels(masks: SegmentationNetwork, images: list[Path], tmp_path: Path) -> None:
    """By the gradient of the sum over pixels, written out; images of different sizes keep theirs."""
    pixels = torch.randint(256, (40, 56, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "large.png")
    paths = [tmp_path / "large.png", images[0]]
    classes = masks.classes
    assert classes is not None
    rows = predict(masks, paths, grad_cam_dir=tmp_path / "maps", grad_cam_class=classes[2], batch_size=2)
    assert [Path(row.grad_cam).is_file() for row in rows] == [True, True]
    heatmap = GradCam(masks, torch.device("cpu"))(read_image(paths[0])[None], torch.tensor([2]))[0]
    kept: list[Tensor] = []
    last = list(masks.backbone.blocks())[-1][1]
    handle = last.register_forward_hook(lambda module, inputs, output: kept.append(output))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    logits = masks(((read_image(paths[0]) / 255 - mean) / std)[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 2].sum(), kept[0])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(expected, (40, 56), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(heatmap, (expected / expected.max()).detach(), rtol=1e-4, atol=1e-5)
    with Image.open(rows[0].grad_cam) as drawn:
        assert np.array_equal(np.array(drawn), np.array(draw_grad_cam(read_image(paths[0]), heatmap)))
    shares = rows[0].shares
    assert shares is not None
    main = next((name for name in shares if name != classes[0]), classes[0])
    (by_default,) = predict(masks, paths[0], grad_cam_dir=tmp_path / "default")
    (by_name,) = predict(masks, paths[0], grad_cam_dir=tmp_path / "named", grad_cam_class=main)
    assert Path(by_default.grad_cam).read_bytes() == Path(by_name.grad_cam).read_bytes()


def test_options_without_a_meaning_for_the_task(
    masks: SegmentationNetwork, labels: ResidualNetwork, images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        predict(masks, images, embeddings=True)
    with pytest.raises(ValueError, match="segmentation"):
        predict(labels, images, masks_dir=tmp_path / "masks")


def test_masks_of_images_of_one_name_stay_apart(masks: SegmentationNetwork, images: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(images[0].read_bytes())
    rows = predict(masks, [tmp_path / "a", tmp_path / "b", images[1]], masks_dir=tmp_path / "masks", image_size=32)
    assert len({row.mask_path for row in rows}) == 3
    assert Path(rows[2].mask_path).name == "1.png"
    assert rows[0].mask is not None
    assert rows[0].mask.shape == (16, 16)
