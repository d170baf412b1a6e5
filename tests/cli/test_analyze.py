"""`reslab analyze`: a question, networks, and the four ways of being told."""

from pathlib import Path

import pytest

from reslab.analysis.registry import ANALYSES
from reslab.report.analyses import RENDERERS
from tests.cli.conftest import Command

TINY = "resnet20_cifar:depths=1,1,1:widths=4,8,8:stem=conv3(4) norm act:image_size=8,8"


def test_without_a_question_all_are_listed(command: Command) -> None:
    assert [row["name"] for row in command("analyze", "--json").value] == list(ANALYSES)
    assert "gradients" in command("analyze").out


def test_an_unknown_question_names_the_nearest(command: Command) -> None:
    outcome = command("analyze", "gradient", TINY)
    assert outcome.code == 1
    assert "'gradients'" in outcome.err


def test_two_networks_on_one_page_and_one_picture(command: Command, tmp_path: Path) -> None:
    page, png = tmp_path / "page.html", tmp_path / "picture.png"
    words = (
        "analyze",
        "gradients",
        TINY,
        f"{TINY}:merge=none",
        "--num-images",
        8,
        "--html",
        page,
        "--png",
        png,
        "--json",
    )
    found = command(*words).value
    assert [answer["model"] for answer in found["results"]] == [TINY, f"{TINY}:merge=none"]
    assert (found["html"], found["png"]) == (str(page), str(png))
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 2
    assert "http" not in text.replace("http-equiv", "")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_terminal_has_the_table_and_the_verdict(command: Command) -> None:
    out = command("analyze", "gradients", TINY, "--num-images", 8).out
    assert "layer3.0" in out
    assert "powers of ten" in out


def test_of_several_who_cannot_be_asked_is_left_out_and_named(command: Command, tmp_path: Path) -> None:
    page, plain = tmp_path / "page.html", f"{TINY}:merge=none"
    words = ("analyze", "scaling", plain, TINY, "--num-images", 8)
    found = command(*words, "--html", page, "--json").value
    assert [answer["model"] for answer in found["results"]] == [TINY]
    assert list(found["skipped"]) == [plain]
    said = f"{plain} was skipped: required: a network with shortcuts"
    assert said in page.read_text(encoding="utf-8")
    assert said in command(*words).out
    nobody = command("analyze", "scaling", plain, plain, "--num-images", 8)
    assert nobody.code == 1
    assert "a network with shortcuts" in nobody.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "at least one run or network"),
        (("resnt20_cifar",), "resnet20_cifar"),
        (("resnet20_cifar:order=full-pre",), "full-preact"),
        (("resnet20_cifar:plain",), "KEY=VALUE"),
        ((TINY, "--set", "statistic=batch"), "statistics"),
        ((TINY, "--num-images", 1), "at least 2 images"),
        ((TINY, "--html", "page.txt"), "page.html"),
        ((TINY, "--data", "digit"), "digits"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(command: Command, words: tuple[object, ...], said: str) -> None:
    outcome = command("analyze", "gradients", *words)
    assert outcome.code == 1
    assert said in outcome.err


def test_a_file_of_another_kind_is_refused_before_anything_is_measured(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslab.analysis.registry.run_analysis", lambda *_: pytest.fail("measured"))
    assert "page.html" in command("analyze", "gradients", TINY, "--html", "page.txt").err
    (tmp_path / "there.png").mkdir()
    assert "a folder" in command("analyze", "gradients", TINY, "--png", tmp_path / "there.png").err


def test_every_question_can_be_shown() -> None:
    assert set(RENDERERS) == set(ANALYSES)


@pytest.mark.parametrize("question", ["shapes", "cost", "telescope", "responses", "scaling", "orders"])
def test_each_has_a_table_words_a_page_and_a_picture(command: Command, tmp_path: Path, question: str) -> None:
    page, png = tmp_path / "page.html", tmp_path / "picture.png"
    gated = f"{TINY}:merge=gate(-3)"
    out = command("analyze", question, TINY, gated, "--num-images", 4, "--html", page, "--png", png).out
    assert "layer3.0" in out
    assert "merge=gate(-3)" in out
    assert "<svg" in page.read_text(encoding="utf-8")
    assert png.stat().st_size > 10_000
    [first, second] = command("analyze", question, TINY, gated, "--num-images", 4, "--json").value["results"]
    assert (first["model"], second["model"]) == (TINY, gated)


def test_the_five_orders_of_one_network(command: Command) -> None:
    found = command("analyze", "orders", f"{TINY}:order=*", "--num-images", 4, "--json").value["results"]
    assert found[0]["order"] == "original"
    assert len(found) == 5


def test_all_snapshots_of_a_run(command: Command, tmp_path: Path) -> None:
    words = ("--epochs", 1, "--save-every", "10 steps", "--output", tmp_path / "run", "--json")
    command("train", "--model", "resnet20_cifar", "--set", "model.depths=1,1,1", *words)
    outcome = command("analyze", "gradients", tmp_path / "run", "--weights", "all", "--num-images", 8, "--json")
    assert [answer["step"] for answer in outcome.value["results"]] == [0, 10, 20]
    page = tmp_path / "page.html"
    command("analyze", "gradients", tmp_path / "run", "--weights", "all", "--num-images", 8, "--html", page)
    assert "along training" in page.read_text(encoding="utf-8")
