"""`predict`: equal to the evaluation on the same images, and robust to unreadable files."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.decode_limits import DecodeLimits
from reslab.deploy.inputs import InferenceTransform, list_inputs
from reslab.deploy.predict import predict
from reslab.deploy.prediction import ClassScore
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess

PREPROCESS = Preprocess(3, "resize(20) center-crop(16)", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def network() -> ResidualNetwork:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=3, image_size=(16, 16), depths=(1, 1, 1))
    assert isinstance(model, ResidualNetwork)
    model.classes, model.preprocess = ("ant", "bee", "cat"), PREPROCESS
    return model.eval()


def write_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(pixels.numpy()).save(path)
    return path


def probabilities(network: ResidualNetwork, pixels: Tensor) -> list[float]:
    """p = softmax(network((x / 255 - mean) / std)), written out."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    with torch.no_grad():
        result: list[float] = network(((pixels / 255 - mean) / std)[None]).softmax(1)[0].tolist()
    return result


def test_an_image_of_the_right_size_is_taken_as_it_is(network: ResidualNetwork, tmp_path: Path) -> None:
    network.preprocess = Preprocess(3, "", PREPROCESS.mean, PREPROCESS.std)
    path = write_image(tmp_path / "a.png", 16, 16)
    (result,) = predict(network, path, top_k=3)
    expected = dict(zip(("ant", "bee", "cat"), probabilities(network, read_image(path)), strict=True))
    assert {guess.name for guess in result.classes} == set(expected)
    for guess in result.classes:
        assert guess.probability == pytest.approx(expected[guess.name], rel=1e-5)
    assert sorted(result.classes, key=lambda guess: -guess.probability) == list(result.classes)


def test_the_transform_of_the_evaluation_is_applied(network: ResidualNetwork, tmp_path: Path) -> None:
    from torchvision.transforms.v2 import functional as images

    path = write_image(tmp_path / "a.png", 30, 50)
    (result,) = predict(network, path, top_k=1)
    resized = images.resize(read_image(path), [20], antialias=True)
    cropped = images.center_crop(resized, [16, 16])
    assert result.classes[0].probability == pytest.approx(max(probabilities(network, cropped)), rel=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (64, 16), (5, 200)])
def test_another_size_is_brought_to_the_network_s(size: tuple[int, int], tmp_path: Path) -> None:
    prepare = InferenceTransform(Preprocess(3, "", (0.5,) * 3, (0.5,) * 3), (12, 16))
    result = prepare(write_image(tmp_path / "a.png", *size)).pixels
    assert result is not None
    assert result.shape == (3, 12, 16)


def test_the_middle_is_kept(tmp_path: Path) -> None:
    """An image white in its middle third and black outside: the crop is white."""
    pixels = torch.zeros(16, 48, 3, dtype=torch.uint8)
    pixels[:, 16:32] = 255
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    result = InferenceTransform(Preprocess(3, "", (0.5,) * 3, (0.5,) * 3), (16, 16))(tmp_path / "a.png").pixels
    assert result is not None
    assert int(result.min()) == 255


def test_grayscale_networks_read_color(tmp_path: Path) -> None:
    torch.manual_seed(0)
    grey = create_model("resnet20_cifar", num_classes=2, in_channels=1, image_size=(8, 8))
    assert isinstance(grey, ResidualNetwork)
    grey.preprocess = Preprocess(1, "", (0.5,), (0.5,))
    (result,) = predict(grey, write_image(tmp_path / "a.png", 8, 8))
    assert [guess.name for guess in sorted(result.classes, key=lambda guess: guess.name)] == ["class 0", "class 1"]


def test_the_batch_changes_nothing_but_the_pace(network: ResidualNetwork, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{index}.png", 20 + index, 33, index) for index in range(7)]
    one, many = predict(network, paths, batch_size=1), predict(network, paths, batch_size=4)
    assert [each.path for each in many] == [str(path) for path in paths]
    for left, right in zip(one, many, strict=True):
        assert [guess.name for guess in left.classes] == [guess.name for guess in right.classes]
        assert left.classes[0].probability == pytest.approx(right.classes[0].probability, rel=1e-5)
    assert len({each.classes[0].probability for each in many}) == 7


def test_what_cannot_be_read_is_a_row(network: ResidualNetwork, tmp_path: Path) -> None:
    good = write_image(tmp_path / "b.png", 16, 16)
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "c.png").write_bytes(good.read_bytes()[:60])
    predictions = predict(network, [tmp_path, tmp_path / "gone.png"])
    assert [Path(each.path).name for each in predictions] == ["a.jpg", "b.png", "c.png", "gone.png"]
    assert ["0 bytes" in predictions[0].error, predictions[1].error, bool(predictions[2].error)] == [True, "", True]
    assert predictions[3].error == "no such file"
    assert not any(each.path in each.error for each in predictions)
    assert predictions[1].to_dict().keys() == {"path", "classes"}
    assert predictions[0].to_dict() == {"path": str(tmp_path / "a.jpg"), "classes": [], "error": predictions[0].error}


