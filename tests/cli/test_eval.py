"""`reslab eval`: a run, an ensemble of runs, and weights with a model name."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from reslab.cli.app import main
from tests.cli.conftest import ONE_BLOCK, Command

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from box_files import write_voc

KEYS = {"top1", "top5", "loss", "num_samples", "num_correct"}


def test_the_promised_keys_are_those_the_run_kept(command: Command, trained: Path) -> None:
    value = command("eval", trained, "--json").value
    assert set(value) == KEYS | {"task", "metrics"}
    assert value["metrics"] == {name: value[name] for name in ("top1", "top5", "loss")}
    kept = json.loads((trained / "run.json").read_text())["result"]
    assert {name: value[name] for name in KEYS} == {name: kept[name] for name in KEYS}
    assert value["top1"] == value["num_correct"] / value["num_samples"]


def test_another_split(command: Command, trained: Path) -> None:
    assert command("eval", trained, "--split", "train", "--json").value["num_samples"] == 1438


def test_ensemble_of_one_run_twice_equals_the_run(command: Command, trained: Path) -> None:
    one, two = command("eval", trained, "--json").value, command("eval", trained, trained, "--json").value
    assert two["num_correct"] == one["num_correct"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_several_runs_are_an_ensemble_of_members(command: Command, trained: Path, with_val: Path) -> None:
    alone = [command("eval", run, "--split", "test", "--json").value for run in (trained, with_val)]
    value = command("eval", trained, with_val, "--split", "test", "--json").value
    assert value["ensemble"]["combination"] == "mean probabilities"
    members = value["ensemble"]["members"]
    assert [member["run"] for member in members] == [str(trained), str(with_val)]
    for member, single in zip(members, alone, strict=True):
        assert {name: member[name] for name in KEYS} == {name: single[name] for name in KEYS}
    shown = command("eval", trained, with_val, "--split", "test").out
    assert "mean probabilities of 2 runs" in shown
    assert all(str(run) in shown for run in (trained, with_val))
    assert "ensemble" not in alone[0]


def test_weights_alone_with_data(command: Command, trained: Path) -> None:
    value = command("eval", trained / "model.safetensors", "--data", "digits", "--json").value
    assert value == command("eval", trained, "--json").value


def test_a_network_by_name_with_weights_and_numbers(command: Command, trained: Path) -> None:
    preprocess = json.loads((trained / "run.json").read_text())["data"]["preprocess"]
    weights = ("--model", "resnet20_cifar", *ONE_BLOCK, "--pretrained", trained / "model.safetensors")
    arguments = ("eval", *weights, "--data", "digits")
    right = command(*arguments, "--mean", *preprocess["mean"], "--std", *preprocess["std"], "--json").value
    assert right == command("eval", trained, "--json").value
    wrong = command(*arguments, "--mean", "9", "--std", "1", "--json").value
    assert wrong["num_correct"] < right["num_correct"]


def test_the_printed_rows(command: Command, trained: Path) -> None:
    shown = command("eval", trained).out
    assert "of 359 correct" in shown
    assert "test" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "--model NAME"),
        (("RUN", "--model", "resnet20_cifar"), "--model NAME"),
        (("RUN", "--split", "tset"), "test"),
        (("RUN", "--data", "digitz"), "digits"),
        (("RUN", "--pretrained", "x.pth"), "its own weights"),
        (("RUN", "--set", "model.merge=none"), "--model"),
        (("RUN", "--mean", "1", "2", "3"), "1 numbers as mean"),
        (("nowhere",), "nowhere"),
        (("--model", "resnet20_cifar", "--data", "digits"), "--pretrained"),
        (("--model", "resnet20_cifar", "--data", "digits", "--set", "batch_size=3"), "model.batch_size=3"),
    ],
)
def test_mistakes_raise_helpful_errors(
    command: Command, trained: Path, arguments: tuple[str, ...], expected: str
) -> None:
    outcome = command("eval", *(trained if word == "RUN" else word for word in arguments))
    assert outcome.code == 1
    assert outcome.out == ""
    assert expected in outcome.err
    assert "unexpected error" not in outcome.err


def test_tta_predictions_and_calibration(command: Command, trained: Path, tmp_path: Path) -> None:
    value = command(
        "eval", trained, "--tta", "flip", "--predictions", tmp_path / "a.csv", "--calibration", "--json"
    ).value
    assert set(value) == KEYS | {"task", "metrics", "ece", "mce", "reliability"}
    assert 0 <= value["ece"] <= value["mce"] <= 1
    assert sum(one["num_samples"] for one in value["reliability"]) == 359
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 360
    assert lines[0].startswith("name,class,predicted,probability,p(0)")
    assert "temperature" in command("eval", trained, "--calibration").out
    assert command("eval", trained, "--tta", "flop").err.count("nearest: 'flip'") == 1
    assert ".csv or .npz" in command("eval", trained, "--predictions", "a.txt").err


def test_a_json_file_of_predictions_is_refused_before_the_evaluation(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslab.training.evaluation.evaluate.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    result = command("eval", trained, "--predictions", "a.json")
    assert "a .csv or .npz file for the predictions of classification; got: a.json" in result.err


@pytest.fixture(scope="session")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that set a fifth of its training images apart; label smoothing makes it underconfident."""
    path = tmp_path_factory.mktemp("runs") / "val"
    options = ("--epochs", "2", "--val-fraction", "0.2", "--set", "label_smoothing=0.3", *ONE_BLOCK)
    assert main(["train", *options, "--output", str(path), "--json"]) == 0
    return path


