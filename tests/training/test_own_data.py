"""Any module, data set, tensors and loss; folders of photographs; what is chosen where nothing was asked for."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from reslab.data.rng import temporary_seed
from reslab.nn.factory import create_model
from reslab.runtime.device import choose_device, choose_num_threads, has_fast_bf16, limit_threads
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.run_report import cost_table
from reslab.training.train import train


class Stripes(Dataset[tuple[Tensor, int]]):
    """Horizontal and vertical stripes, as floats."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= self.num:
            raise IndexError(index)
        image = torch.zeros(1, 8, 8)
        image[:, index // 2 % 2 :: 2] = 1
        return (image if index % 2 == 0 else image.mT), index % 2


class OwnNetwork(nn.Module):
    """A module that is none of ours, whose forward looks at values, so that its cost cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        with temporary_seed(0):  # weights that learn the stripes, whichever tests ran before
            self.conv = nn.Conv2d(1, 8, 3)
            self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x / max(1.0, float(x.abs().max()))).relu().mean(dim=(2, 3))
        return self.head(x)


def own_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.multi_margin_loss(outputs, labels)


def test_a_custom_module_dataset_and_loss(tmp_path: Path, weights_hash: Callable[[Run], str]) -> None:
    settings = {"train_transform": "", "duration": "60 steps", "batch_size": 16}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train(
            OwnNetwork(), Stripes(64), loss=own_loss, overrides=settings, val_fraction=0.25, output=tmp_path / "run",
            on_log=lambda line: None,
        )  # fmt: skip
    assert run.result is not None
    assert run.result["top1"] == 1.0
    assert run.result["top5"] is None
    assert run.metadata["model"]["arch"] is None
    assert "OwnNetwork" in run.metadata["model"]["reference"]
    assert run.metadata["loss"].endswith("own_loss")
    assert run.result["loss"] < 0.5
    assert "OwnNetwork" in run.report_path.read_text()
    with pytest.raises(ValueError, match="loss"):
        train(OwnNetwork(), Stripes(64), output=run.path, resume=True)
    with pytest.raises(ValueError, match="module that the run trained"):
        train(None, Stripes(64), loss=own_loss, output=run.path, resume=True)
    again = train(OwnNetwork(), Stripes(64), loss=own_loss, output=run.path, resume=True, on_log=lambda line: None)
    assert weights_hash(again) == weights_hash(run)
    evaluation = evaluate(run, Stripes(64), split="train", module=OwnNetwork(), loss=own_loss)
    assert (evaluation.num_samples, evaluation.top1) == (48, 1.0)  # as in training, which held out 16


def test_the_cost_of_a_module_that_looks_at_values_is_left_out() -> None:
    assert cost_table(OwnNetwork(), (1, 8, 8)) == []
    table = cost_table(nn.Sequential(nn.Conv2d(1, 4, 3)), (1, 8, 8))
    assert [(layer["params"], layer["macs"]) for layer in table] == [(40, 36 * 36)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve reddish and twelve bluish images of several sizes, in class folders."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = draw.integers(0, 80, (80 + index, 100, 3), dtype=np.uint8)
            pixels[:, :, 2 * (1 - label)] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


# Tiny in every way but the size of the images.
SMALL = {
    "model.depths": "1,1",
    "model.widths": "8,16",
    "model.strides": "1,2",
    "model.stem": "conv7/4(8) norm act maxpool3/2",
}


def test_a_folder_of_photographs(photos: Path, tmp_path: Path, weights_hash: Callable[[Run], str]) -> None:
    arguments: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 6,
        "overrides": SMALL,
        "workers": 0,
        "on_log": lambda line: None,
    }
    run = train("resnet18", photos, output=tmp_path / "run", **arguments)
    assert run.classes == ("blue", "red")
    assert run.metadata["data"]["requested"] == str(photos)
    assert run.metadata["recipe"]["name"] == "photos-scratch"
    assert sum(run.metadata["data"]["num_images"].values()) == 24
    assert run.recipe.precision == ("bf16" if has_fast_bf16(choose_device("auto")) else "float32")
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="does not exist here"):
        evaluate(run)
    assert run.result is not None
    assert evaluate(run, moved).num_samples > 0
    again = train(data=moved, output=run.path, resume=True, workers=1, on_log=lambda line: None)
    assert weights_hash(again) == weights_hash(run)


def test_photographs_start_from_published_weights_or_give_the_reason(photos: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    settings = {"duration": "1 steps", "batch_size": 2, "train_transform": "resize(72) center-crop(64)"}
    run = train(data=photos, overrides=settings, workers=0, output=tmp_path / "run", on_log=lines.append)
    assert run.metadata["model"]["name"] == "resnet18"
    assert run.metadata["pretrained"] is None
    notes = [line["text"] for line in lines if line["kind"] == "message"]
    assert any("starts from random weights" in note for note in notes)


def test_small_images_are_computed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before, cpu = torch.get_num_threads(), torch.device("cpu")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with limit_threads(2):
        assert choose_num_threads((1, 8, 8), cpu) == choose_num_threads((3, 16, 16), cpu) == 1
        assert choose_num_threads((3, 32, 32), cpu) == choose_num_threads((1, 8, 8), torch.device("cuda")) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert choose_num_threads((1, 8, 8), cpu) == 2
    assert torch.get_num_threads() == before


class Flat(nn.Module):
    """A module whose outputs fit two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def small_network(**axes: int) -> nn.Module:
    sizes = {"num_classes": 3, "in_channels": 1, **axes}
    return create_model("resnet20_cifar", depths="1,1,1", widths="4,4,4", stem="conv3(4) norm act", **sizes)


@pytest.mark.parametrize(
    ("module", "loss", "required"),
    [
        (Flat(), None, r"outputs of shape \(N, 3\)"),
        (nn.Conv2d(1, 3, 1), None, r"outputs of shape \(N, 3\).*3, 8, 8\)"),
        (small_network(num_classes=2), None, r"outputs of shape \(N, 3\).*got: \(\d+, 2\)"),
        (small_network(num_classes=1000), None, r"outputs of shape \(N, 3\).*got: \(\d+, 1000\)"),
        (small_network(in_channels=3), None, "^required: images N 3 H W; got: .*; nearest valid: "),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.CrossEntropyLoss(reduction="sum"), None),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), lambda outputs, labels: outputs, "a loss of one number"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), lambda outputs, labels: 0.5, "a loss of one number.*a float"),
    ],
)
def test_a_module_or_loss_that_does_not_fit_is_refused_before_a_folder_is_made(
    module: nn.Module, loss: Any, required: str | None, tmp_path: Path
) -> None:
    data = (torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
    settings = {
        "overrides": {"train_transform": "", "duration": "1 step", "batch_size": 4},
        "on_log": lambda line: None,
    }
    if required is None:
        assert train(module, data, loss=loss, output=tmp_path / "run", **settings).result is not None
        return
    with pytest.raises(ValueError, match=required):
        train(module, data, loss=loss, output=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    if loss is None:
        with pytest.raises(ValueError, match=required):
            evaluate(module, data)


def test_images_left_out_are_reported_by_path(photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "broken.png").write_bytes(b"")
    lines: list[dict[str, Any]] = []
    settings = {**SMALL, "duration": "1 step", "batch_size": 4}
    train(None, photos, overrides=settings, skip_bad_images=True, output=tmp_path / "run", on_log=lines.append)
    assert [line["text"] for line in lines if "skipped: " in line.get("text", "") and "broken.png" in line["text"]]


def test_what_starts_fresh_is_reported_once(
    digits_run: Run, tiny: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 2
    records: list[dict[str, Any]] = []
    options = {**tiny, "epochs": 1, "on_log": records.append, "pretrained": digits_run.weights_path}
    with caplog.at_level("INFO", logger="reslab"):
        train("resnet20_cifar", (images, labels), output=tmp_path / "run", **options)
    notes = [line["text"] for line in records if line["kind"] == "message"]
    assert sum("keep their random initial values" in note for note in notes) == 1
    assert "keep their random initial values" not in caplog.text
