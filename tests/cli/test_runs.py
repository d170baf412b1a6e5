"""`reslab runs` with several runs and an HTML page, and `reslab lr-find` with its plot."""

import html
import json
import os
import shlex
import shutil
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image

from reslab.cli.app import main
from reslab.cli.train import train_rows
from reslab.training.evaluation.prediction_files import load_correctness
from reslab.training.run import Run
from tests.cli.conftest import Command


def _twin(trained: Path, tmp_path: Path) -> Path:
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("run.json", "log.jsonl"):
        shutil.copy(trained / name, twin / name)
    return twin


def test_named_runs_keep_their_order(command: Command, trained: Path, tmp_path: Path) -> None:
    twin = _twin(trained, tmp_path)
    value = command("runs", twin, trained, tmp_path, "--json").value
    assert [row["name"] for row in value] == ["twin", "digits"]
    assert command("runs", trained, "--json").value[0]["name"] == "digits"


def test_a_page_of_several_runs(command: Command, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    outcome = command("runs", trained, _twin(trained, tmp_path), "--html", page)
    assert outcome.code == 0
    assert str(page) in outcome.err
    text = page.read_text(encoding="utf-8")
    assert "digits and twin" in text
    assert text.count("<svg") == 4


def test_runs_of_one_model_with_overrides_are_distinguished(command: Command, trained: Path, tmp_path: Path) -> None:
    twin, page = tmp_path / "twin", tmp_path / "page.html"
    shutil.copytree(trained, twin)
    run = Run(twin)
    arch = {**run.metadata["model"]["arch"], "norm_momentum": 0.2}
    run.update(model={**run.metadata["model"], "arch": arch})
    name = "resnet20_cifar:depths=1,1,1:norm_momentum=0.2"
    assert command("runs", trained, twin, "--html", page).out.count(name) == 1
    assert page.read_text(encoding="utf-8").count(name) == 1
    assert command("analyze", "compare", trained, twin, "--html", page).out.count(name) == 1
    assert page.read_text(encoding="utf-8").count(name) == 1


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a tiny network on the digits, one epoch each."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*TRAIN, "--seeds", "2", "--output", str(folder), "--json"]) == 0
    return folder


TRAIN = ["train", "--epochs", "1", "--set", "model.depths=1,1,1", "--set", "model.widths=16,16,16"]


def test_several_seeds_are_one_command(command: Command, seeds: Path) -> None:
    again = command(*TRAIN, "--seeds", "2", "--resume", "--output", seeds, "--json").value
    assert [run["run"] for run in again["runs"]] == [str(seeds / "seed0"), str(seeds / "seed1")]
    assert (again["folder"], again["seeds"]) == (str(seeds), [0, 1])
    accuracies = [run["top1"] for run in again["runs"]]
    assert again["metrics"]["top1"] == {"mean": fmean(accuracies), "std": stdev(accuracies), "n": 2}
    shown = command(*TRAIN, "--seeds", "2", "--output", seeds)
    assert f"{100 * fmean(accuracies):.2f} ± {100 * stdev(accuracies):.2f} % (n = 2)" in shown.out
    assert "nothing to do" in shown.err
    conflict = command(*TRAIN, "--seeds", "2", "--output", seeds, "--lr", "0.5")
    assert conflict.code == 1
    assert "optimizer.lr" in conflict.err


def test_seeds_are_grouped_with_mean_and_standard_deviation(
    command: Command, seeds: Path, trained: Path, tmp_path: Path
) -> None:
    groups = command("runs", seeds, trained, "--group", "--json").value
    assert [(group["name"], group["seeds"], group["n"]) for group in groups] == [
        (str(seeds), [0, 1], 2),
        (str(trained), [0], 1),
    ]
    values = [run["top1"] for run in command("runs", seeds, "--json").value]
    assert groups[0]["top1"] == {"mean": fmean(values), "std": stdev(values), "n": 2}
    assert groups[1]["top1"]["std"] is None
    shown = command("runs", seeds, trained, "--group").out
    assert f"{100 * stdev(values):.2f} %" in shown
    assert "No winner" in shown  # one run of the other network: no test over seeds, and none over images
    page = tmp_path / "page.html"
    assert command("runs", seeds, trained, "--html", page).code == 0
    assert "No winner" in page.read_text(encoding="utf-8")


def test_two_single_runs_are_compared_image_by_image(command: Command, seeds: Path, trained: Path) -> None:
    shown = command("runs", seeds / "seed0", trained, "--group").out
    assert "exact McNemar test on 359 images" in shown
    correct = [load_correctness(path / "predictions.npz") for path in (seeds / "seed0", trained)]
    assert [sum(one) / 359 for one in correct] == [Run(path).main_metric for path in (seeds / "seed0", trained)]


def test_runs_are_sorted_and_filtered(command: Command, seeds: Path, trained: Path) -> None:
    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in command("runs", seeds, trained, *arguments, "--json").value]

    everything = command("runs", seeds, trained, "--json").value
    ordered = sorted(everything, key=lambda row: row["top1"])
    assert names("--sort", "top1") == [row["name"] for row in ordered]
    assert names("--sort", "-top1") == [row["name"] for row in reversed(ordered)]
    assert names("--sort", "-epochs")[0] == "digits"
    assert names("--filter", "epochs=3") == ["digits"]
    assert names("--filter", "seed=1", "--filter", "model=resnet20*") == ["seed1"]
    assert names("--filter", "optimizer.lr=99") == []
    assert "--filter as KEY=VALUE" in command("runs", seeds, "--filter", "epochs").err
    assert "'epochs'" in command("runs", seeds, "--sort", "epoch").err
    assert "matches" in command("runs", seeds, "--filter", "epochs=77").err