def test_per_class_metrics(command: Command, trained: Path) -> None:
    value = command("eval", trained, "--per-class", "--json").value
    confusion, classes = value["confusion_matrix"], value["classes"]
    assert [row["name"] for row in classes] == [str(digit) for digit in range(10)]
    for label, row in enumerate(classes):
        assert row["num_samples"] == sum(confusion[label])
        assert row["recall"] == confusion[label][label] / sum(confusion[label])
    assert sum(confusion[label][label] for label in range(10)) == value["num_correct"]
    shown = command("eval", trained, "--per-class").out
    assert "precision" in shown
    assert "mean" in shown.splitlines()[-1]


def test_a_temperature_is_saved_and_then_used(
    command: Command, with_val: Path, image_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(with_val, tmp_path / "run"))
    before = command("predict", run, image_folder, "--json").value
    assert before["temperature"] is None
    expected = command("eval", run, "--save-temperature", "--json")
    assert "saved with the weights" in expected.err
    kept = json.loads((run / "run.json").read_text())["temperature"]
    assert kept["value"] == expected.value["temperature"]
    assert (kept["fit_split"], expected.value["fit_split"]) == ("val", "val")
    after = command("predict", run, image_folder, "--json")
    assert after.value["temperature"] == kept["value"]
    assert "at temperature" in after.err
    pairs = [
        (one["classes"][0], other["classes"][0])
        for one, other in zip(before["predictions"], after.value["predictions"], strict=True)
        if one["classes"]
    ]
    assert all(one["name"] == other["name"] for one, other in pairs)
    assert any(one["probability"] != other["probability"] for one, other in pairs)
    off = command("predict", run, image_folder, "--no-temperature", "--json")
    assert off.value == before
    assert "temperature" not in off.err
    assert "fitted on 287 images (val)" in command("eval", run, "--calibration").out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("RUN",), "never the test set"),
        (("VAL", "VAL"), "one run"),
        (("VAL", "--tta", "flip"), "--tta flip"),
        (("VAL", "--eval-transform", "resize(8)"), "--eval-transform"),
    ],
)
def test_a_temperature_that_cannot_be_saved_is_an_error(
    command: Command, trained: Path, with_val: Path, arguments: tuple[str, ...], expected: str
) -> None:
    places = {"RUN": trained, "VAL": with_val}
    outcome = command("eval", *(places.get(word, word) for word in arguments), "--save-temperature")
    assert outcome.code == 1
    assert expected in outcome.err
    assert "temperature" not in json.loads((with_val / "run.json").read_text())


def test_an_evaluation_has_a_page(command: Command, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert str(page) in command("eval", trained, "--html", page).err
    text = page.read_text()
    for heading in ("Evaluation", "Confusion matrix", "Top losses", "Calibration"):
        assert heading in text
    assert "Training" not in text


def test_a_file_of_detections_needs_no_network(command: Command, tmp_path: Path) -> None:
    data = write_voc(tmp_path / "cells")
    (tmp_path / "detections.json").write_text(
        json.dumps([{"image_id": "04", "category_id": 3, "bbox": [30, 10, 30, 34], "score": 0.5}])
    )
    arguments = ("eval", "--results", tmp_path / "detections.json", "--data", data)
    result = command(
        *arguments, "--per-class", "--json", "--html", tmp_path / "a.html", "--predictions", tmp_path / "a.csv"
    )
    value = result.value
    assert (value["task"], value["num_samples"], value["voc_map"]) == ("detection", 2, pytest.approx(1 / 3))
    assert [row["voc_ap"] for row in value["classes"]] == [0, 0, 1]
    assert "detections.json on val" in (tmp_path / "a.html").read_text()
    again = command("eval", "--results", tmp_path / "a.csv", "--data", data, "--per-class", "--json")
    assert again.value == value
    assert "33.3" in command(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--results", "detections.json"), "add --data FOLDER, or a .json file"),
        (("RUN", "--results", "detections.json", "--data", "x/"), "without a network; got: RUN"),
        (("--results", "detections.json", "--data", "x/", "--tta", "flip"), "without a network; got: --tta flip"),
        (("--results", "detections.json", "--data", "x/"), "x"),
        (("--results", "detections.json", "--data", "digits"), "labels for the task detection in digits"),
    ],
)
def test_a_file_of_detections_with_other_options_is_an_error(
    command: Command, trained: Path, arguments: tuple[str, ...], expected: str
) -> None:
    outcome = command("eval", *(trained if word == "RUN" else word for word in arguments))
    assert outcome.code == 1
    assert expected in outcome.err
    assert "unexpected error" not in outcome.err
