"""Detection: steps against torchvision, and runs on folders of images with boxes and masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_runs import (
    CLASSES,
    TINY,
    boxes_run,
    squares_run,
    write_coco,
    write_image,
    write_squares,
    write_voc,
    write_yolo,
)
from launch import on_ranks
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from reslab.data.boxes import without_ignored
from reslab.data.registry import open_dataset
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.nn.factory import create_model, load_model
from reslab.spec.zoo.dense import dense_arch_for
from reslab.training import setup_recipe
from reslab.training.evaluation.box_fusion import fuse_boxes, mirror_boxes
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.loop import TrainStep
from reslab.training.losses import build_loss
from reslab.training.run import Run
from reslab.training.tasks.detection import Detection, DetectionEvaluation
from reslab.training.train import train

pytestmark = pytest.mark.real_plots

FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-1, -2))
Timeless = Callable[[Run], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="module")
def run(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """RetinaNet scores every anchor, so that even an untrained one has detections."""
    return boxes_run(voc, tmp_path_factory.mktemp("runs") / "voc", detector="faster-rcnn")


def test_mirror_images_are_evaluated_by_their_fused_boxes(voc: Path, run: Run) -> None:
    data, network = open_dataset(voc), load_model(run.path / "model.safetensors").eval()
    evaluation = evaluate(run, tta="flip vertical-flip", keep_predictions=True)
    num_boxes = 0
    for i, predicted in enumerate(evaluation.predictions):
        image = data.split(data.eval_split)[i][0]
        with torch.no_grad():
            views = [mirror_boxes(network([image.flip(axes)])[0], axes, image.shape[1:]) for axes in FLIPS]
        expected = fuse_boxes(views)
        torch.testing.assert_close(predicted.boxes, expected["boxes"], atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(predicted.scores, expected["scores"])
        num_boxes += len(predicted.boxes)
    assert num_boxes > 0
    assert evaluation.ap50 != evaluate(run).ap50


def make_batch(voc: Path, num_images: int = 4) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images of several sizes, one without an object, with a difficult object among the others."""
    images, targets = zip(*(open_dataset(voc).split("train")[i] for i in range(num_images)), strict=True)
    images = tuple(image * 0.2 + 0.4 for image in images)
    targets[0]["difficult"][1] = True
    return list(images), list(targets)


def tiny_detector(detector: str) -> nn.Module:
    axes = {key.removeprefix("model."): value for key, value in TINY.items() if key.startswith("model.")}
    torch.manual_seed(0)
    arch = dense_arch_for("detection", "resnet20_cifar", (48, 48), {"detector": detector})
    return create_model(arch, **{**axes, "num_classes": 4})


@pytest.mark.parametrize("detector", ["retinanet", "faster-rcnn", "faster-rcnn-c4"])
def test_a_step_has_the_loss_and_gradient_of_torchvision_s_training_loop(voc: Path, detector: str) -> None:
    """`losses = model(images, targets); sum(losses.values()).backward()`, without difficult objects and crowds."""
    ours, theirs = tiny_detector(detector).train(), tiny_detector(detector).train()
    images, targets = make_batch(voc)
    task = Detection(CLASSES)
    step = TrainStep(batch_metrics=task.batch_metrics, main_output=task.main_output, forward=task.training_forward)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0)
    torch.manual_seed(5)
    metrics = step.run(ours, build_loss("detector"), optimizer, images, targets)
    torch.manual_seed(5)
    losses = theirs(images, [{key: without_ignored(target)[key] for key in ("boxes", "labels")} for target in targets])
    sum(losses.values()).backward()
    torch.testing.assert_close(metrics["loss"], sum(losses.values()).detach())
    for name, value in losses.items():
        torch.testing.assert_close(metrics[name], value.detach())
    for actual, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if other.grad is None:
            assert actual.grad is None
        else:
            torch.testing.assert_close(actual.grad, other.grad)
    assert any(parameter.grad.any() for parameter in ours.parameters() if parameter.grad is not None)


