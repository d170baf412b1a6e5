"""The GPU benchmark: its steps are those of training, and every part of it runs on a CPU with tiny settings."""

import importlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checks import CHECKS, NEEDS_CUDA, make_images
from graph_training import GraphTraining
from part_result import PartResult, Status

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import TrainLoader
from reslab.data.rng import step_seed, temporary_seed
from reslab.data.transforms.normalize import compute_mean_image, encode_mean_image
from reslab.nn.factory import create_model
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipes import find_recipe

ROOT = Path(__file__).parents[2]
RECIPE = find_recipe("he2015-cifar")


@pytest.mark.parametrize("per_pixel", [True, False])
def test_a_graph_trains_on_the_batches_of_the_loader_and_takes_the_steps_of_sgd(per_pixel: bool) -> None:
    images, labels = make_images(96)
    data = TensorImageDataset(images, labels)
    mean_image = encode_mean_image(compute_mean_image(data)) if per_pixel else ""
    preprocess = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), mean_image=mean_image)
    recipe = replace(RECIPE, batch_size=32, train_transform="pad(2) crop(16) flip")
    training = GraphTraining("plain20_cifar", 5, recipe, data, preprocess, 4, torch.float64)
    with temporary_seed(step_seed(5, -1)):
        model = create_model("plain20_cifar", num_classes=4).double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = TrainLoader(data, 32, recipe.train_transform, preprocess, 5, "cpu")
    losses = []
    for step, (x, y, _) in zip(range(3), loader.iter_from(), strict=False):
        training.advance(1, 0.1)
        training._start -= 32  # look at the batch of this step again
        found_x, found_y = training.next_batch()
        training._start += 32
        assert torch.equal(found_x, x.double()), step
        assert torch.equal(found_y, y), step
        loss = torch.nn.functional.cross_entropy(model(x.double()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for expected, result in zip(model.parameters(), training.parameters, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)
    assert training.read_averages()["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-9)


def test_a_graph_refuses_a_transform_that_alternates_between_epochs() -> None:
    images, labels = make_images(96)
    recipe = replace(RECIPE, batch_size=32, train_transform="alternating-flip")
    preprocess = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    with pytest.raises(ValueError, match="got: alternating-flip; use flip"):
        GraphTraining("plain20_cifar", 5, recipe, TensorImageDataset(images, labels), preprocess, 4)


def test_a_result_is_whole_after_every_row(tmp_path: Path) -> None:
    result = PartResult(tmp_path / "part.json")
    result.add("table", candidate="ours", rate=1234.5)
    result.set_line("1,234 images/s")
    actual = json.loads((tmp_path / "part.json").read_text())
    assert (actual["status"], actual["line"]) == (Status.RUNNING, "1,234 images/s")
    assert actual["tables"] == {"table": [{"candidate": "ours", "rate": 1234.5}]}


def test_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    script = importlib.import_module("run")
    assert script.old_packages(script.NEEDED) == []
    versions = {"torch": "2.11.0+cu130", "filelock": "3.29.9", "scipy": "2.0"}
    monkeypatch.setattr(script, "version", lambda name: versions.get(name, "99"))
    assert script.old_packages(script.NEEDED) == ["filelock 3.29.9, required 3.30"]


def test_wheels_come_before_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "filelock-99-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("filelock.py", "VERSION = 99")
    python, code = tmp_path / "python", "import filelock; print(filelock.VERSION)"
    python.write_text(f"#!/bin/bash\n[ $1 = -m ] || set -- -c '{code}'\nexec {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "WHEELS": str(wheel.parent)}
    command = [ROOT / "benchmarks" / "gpu.sh"]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "99\n"


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(CHECKS.keys() - set(NEEDS_CUDA)))
@pytest.mark.filterwarnings("default")
def test_the_functions_for_a_gpu_on_a_cpu(name: str, tmp_path: Path) -> None:
    CHECKS[name](torch.device("cpu"), tmp_path)


@pytest.mark.soak
def test_every_part_runs_with_tiny_settings(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = [ROOT / "benchmarks" / "gpu.sh", "--small", "--output", tmp_path, "--minutes", "20"]
    subprocess.run(command, env=environment, check=True, timeout=1500)
    for part in ("tests", "d2l", "resnet50", "fast", "detection", "fig6"):
        result = json.loads((tmp_path / f"{part}.json").read_text())
        assert (result["status"], bool(result["line"])) == (Status.DONE, True), part
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("| done |") == 6
