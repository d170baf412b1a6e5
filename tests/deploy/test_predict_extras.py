"""Embeddings, heatmaps and backends in prediction."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.analysis.attribution import grad_cam
from reslab.deploy.predict import predict
from reslab.deploy.prediction import prediction_from_dict
from reslab.deploy.prediction_images import GradCam, draw_grad_cam, grad_cam_path
from reslab.deploy.predictor import build_predictor, split_head
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_engines_predict_alike(network: ResidualNetwork, png_folder: Path, engine: str) -> None:
    expected = predict(network, png_folder, top_k=2)
    for left, right in zip(predict(network, png_folder, top_k=2, backend=engine, batch_size=3), expected, strict=True):
        assert (left.path, left.error) == (right.path, right.error)
        assert [guess.name for guess in left.classes] == [guess.name for guess in right.classes]
        for ours, theirs in zip(left.classes, right.classes, strict=True):
            assert ours.probability == pytest.approx(theirs.probability, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_embedding_is_what_the_last_layer_reads(network: ResidualNetwork, png_folder: Path, engine: str) -> None:
    predictions = predict(network, png_folder, embeddings=True, backend=engine)
    plain = predict(network, png_folder)
    head = network.fc
    assert isinstance(head, torch.nn.Linear)
    for row, other in zip(predictions, plain, strict=True):
        assert len(row.embedding) == (0 if row.error else 64)
        if not row.error:
            logits = head(torch.tensor(row.embedding)).detach()
            assert float(logits.softmax(0).max()) == pytest.approx(other.classes[0].probability, rel=1e-4)
            assert row.classes[0].probability == pytest.approx(other.classes[0].probability, rel=1e-4)
    assert predictions[0].to_dict()["embedding"] == list(predictions[0].embedding)
    assert "embedding" not in plain[0].to_dict()
    assert [prediction_from_dict(row.to_dict()) for row in predictions] == predictions


def test_a_head_of_several_layers_is_parted_before_its_last() -> None:
    torch.manual_seed(0)
    network = create_model("book_resdeep").eval()
    assert isinstance(network, ResidualNetwork)
    body, head = split_head(network)
    x = torch.randn(2, *network.arch.input_size)
    with torch.no_grad():
        assert head.in_features == body(x).shape[1]
        torch.testing.assert_close(head(body(x)), network(x))


def test_a_heat_map_is_grad_cam_s(network: ResidualNetwork, png_folder: Path, tmp_path: Path) -> None:
    network.train()
    folder = tmp_path / "maps"
    predictions = predict(network, png_folder, grad_cam_dir=folder)
    assert network.training  # as it was
    read = [row for row in predictions if not row.error]
    assert {Path(row.grad_cam) for row in read} == set(folder.iterdir())
    assert predictions[-1].grad_cam == ""  # the file that is no image
    with Image.open(read[0].grad_cam) as image:
        assert image.size == (224, 224)
        assert len(image.convert("RGB").getcolors(224 * 224) or []) > 20


def test_the_map_of_an_image(network: ResidualNetwork) -> None:
    pixels = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    maps = GradCam(network, torch.device("cpu"))
    targets = torch.tensor([3, 1, 4])
    result = maps(pixels, targets)
    assert result.shape == (3, 8, 8)
    assert (float(result.min()), float(result.max())) == (0.0, 1.0)
    expected = grad_cam(network, maps.normalize(pixels), targets, maps.layer)
    largest = expected.flatten(1).max(1).values
    for heat, raw, most in zip(result, expected, largest, strict=True):
        if most > 0:
            coarse = torch.nn.functional.interpolate(raw[None, None], (8, 8), mode="bilinear")[0, 0]
            torch.testing.assert_close(heat, coarse / coarse.max())


def test_colours_of_an_overlay() -> None:
    """Bright where the heatmap is high, close to the gray image where it is zero."""
    heat = torch.zeros(4, 4)
    heat[0, 0] = 1.0
    pixels = torch.full((1, 4, 4), 128, dtype=torch.uint8)
    image = draw_grad_cam(pixels, heat)
    assert image.size == (224, 224)
    hot, cold = image.getpixel((5, 5)), image.getpixel((215, 215))
    assert isinstance(hot, tuple)
    assert isinstance(cold, tuple)
    assert hot[0] > 180 > 130 > cold[0]


def test_names_of_heat_maps_stay_apart(tmp_path: Path) -> None:
    names = [grad_cam_path(tmp_path, path).name for path in ("a/1.png", "b/1.png", "../x/1.png", "-", "/r/1.png")]
    assert len(set(names)) == len(names)
    assert all("/" not in name and name.endswith(".png") for name in names)


def test_results_have_their_classes(network: ResidualNetwork) -> None:
    result = build_predictor(network, use_temperature=False, num_images=1)
    assert result.task.classes == tuple(str(digit) for digit in range(10))
    assert result.temperature == 1.0
    assert result.backend.name == "torch"