def frozen_retinanet() -> nn.Module:
    """A detector without batch statistics, whose images are not padded differently in parts of a batch."""
    axes = {key.removeprefix("model."): value for key, value in TINY.items() if key.startswith("model.")}
    torch.manual_seed(0)
    arch = dense_arch_for("detection", "resnet20_cifar", (48, 48), {"detector": "retinanet"})
    return create_model(arch, **{**axes, "num_classes": 4, "norm": "frozen", "min_size": 32, "max_size": 32}).double()


def test_micro_batches_have_the_gradient_of_the_batch(voc: Path) -> None:
    """RetinaNet's loss is a mean over images; so without batch norm parts of equal size have the mean of their losses.

    The images are square, so that none is padded.
    """
    _, targets = make_batch(voc)
    images = [torch.rand(3, 36, 36, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(4)]
    for target in targets:
        target["boxes"] = target["boxes"].clamp(max=36).double()
        keep = (target["boxes"][:, 2:] - target["boxes"][:, :2] > 0).all(1)
        target |= {key: value[keep] for key, value in target.items() if isinstance(value, Tensor)}
    result = []
    for parts in (1, 2, 4):
        model, task = frozen_retinanet().train(), Detection(CLASSES)
        step = TrainStep(grad_accum_steps=parts, main_output=task.main_output, forward=task.training_forward)
        value, losses = step.backward(model, build_loss("detector"), images, targets)
        assert set(losses) == {"classification", "bbox_regression"}
        result.append((value, [weight.grad for weight in model.parameters() if weight.grad is not None]))
    for value, gradients in result[1:]:
        torch.testing.assert_close(value, result[0][0])
        torch.testing.assert_close(gradients, result[0][1], rtol=1e-5, atol=1e-8)


def test_a_run_from_a_folder_to_a_report(run: Run, voc: Path) -> None:
    result = run.result
    assert result is not None
    assert run.metadata["task"] == {"name": "detection"}
    assert (run.metadata["model"]["kind"], run.metadata["model"]["name"]) == (
        "detection", "fasterrcnn_resnet20_cifar_fpn_320"
    )  # fmt: skip
    assert run.arch is not None
    assert run.arch.num_classes == len(CLASSES) + 1
    assert read_header(run.weights_path)["classes"] == list(CLASSES)
    assert result["ap50"] > 0
    assert result["loss"] is None
    evaluation = evaluate(run)
    assert isinstance(evaluation, DetectionEvaluation)
    assert evaluation.to_dict() == {name: result[name] for name in evaluation.to_dict()}
    assert sum(len(prediction.boxes) for prediction in evaluation.predictions) > 0
    assert [target.image_id for target in evaluation.targets] == ["JPEGImages/04.png", "JPEGImages/05.png"]
    assert evaluation.targets[0].boxes.tolist() == [[30, 10, 60, 44], [2, 30, 11, 44]]  # in pixels of the file
    one_by_one = evaluate(run.weights_path, voc, batch_size=1)
    assert one_by_one.to_dict() == evaluation.to_dict()
    for ours, other in zip(one_by_one.predictions, evaluation.predictions, strict=True):
        assert torch.equal(ours.boxes, other.boxes)
        assert torch.equal(ours.scores, other.scores)
    names = [row["name"] for row in evaluation.per_class()["classes"]]
    assert names == list(CLASSES)
    records = [record for record in run.log.records() if record["kind"] == "train"]
    assert {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"} < set(records[-1])
    assert run.report_path.read_text().count("COCO AP") > 0


def test_two_ranks_train_and_evaluate_as_one(run: Run, tmp_path: Path) -> None:
    """RetinaNet's loss is a mean over images: without batch norm, and with images of one size, that of the whole batch.

    In float32, as torchvision's anchors are; the sums are in another order.
    """
    data = write_squares(tmp_path / "data")
    code = f"""
from pathlib import Path
from detection_runs import squares_run
from reslab.training.evaluation.evaluate import evaluate
squares_run(Path({str(data)!r}), Path({str(tmp_path)!r}) / "two")
evaluation = evaluate({str(run.path)!r}, distributed=True, device="cpu", batch_size=1)
answer = evaluation.to_dict(), [prediction.scores for prediction in evaluation.predictions]
"""
    results = on_ranks(code, tmp_path)
    one, two = squares_run(data, tmp_path / "one"), Run(tmp_path / "two")
    for key in ("loss", "classification", "bbox_regression"):
        losses = [[line[key] for line in run.log.records() if line["kind"] == "train"] for run in (one, two)]
        assert len(set(losses[0])) == 3
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    alone = evaluate(run, device="cpu")
    for metrics, scores in results:
        assert metrics == alone.to_dict()
        assert all(map(torch.equal, scores, [prediction.scores for prediction in alone.predictions]))


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    run: Run, voc: Path, tmp_path: Path, timeless: Timeless, weights_hash: Callable[[Run], str]
) -> None:
    """Anchors and proposals are sampled with the global generator, which is seeded at every step."""

    def stop(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return {}

    output, options = tmp_path / "run", {"detector": "faster-rcnn"}
    with pytest.raises(KeyboardInterrupt):
        boxes_run(voc, output, on_step_end=stop, hook_every_steps=3, save_every_seconds=0.0, **options)
    resumed = boxes_run(voc, output, resume=True, **options)
    assert weights_hash(resumed) == weights_hash(run)
    evaluations = [[line for line in timeless(one) if line["kind"] == "eval"] for one in (resumed, run)]
    assert evaluations[0] == evaluations[1] != []


def test_masks_are_trained_and_evaluated(tmp_path: Path) -> None:
    """Objects are rectangles here, whose masks are their boxes."""
    few, data = {"model.max_detections": 5}, write_coco(tmp_path / "coco")
    run = boxes_run(data, tmp_path / "run", detector="mask-rcnn", epochs=1, overrides=few)
    assert run.result is not None
    evaluation = evaluate(run)
    assert evaluation.mask_ap == run.result["mask_ap"] is not None
    assert all(len(image.prediction.masks) == len(image.prediction.boxes) for image in evaluation.images)
    assert "mask_coco" in evaluation.per_class()
    records = [record for record in run.log.records() if record["kind"] == "train"]
    assert records[-1]["loss_mask"] > 0


def test_masks_are_required_for_mask_rcnn(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a mask for each object; got: boxes alone"):
        boxes_run(voc, tmp_path / "run", detector="mask-rcnn")
    assert not (tmp_path / "run").exists()


def test_a_module_of_torchvision_is_trained_in_bf16_with_anchors_in_float32(voc: Path, tmp_path: Path) -> None:
    backbone = _resnet_fpn_extractor(resnet18(), 5, [4])
    anchors = AnchorGenerator(((16, 24, 32), (32, 48, 64)), ((0.5, 1.0, 2.0),) * 2)
    model = RetinaNet(backbone, num_classes=4, anchor_generator=anchors, min_size=48, max_size=64)
    types: set[tuple[torch.dtype, bool]] = set()
    anchors.register_forward_hook(lambda module, inputs, output: types.add((output[0].dtype, model.training)))
    run = train(
        model, voc, epochs=1, batch_size=2, seed=0, output=tmp_path / "run", device="cpu", workers=0,
        overrides={"precision": "bf16"}, on_log=lambda line: None,
    )  # fmt: skip
    assert run.result is not None
    assert types == {(torch.float32, True), (torch.float32, False)}
    assert run.metadata["data"]["preprocess"]["mean"] == [0, 0, 0]
    assert evaluate(run, module=model).to_dict() == pytest.approx(
        {name: run.result[name] for name in ("ap", "ap50", "ap75", "voc_map", "mask_ap", "loss", "num_samples")}
    )


class ForeignDetector(nn.Module):
    """Predicts one box of the same size in each image; its loss pulls the side to that of the first object."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if targets is not None:
            sides = [target["boxes"][:1, 2] for target in targets]
            return {"side": (self.side - torch.cat(sides)).abs().sum()}
        box = torch.stack([self.side * 0, self.side * 0, self.side, self.side])[None]
        return [{"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1)} for _ in images]


@pytest.mark.parametrize(("precision", "expected"), [("auto", "float32"), ("bf16", "bf16")])
def test_a_detector_of_other_classes_is_trained_in_float32_unless_bf16_is_required(
    precision: str, expected: str, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_recipe, "has_fast_bf16", lambda device: True)
    run = train(
        ForeignDetector(), voc, epochs=1, batch_size=2, output=tmp_path / "run", device="cpu", workers=0,
        overrides={"precision": precision, "optimizer.name": "sgd"}, on_log=lambda line: None,
    )  # fmt: skip
    assert run.metadata["precision"] == expected
    messages = [text for text in run.metadata["messages"] if "ForeignDetector is not built of torchvision's" in text]
    assert len(messages) == (precision == "auto")


def test_a_batch_without_any_object_trains(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "yolo")
    for path in (root / "labels" / "train").iterdir():
        if path.stem != "00":
            path.unlink()
    run = boxes_run(root, tmp_path / "run", epochs=1, batch_size=1, overrides={"model.norm": "frozen"})
    losses = [record["bbox_regression"] for record in run.log.records() if record["kind"] == "train"]
    assert losses
    assert all(loss >= 0 for loss in losses)


def test_the_size_is_that_of_the_network_and_transforms_stay(voc: Path, tmp_path: Path) -> None:
    run = boxes_run(voc, tmp_path / "run", epochs=1, overrides={"image_size": "64"})
    assert run.arch is not None
    assert (run.arch.min_size, run.arch.max_size) == (48, 64)  # the user's own axes win
    del run
    overrides = {key: value for key, value in TINY.items() if key not in ("model.min_size", "model.max_size")}
    run = train(
        "resnet20_cifar", voc, epochs=1, batch_size=2, image_size=40, output=tmp_path / "second", device="cpu",
        workers=0, overrides={**overrides, "model.detector": "retinanet"}, on_log=lambda line: None,
    )  # fmt: skip
    assert run.arch is not None
    assert (run.arch.min_size, run.arch.max_size) == (40, 40)
    assert run.metadata["recipe"]["train_transform"] == "flip"
    assert run.metadata["data"]["preprocess"]["transform"] == ""
    larger = evaluate(run, image_size=64)
    assert larger.num_samples == evaluate(run).num_samples


def test_the_backbone_brings_its_normalization(voc: Path, tmp_path: Path) -> None:
    from reslab.nn.checkpoints.safetensors_io import save_weights
    from reslab.spec.preprocess import Preprocess

    axes = {"depths": "1,1,1", "widths": "4,8,8", "stem": "conv3/2(4) norm act"}
    backbone = create_model("resnet20_cifar", **axes)
    backbone.set_metadata(preprocess=Preprocess(3, "", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    save_weights(tmp_path / "backbone.safetensors", backbone)
    run = boxes_run(voc, tmp_path / "run", epochs=1, pretrained=tmp_path / "backbone.safetensors")
    assert run.arch is not None
    assert (run.arch.image_mean, run.arch.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    again = boxes_run(voc, tmp_path / "again", epochs=1, pretrained=run.weights_path)
    assert again.arch is not None
    assert again.arch.image_mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train_transform": "mixup(0.2)"}, "a transform whose images keep their own targets in detection"),
        ({"class_weights": "balanced"}, "no class_weights in detection"),
        ({"early_stopping.metric": "loss"}, "metric of the task detection"),
        ({"loss": "mse"}, "a loss for detection: detector"),
        ({"distill.teacher": "run"}, "logits over classes to imitate a teacher"),
    ],
)
def test_what_does_not_suit_boxes_is_refused(voc: Path, tmp_path: Path, overrides: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes_run(voc, tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_network_for_classes_is_refused(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a network for detection"):
        boxes_run(voc, tmp_path / "run", model="fcn_resnet50")


def test_images_of_one_pixel_have_no_detection(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    root = write_voc(tmp_path / "voc")
    write_image(root / "JPEGImages" / "04.png", 4)
    Image.new("RGB", (1, 1)).save(root / "JPEGImages" / "05.png")
    (root / "Annotations" / "05.xml").write_text(
        "<annotation><size><width>1</width><height>1</height><depth>3</depth></size></annotation>"
    )
    evaluation = evaluate(run.weights_path, root)
    assert evaluation.num_samples == 2
