"""`reslab runs` with several runs and an HTML page, and `reslab lr-find` with its plot."""

import html
import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def _twin(trained: Path, tmp_path: Path) -> Path:
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("run.json", "log.jsonl"):
        shutil.copy(trained / name, twin / name)
    return twin


def test_named_runs_keep_their_order(command: Command, trained: Path, tmp_path: Path) -> None:
    twin = _twin(trained, tmp_path)
    found = command("runs", twin, trained, tmp_path, "--json").value
    assert [row["name"] for row in found] == ["twin", "digits"]
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
    facts = json.loads((twin / "run.json").read_text())
    facts["model"]["arch"]["norm_momentum"] = 0.2
    (twin / "run.json").write_text(json.dumps(facts))
    name = "resnet20_cifar:norm_momentum=0.2"
    assert command("runs", trained, twin, "--html", page).out.count(name) == 1
    assert page.read_text(encoding="utf-8").count(name) == 1
    assert command("analyze", "compare", trained, twin, "--html", page).out.count(name) == 1
    assert page.read_text(encoding="utf-8").count(name) == 1


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
    found = command(*arguments, "--html", page, "--json").value
    assert found["verdict"] == "clear"
    assert found["fall_lr"] < found["suggested_lr"] < found["rise_lr"]
    assert found["recipe_lr"] == 0.1
    assert len(found["lrs"]) == len(found["losses"]) == len(found["smoothed_losses"])
    assert (found["batch_size"], found["html"]) == (64, str(page))
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


def test_without_a_clear_suggestion_the_next_command_repeats_the_test_with_other_rates(
    command: Command, tmp_path: Path
) -> None:
    page = ("--html", tmp_path / "rates.html")
    too_low = command("lr-find", "digits", "--max-lr", "1e-3", "--num-steps", "40", "--device", "cpu", *page)
    assert "no clear suggestion" in too_low.out
    assert too_low.out.splitlines()[-1] in (
        "reslab lr-find digits --num-steps 40 --device cpu --max-lr 0.01",
        "reslab train digits --device cpu",
    )
    too_high = command("lr-find", "digits", "--min-lr", "1e30", "--max-lr", "1e33", "--device", "cpu", *page)
    assert too_high.out.splitlines()[-1] == "reslab lr-find digits --max-lr 1e+33 --device cpu --min-lr 1e+27"