def test_the_columns_fit_the_terminal(command: Command, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = command("runs", seeds).out.splitlines()
    assert " ".join(lines[0].split()) == "run network data recipe epochs lr size seed accuracy best last time"
    [row, _] = command("runs", seeds, "--json").value
    assert (row["epochs"], row["image_size"], row["seed"]) == (1, [8, 8], 0)
    assert row["best_top1"] >= row["last_top1"]
    monkeypatch.setattr("reslab.cli.output.sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    monkeypatch.chdir(seeds.parent)
    shown = command("runs", "tiny")
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    assert {"run", "epochs", "seed", "accuracy"} <= set(shown.out.splitlines()[0].split())
    assert "--json has all" in shown.err


def test_settings_are_chosen_by_the_validation_split(command: Command, trained: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, test_top1, val_top1 in zip(folders, (0.5, 0.25, 0.125), (0.75, 0.875, None), strict=True):
        shutil.copytree(trained, folder)
        run = Run(folder)
        val_metrics = None if val_top1 is None else {"top1": val_top1, "loss": 1.0, "num_samples": 8}
        run.update(result={**(run.result or {}), "top1": test_top1, "val_metrics": val_metrics})
    value = command("runs", tmp_path, "--sort", "-val_top1", "--json").value
    assert [(row["name"], row["top1"], row["val_top1"]) for row in value] == [
        ("b", 0.25, 0.875), ("a", 0.5, 0.75), ("c", 0.125, None)
    ]  # fmt: skip
    lines = command("runs", tmp_path).out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert [row[cells[0].index("val")] for row in cells[1:]] == ["75.00 %", "87.50 %", "–"]
    assert " val " not in command("runs", folders[2]).out.splitlines()[0]
    rows = dict(train_rows(Run(folders[1])))
    assert rows["validation"] == "accuracy 87.50 %, to choose settings by"
    assert "validation" not in dict(train_rows(Run(folders[2])))


def test_a_missing_run_is_an_error(command: Command, trained: Path, tmp_path: Path) -> None:
    refused = command("runs", trained, tmp_path / "nowhere", "--json")
    assert refused.code == 1
    assert "nowhere" in refused.value["error"]
    empty = command("runs", tmp_path, "--html", tmp_path / "page.html")
    assert empty.code == 1
    assert not (tmp_path / "page.html").exists()


def test_a_learning_rate_is_suggested_and_plotted(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "rates.html"
    arguments = ("lr-find", "digits", "--num-steps", "60", "--device", "cpu")
    value = command(*arguments, "--html", page, "--json").value
    assert value["verdict"] == "clear"
    assert value["fall_lr"] < value["suggested_lr"] < value["rise_lr"]
    assert value["recipe_lr"] == 0.1
    assert len(value["lrs"]) == len(value["losses"]) == len(value["smoothed_losses"])
    assert (value["batch_size"], value["html"]) == (64, str(page))
    assert "<svg" in page.read_text(encoding="utf-8")
    assert "at least 10 steps" in command("lr-find", "digits", "--num-steps", "2", "--json").value["error"]


def test_the_next_command_trains_with_the_same_options_and_the_suggested_rate(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setting = "model.stem=conv3(8) norm act"
    given = ("--data", "digits", "--seed", "3", "--batch-size", "32", "--set", setting, "--set", "optimizer.lr=0.01")
    printed = command("lr-find", *given, "--device", "cpu", "--num-steps", "60", "--html", "rates.html")
    last_line = printed.out.splitlines()[-1]
    words = shlex.split(last_line)
    assert words[:2] == ["reslab", "train"]
    lr = words[words.index("--lr") + 1]
    assert f"learning rate  {lr}" in printed.out
    assert last_line in html.unescape((tmp_path / "rates.html").read_text(encoding="utf-8"))
    assert command(*words[1:], "--epochs", "1", "--output", tmp_path / "run", "--json").code == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (run["recipe"]["optimizer"]["lr"], run["recipe"]["batch_size"], run["seed"]) == (float(lr), 32, 3)
    assert run["model"]["arch"]["stem"] == "conv3(8) norm act"


def test_columns_task_and_a_config_file_are_those_of_train(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        Image.new("L", (8, 8), 6 * number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{number / 2 + 0.5},{'train' if number < 32 else 'test'}" for number in range(40)]
    (tmp_path / "sizes.csv").write_text("\n".join(["photo,red,part", *rows]))
    (tmp_path / "small.toml").write_text("batch_size = 16\n[model]\ndepths = [1, 1, 1]\n")
    columns = ("--task", "regression", "--image-column", "photo", "--label-column", "red", "--split-column", "part")
    given = ("sizes.csv", *columns, "-c", "small.toml", "--num-images", "24", "--device", "cpu")
    printed = command("lr-find", *given, "--num-steps", "20", "--html", "rates.html", "--json")
    assert printed.code == 0, printed.err
    assert printed.value["batch_size"] == 16
    words = shlex.split(printed.value["next"])
    assert words[:2] in (["reslab", "train"], ["reslab", "lr-find"])
    assert set(given) - {"-c"} <= set(words)
    assert command("lr-find", *given, "--task", "classification", "--json").code == 1


def test_without_a_clear_suggestion_the_next_command_repeats_the_test_with_other_rates(
    command: Command, tmp_path: Path
) -> None:
    page = ("--html", tmp_path / "rates.html")
    too_low = command("lr-find", "digits", "--max-lr", "1e-3", "--num-steps", "40", "--device", "cpu", *page)
    assert "No clear suggestion" in too_low.out
    assert too_low.out.splitlines()[-1] in (
        "reslab lr-find digits --num-steps 40 --device cpu --max-lr 0.01",
        "reslab train digits --device cpu",
    )
    too_high = command("lr-find", "digits", "--min-lr", "1e30", "--max-lr", "1e33", "--device", "cpu", *page)
    assert too_high.out.splitlines()[-1] == "reslab lr-find digits --max-lr 1e+33 --device cpu --min-lr 1e+27"


def test_a_copied_run_whose_data_is_gone_names_the_option(command: Command, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    run = Run(copy)
    run.update(data={**run.metadata["data"], "requested": str(tmp_path / "photos")})
    for arguments in (["eval", copy], ["export", copy, "--to", "onnx", "--output", tmp_path / "out"]):
        outcome = command(*arguments)
        assert outcome.code == 1
        assert "photos, which does not exist here" in outcome.err
        assert "--data PATH" in outcome.err
    assert command("eval", copy, "--data", "digits").code == 0


@pytest.mark.filterwarnings("always:.*has not ended:UserWarning")
def test_an_interrupted_run_is_evaluated_with_its_best_weights_so_far(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "model.safetensors").unlink()
    Run(copy).update(result=None)
    outcome = command("eval", copy, "--json")
    assert outcome.code == 0
    assert outcome.value["top1"] == Run(trained).main_metric  # without a validation split they are the last
    assert f"warning: {copy} has not ended: these are its best weights so far" in outcome.err
