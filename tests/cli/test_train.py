"""`reslab train`: JSON keys, overrides, resuming, and errors before anything is written."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

SMALL = ("--set", "model.depths=1,1,1", "--set", "model.widths=16,16,16", "--epochs", "1")


def test_the_promised_keys(command: Command, tmp_path: Path) -> None:
    outcome = command("train", *SMALL, "--output", tmp_path / "run", "--json")
    assert outcome.code == 0
    along = {"compute_images_per_second", "waiting_fraction", "train_loss_running", "train_top1_running"}
    promised = {
        "run",
        "task",
        "metrics",
        "val_metrics",
        "top1",
        "top5",
        "loss",
        "train_seconds",
        "images_per_second",
        "steps",
        "stop_reason",
    }
    assert set(outcome.value) == promised | along
    assert outcome.value["metrics"]["top1"] == outcome.value["top1"]
    assert outcome.value["val_metrics"] is None
    assert outcome.value["run"] == str(tmp_path / "run")
    assert outcome.value["steps"] == 22
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "log.jsonl",
        "model.safetensors",
        "predictions.npz",
        "checkpoint",
        "report.html",
    }


def test_the_paths_are_printed(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "run"
    outcome = command("train", "digits", *SMALL, "--output", path)
    assert outcome.code == 0
    assert str(path / "report.html") in outcome.out
    assert f"reslab predict {path}" in outcome.out
    assert "1/1 " in outcome.err
    assert "are dropped" in outcome.err  # the incomplete last batch


def test_familiar_options_reach_the_recipe_and_the_network(command: Command, tmp_path: Path) -> None:
    arguments = ("--model", "resnet20_cifar", "-b", "128", "--lr", "0.05", "--seed", "3", "-j", "0", "--device", "cpu")
    path = tmp_path / "run"
    command(
        "train", *arguments, *SMALL, "--set", "optimizer.momentum=0.8", "--set", "model.merge=none", "--output", path
    )
    facts = json.loads((path / "run.json").read_text())
    assert facts["recipe"]["batch_size"] == 128
    assert facts["recipe"]["optimizer"]["lr"] == 0.05
    assert facts["recipe"]["optimizer"]["momentum"] == 0.8
    assert facts["recipe"]["duration"] == "1 epoch"
    assert facts["model"]["arch"]["merge"] == "none"
    assert facts["seed"] == 3


def test_a_network_of_the_users_own_is_trained_and_evaluated(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_layers.py").write_text(
        "from torch import nn\n\n\ndef make(width: int = 8) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model, run = ("--model", "two_layers:make"), tmp_path / "run"
    outcome = command("train", *model, "--set", "model.width=4", "--epochs", "1", "--output", run, "--json")
    assert outcome.code == 0, outcome.out
    assert command("eval", run, *model, "--json").value["top1"] == outcome.value["top1"]
    assert "'widht'" in command("train", *model, "--set", "model.widht=4", "--output", tmp_path / "other").err


def test_a_run_goes_on(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = command("train", *SMALL, "--output", path, "--json").value
    again = command("train", "--output", path, "--resume", "--epochs", "2", "--json")
    assert again.code == 0
    assert "resumed at step 22 of 44" in again.err
    assert again.value["steps"] == 2 * first["steps"]


def test_resume_with_another_seed_fails(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command("train", *SMALL, "--output", path)
    outcome = command("train", "--output", path, "--resume", "--seed", "5")
    assert outcome.code == 1
    assert "seed" in outcome.err


def test_a_folder_that_holds_a_run_is_left_alone(command: Command, trained: Path) -> None:
    before = (trained / "run.json").read_bytes()
    outcome = command("train", *SMALL, "--output", trained)
    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert (trained / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "resnet5"), "resnet50"),
        (("--recipe", "he2015cifar"), "he2015-cifar"),
        (("--data", "digit"), "digits"),
        (("digits", "--data", "mnist"), "one dataset"),
        (("--set", "optimizer.lrr=0.1"), "optimizer.lr"),
        (("--set", "optimizer.lr=fast"), "a number"),
        (("--set", "model.merge=ad"), "add"),
        (("--set", "batch"), "KEY=VALUE"),
        (("--lr", "0.1", "--set", "optimizer.lr=0.2"), "one value of optimizer.lr"),
        (("--batch-size", "5000"), "1438"),
        (("--device", "cuda:99"), "device"),
        (("--val-fraction", "1.5"), "between 0 and 1"),
        (("--resume",), "--output"),
        (("--pretrained", "nowhere.pth"), "nowhere.pth"),
        (("--epochs", "0"), "duration above 0"),
    ],
)
def test_mistakes_are_errors_and_nothing_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("train", *arguments)
    assert outcome.code == 1
    assert expected in outcome.err
    assert "unexpected error" not in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18", "digits"), "--model resnet18 digits"),
        (("digits", "--model", "resnet20_cifar", "--pretrained", "README.nowhere"), "no such file"),
        (("digits", "--output", "FILE/run"), "is a file"),
        (("digits", "--output", "/proc/nothing/run"), "an output folder that can be written"),
        (("digits", "--set", "warmup=1 epoch"), "schedule.warmup, ema.warmup"),
        (("digits", "--set", "seed=1"), "the option --seed"),
    ],
)
def test_near_misses_are_reported(command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").touch()
    given = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    output = [] if "--output" in given else ["--output", str(tmp_path / "run")]
    outcome = command("train", *given, *output)
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "run").exists()
