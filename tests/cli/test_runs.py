"""`reslab runs` with several runs and an HTML page, and `reslab lr-find` with its plot."""

import json
import shutil
from pathlib import Path

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
    arguments = ("lr-find", "digits", "--num-steps", "12", "--device", "cpu")
    found = command(*arguments, "--html", page, "--json").value
    assert {
        "suggested_lr",
        "lowest_loss_lr",
        "lrs",
        "losses",
        "smoothed_losses",
        "diverged",
        "batch_size",
        "html",
    } <= set(found)
    assert found["html"] == str(page)
    assert "<svg" in page.read_text(encoding="utf-8")
    assert "at least 10 steps" in command("lr-find", "digits", "--num-steps", "2", "--json").value["error"]