def test_an_output_that_is_no_number_is_a_row_with_its_error(network: ResidualNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        network.fc.bias.fill_(torch.nan)
    (row,) = predict(network, write_image(tmp_path / "a.png", 8, 8))
    assert row.classes == ()
    assert row.error.startswith("the network's output is not finite")


def test_a_file_of_weights_and_the_network_give_the_same_result(network: ResidualNetwork, tmp_path: Path) -> None:
    save_weights(tmp_path / "model.safetensors", network)
    path = write_image(tmp_path / "a.png", 16, 16)
    assert predict(tmp_path / "model.safetensors", path) == predict(network, str(path))


def test_a_network_keeps_its_mode(network: ResidualNetwork, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 16, 16)
    expected = predict(network, path)
    network.train()
    assert predict(network, path) == expected
    assert network.training


def test_top_k_is_at_most_the_number_of_classes(network: ResidualNetwork, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 16, 16)
    assert [len(predict(network, path, top_k=k)[0].classes) for k in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert isinstance(predict(network, path)[0].classes[0], ClassScore)


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [Path(item.path).name for item in list_inputs([tmp_path])] == ["b.png", "a.JPG"]


def test_mistakes_are_reported(network: ResidualNetwork, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 16, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"images .* in .*empty"):
        predict(network, tmp_path / "empty")
    with pytest.raises(ValueError, match="at least one image"):
        predict(network, [])
    with pytest.raises(ValueError, match="top_k of at least 1"):
        predict(network, path, top_k=0)
    with pytest.raises(ValueError, match="batch_size of at least 1"):
        predict(network, path, batch_size=0)
    with pytest.raises(ValueError, match="device"):
        predict(network, path, device="gpu")
    network.preprocess = None
    with pytest.raises(ValueError, match="preprocessing"):
        predict(network, path)


def test_a_temperature_divides_the_logits_and_changes_no_prediction(network: ResidualNetwork, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{index}.png", 16, 16, index) for index in range(5)]
    network.preprocess = Preprocess(3, "", PREPROCESS.mean, PREPROCESS.std)
    plain = predict(network, paths, top_k=3)
    network.temperature = 2.5
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    for path, before, result in zip(paths, plain, predict(network, paths, top_k=3), strict=True):
        with torch.no_grad():
            logits = network(((read_image(path) / 255 - mean) / std)[None])[0]
        expected = dict(zip(("ant", "bee", "cat"), (logits / 2.5).softmax(0).tolist(), strict=True))
        for guess in result.classes:
            assert guess.probability == pytest.approx(expected[guess.name], rel=1e-5)
        assert [guess.name for guess in result.classes] == [guess.name for guess in before.classes]
        assert result.classes[0].probability < before.classes[0].probability
    assert predict(network, paths, top_k=3, use_temperature=False) == plain


def test_the_temperature_travels_with_the_weights(network: ResidualNetwork, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 16, 16)
    save_weights(tmp_path / "warm.safetensors", network, {"temperature": {"value": 3.0}})
    network.temperature = 3.0
    assert predict(tmp_path / "warm.safetensors", path) == predict(network, path)


def test_a_damaged_jpeg_is_predicted_with_its_warning(
    network: ResidualNetwork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "whole.jpg", 200, 200)
    content = bytearray((tmp_path / "whole.jpg").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(range(100, 160))
    (tmp_path / "damaged.jpg").write_bytes(content)
    damaged, whole = predict(network, tmp_path, top_k=1)
    assert damaged.warning.startswith("Corrupt JPEG data: ")
    assert damaged.to_dict()["warning"] == damaged.warning
    assert len(damaged.classes) == 1
    assert whole.warning == ""
    assert "warning" not in whole.to_dict()
    assert capfd.readouterr().err == ""


def test_images_in_memory_are_predicted_like_their_files(network: ResidualNetwork, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 30, 50)
    pixels = read_image(path)
    (expected,) = predict(network, path)
    with Image.open(path) as image:
        predictions = predict(network, [path.read_bytes(), image, pixels, pixels.permute(1, 2, 0).numpy()])
    assert [prediction.path for prediction in predictions] == ["#0", "#1", "#2", "#3"]
    assert all(prediction.classes == expected.classes for prediction in predictions)


def test_the_limits_apply_to_each_image(network: ResidualNetwork, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "a.png", 30, 50), write_image(tmp_path / "b.png", 20, 20)]
    large, small = predict(network, paths, limits=DecodeLimits(max_pixels=1000))
    assert "at most 1,000 pixels; got: 30x50" in large.error
    assert small.error == ""
