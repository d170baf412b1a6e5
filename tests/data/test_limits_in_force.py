"""The limits on decoding hold wherever images are read: datasets, their caches, loaders, and `--max-pixels`."""

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reslab.cli.app import main
from reslab.data.decode import decode_image
from reslab.data.decode_limits import DEFAULT_LIMITS, DecodeLimits, ImageError, current_limits, use_limits
from reslab.data.registry import open_dataset
from reslab.training.run_data import reopen_data
from reslab.training.train import train as train_run

SMALL = DecodeLimits(max_pixels=1000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images of 20x20 in two classes, and one of 40x40."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for number in range(9):
        side = 40 if number == 8 else 20
        path = tmp_path / "data" / "train" / ("ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture
def shard(folder: Path) -> Path:
    """The same images in a shard."""
    path = folder.parent / "shards" / "train-000.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.add(file, f"{file.stem}.png")
            label = path.parent / f"{file.stem}.cls"
            label.write_text(str("ab".index(file.parent.name)))
            archive.add(label, label.name)
            label.unlink()
    return path.parent


def test_limits_hold_in_the_block_and_are_those_of_the_process_again_after_it(folder: Path) -> None:
    large = folder / "train" / "a" / "8.png"
    assert current_limits() is DEFAULT_LIMITS
    with use_limits(SMALL):
        with pytest.raises(ImageError, match=r"at most 1,000 pixels; got: 40x40, 1,600 pixels") as caught:
            decode_image(large)
        assert caught.value.limit == "max_pixels"
        assert decode_image(large, limits=DEFAULT_LIMITS).pixels.shape == (3, 40, 40)
    assert decode_image(large).pixels.shape == (3, 40, 40)


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_a_dataset_is_scanned_within_the_limits_whatever_an_earlier_scan_cached(
    request: pytest.FixtureRequest, kind: str
) -> None:
    path = request.getfixturevalue(kind)
    assert len(open_dataset(path, val_fraction=0.25).splits["train"].labels) == 7
    for _ in range(2):
        with use_limits(SMALL), pytest.raises(ValueError, match=r"1,600 pixels"):
            open_dataset(path, val_fraction=0.25)
        assert len(open_dataset(path, val_fraction=0.25).splits["train"].labels) == 7


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_a_dataset_keeps_its_limits_in_another_process(request: pytest.FixtureRequest, kind: str) -> None:
    path = request.getfixturevalue(kind)
    with use_limits(DecodeLimits(max_pixels=1600)):
        data = open_dataset(path, val_fraction=0.25)
    for dataset in data.splits.values():
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy.limits == copy.subset([0]).limits == DecodeLimits(max_pixels=1600)


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"])
def test_pillows_own_limit_does_not_contradict_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_format: str
) -> None:
    """Pillow warns above MAX_IMAGE_PIXELS (89 million) and raises above twice as many (178 million)."""
    path = tmp_path / "image"
    for mode in ("RGB", "L", "P"):
        if image_format == "PPM" and mode == "P":
            continue
        Image.new(mode, (50, 40), 7).save(path, image_format)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert decode_image(path).pixels.shape == (3, 40, 50)
        monkeypatch.undo()


def test_an_image_of_more_than_178_million_pixels_is_read_if_allowed(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("1", (14_000, 13_000)).save(path)
    with pytest.raises(ImageError, match="at most 120,000,000 pixels; got: 13000x14000, 182,000,000 pixels"):
        decode_image(path, 1)
    assert decode_image(path, 1, limits=DecodeLimits(max_pixels=182_000_000)).pixels.shape == (1, 13_000, 14_000)


def test_the_option_holds_in_data_check_and_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--html", str(tmp_path / "page.html"), "--json"]
    assert main(["data", "check", *arguments, "--max-pixels", "1000"]) == 1
    assert "1,600 pixels" in capsys.readouterr().out
    assert main(["data", "check", *arguments]) == 0
    capsys.readouterr()
    output = ["--output", str(tmp_path / "run")]
    train = [
        "train",
        "--model",
        "resnet20_cifar",
        "--data",
        str(folder),
        "--epochs",
        "1",
        "--batch-size",
        "4",
        *output,
        "--json",
    ]
    assert main([*train, "--max-pixels", "1000"]) == 1
    assert "1,600 pixels" in json.loads(capsys.readouterr().out)["error"]


def test_a_run_records_the_option_and_opens_its_data_within_it_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    recipe = ["--batch-size", "4", "--set", "model.depths=1,1,1", "--size", "32"]
    train = ["train", "--model", "resnet20_cifar", "--data", str(folder), "--epochs", "1", "--output", str(run)]
    assert main([*train, *recipe, "--max-pixels", "1600"]) == 0
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    assert data["max_pixels"] == 1600
    assert reopen_data(data).splits["train"].limits.max_pixels == 1600
    assert current_limits() is DEFAULT_LIMITS
    with use_limits(SMALL), pytest.raises(ValueError, match=r"1,600 pixels"):  # the limits of the process come first
        reopen_data(data)
    with use_limits(DecodeLimits(max_pixels=2000)):
        assert reopen_data(data).splits["train"].limits.max_pixels == 2000
    capsys.readouterr()
    assert main(["train", "--output", str(run), "--resume", "--max-pixels", "2000", "--json"]) == 1
    assert "max_pixels as in the run, 1600; got: 2000" in json.loads(capsys.readouterr().out)["error"]
    assert main(["train", "--output", str(run), "--resume", "--max-pixels", "1600", "--json"]) == 0
    assert main(["train", "--output", str(run), "--resume", "--json"]) == 0


def test_a_run_without_the_option_is_not_resumed_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("resnet20_cifar", epochs=1, overrides={"model.depths": "1,1,1"}, output=tmp_path / "run")
    assert run.metadata["data"]["max_pixels"] is None
    capsys.readouterr()
    assert main(["train", "--output", str(run.path), "--resume", "--max-pixels", "2000", "--json"]) == 1
    assert "max_pixels as in the run, 120000000; got: 2000" in json.loads(capsys.readouterr().out)["error"]


def test_the_option_holds_in_analyses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", "gradients", "resnet20_cifar", "--data", str(folder), "--json"]
    assert main([*arguments, "--max-pixels", "1000"]) == 1
    assert "1,600 pixels" in json.loads(capsys.readouterr().out)["error"]
    assert current_limits() is DEFAULT_LIMITS


def test_the_option_reaches_the_processes_of_a_study(tmp_path: Path) -> None:
    script = tmp_path / "study.sh"
    study = ["study", "he2015/degradation", "--rows", "plain-20", "--store", str(tmp_path / "store")]
    assert main([*study, "--slurm", str(script)]) == 0
    assert "--max-pixels" not in script.read_text(encoding="utf-8")
    assert main([*study, "--max-pixels", "5000", "--slurm", str(script)]) == 0
    assert " --max-pixels 5000 --task " in script.read_text(encoding="utf-8")
