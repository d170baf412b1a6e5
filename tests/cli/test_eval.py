"""`reslab eval`: runs, several runs, and weights with a network's name."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

KEYS = {"top1", "top5", "loss", "num_samples", "num_correct"}


def test_the_promised_keys_are_those_the_run_kept(command: Command, trained: Path) -> None:
    found = command("eval", trained, "--json").value
    assert set(found) == KEYS
    kept = json.loads((trained / "run.json").read_text())["result"]
    assert found == {name: kept[name] for name in KEYS}
    assert found["top1"] == found["num_correct"] / found["num_samples"]


def test_another_split(command: Command, trained: Path) -> None:
    assert command("eval", trained, "--split", "train", "--json").value["num_samples"] == 1438


def test_a_run_with_itself_is_itself(command: Command, trained: Path) -> None:
    one, two = command("eval", trained, "--json").value, command("eval", trained, trained, "--json").value
    assert two["num_correct"] == one["num_correct"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_weights_alone_with_data(command: Command, trained: Path) -> None:
    found = command("eval", trained / "model.safetensors", "--data", "digits", "--json").value
    assert found == command("eval", trained, "--json").value


def test_a_network_by_name_with_weights_and_numbers(command: Command, trained: Path) -> None:
    preprocess = json.loads((trained / "run.json").read_text())["data"]["preprocess"]
    words = ("eval", "--model", "resnet20_cifar", "--pretrained", trained / "model.safetensors", "--data", "digits")
    right = command(*words, "--mean", *preprocess["mean"], "--std", *preprocess["std"], "--json").value
    assert right == command("eval", trained, "--json").value
    wrong = command(*words, "--mean", "9", "--std", "1", "--json").value
    assert wrong["num_correct"] < right["num_correct"]


def test_a_person_is_told(command: Command, trained: Path) -> None:
    shown = command("eval", trained).out
    assert "of 359 right" in shown
    assert "test" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--model NAME"),
        (("RUN", "--model", "resnet20_cifar"), "--model NAME"),
        (("RUN", "--split", "tset"), "test"),
        (("RUN", "--data", "digitz"), "digits"),
        (("RUN", "--pretrained", "x.pth"), "its own weights"),
        (("RUN", "--set", "model.mix=none"), "--model"),
        (("RUN", "--mean", "1", "2", "3"), "1 numbers as mean"),
        (("nowhere",), "nowhere"),
        (("--model", "resnet20_cifar", "--data", "digits"), "--pretrained"),
        (("--model", "resnet20_cifar", "--data", "digits", "--set", "batch=3"), "model.batch=3"),
    ],
)
def test_mistakes_are_told(command: Command, trained: Path, words: tuple[str, ...], said: str) -> None:
    outcome = command("eval", *(trained if word == "RUN" else word for word in words))
    assert outcome.code == 1
    assert outcome.out == ""
    assert said in outcome.err
    assert "not foreseen" not in outcome.err


def test_views_predictions_and_calibration(command: Command, trained: Path, tmp_path: Path) -> None:
    found = command(
        "eval", trained, "--views", "flip", "--predictions", tmp_path / "a.csv", "--calibration", "--json"
    ).value
    assert set(found) == KEYS | {"ece", "mce", "reliability"}
    assert 0 <= found["ece"] <= found["mce"] <= 1
    assert sum(one["num_samples"] for one in found["reliability"]) == 359
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 360
    assert lines[0].startswith("name,class,predicted,probability,p(0)")
    assert "temperature" in command("eval", trained, "--calibration").out
    assert command("eval", trained, "--views", "flop").err.count("nearest: 'flip'") == 1
    assert ".csv or .npz" in command("eval", trained, "--predictions", "a.txt").err
