"""`reslab analyze`: one or several networks, with table, JSON, HTML page and PNG file."""

from pathlib import Path

import pytest

from reslab.analysis.registry import ANALYSES
from reslab.cli.analyze import ANALYSIS_NAMES
from reslab.report.analyses import RENDERERS
from tests.cli.conftest import Command

TINY = "resnet20_cifar:depths=1,1,1:widths=4,8,8:stem=conv3(4) norm act:image_size=8,8"


def test_without_a_name_all_analyses_are_listed(command: Command) -> None:
    assert [row["name"] for row in command("analyze", "--json").value] == list(ANALYSES)
    assert "gradients" in command("analyze").out


def test_an_unknown_analysis_suggests_the_nearest(command: Command) -> None:
    outcome = command("analyze", "gradient", TINY)
    assert outcome.code == 1
    assert "'gradients'" in outcome.err


def test_two_networks_on_one_page_and_in_one_png(command: Command, tmp_path: Path) -> None:
    page, png = tmp_path / "page.html", tmp_path / "image.png"
    arguments = (
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
    value = command(*arguments).value
    assert [result["model"] for result in value["results"]] == [TINY, f"{TINY}:merge=none"]
    assert (value["html"], value["png"]) == (str(page), str(png))
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 2
    assert "http" not in text.replace("http-equiv", "")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_terminal_has_the_table_and_the_verdict(command: Command) -> None:
    out = command("analyze", "gradients", TINY, "--num-images", 8).out
    assert "layer3.0" in out
    assert "powers of ten" in out


def test_networks_the_analysis_does_not_apply_to_are_skipped(command: Command, tmp_path: Path) -> None:
    page, plain = tmp_path / "page.html", f"{TINY}:merge=none"
    arguments = ("analyze", "scaling", plain, TINY, "--num-images", 8)
    value = command(*arguments, "--html", page, "--json").value
    assert [result["model"] for result in value["results"]] == [TINY]
    assert list(value["skipped"]) == [plain]
    expected = f"{plain} was skipped: required: a network with shortcuts"
    assert expected in page.read_text(encoding="utf-8")
    assert expected in command(*arguments).out
    nobody = command("analyze", "scaling", plain, plain, "--num-images", 8)
    assert nobody.code == 1
    assert "a network with shortcuts" in nobody.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
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
def test_mistakes_suggest_the_next_step(command: Command, arguments: tuple[object, ...], expected: str) -> None:
    outcome = command("analyze", "gradients", *arguments)
    assert outcome.code == 1
    assert expected in outcome.err


def test_a_wrong_output_suffix_is_an_error_before_any_measurement(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslab.analysis.registry.run_analysis", lambda *_: pytest.fail("measured"))
    assert "page.html" in command("analyze", "gradients", TINY, "--html", "page.txt").err
    (tmp_path / "there.png").mkdir()
    assert "a folder" in command("analyze", "gradients", TINY, "--png", tmp_path / "there.png").err


def test_every_analysis_has_a_renderer_and_a_name_on_the_command_line() -> None:
    assert set(RENDERERS) == set(ANALYSES)
    assert tuple(ANALYSES) == ANALYSIS_NAMES


@pytest.mark.parametrize("name", ["shapes", "cost", "telescope", "responses", "scaling", "orders"])
def test_each_analysis_has_table_page_and_png(command: Command, tmp_path: Path, name: str) -> None:
    page, png = tmp_path / "page.html", tmp_path / "image.png"
    gated = f"{TINY}:merge=gate(-3)"
    out = command("analyze", name, TINY, gated, "--num-images", 4, "--html", page, "--png", png).out
    assert "layer3.0" in out
    assert "merge=gate(-3)" in out
    assert "<svg" in page.read_text(encoding="utf-8")
    assert png.stat().st_size > 10_000
    [first, second] = command("analyze", name, TINY, gated, "--num-images", 4, "--json").value["results"]
    assert (first["model"], second["model"]) == (TINY, gated)


def test_the_five_orders_of_one_network(command: Command) -> None:
    value = command("analyze", "orders", f"{TINY}:order=*", "--num-images", 4, "--json").value["results"]
    assert value[0]["order"] == "original"
    assert len(value) == 5


def test_all_snapshots_of_a_run(command: Command, tmp_path: Path) -> None:
    arguments = ("--epochs", 1, "--save-every", "10 steps", "--output", tmp_path / "run", "--json")
    command("train", "--model", "resnet20_cifar", "--set", "model.depths=1,1,1", *arguments)
    outcome = command("analyze", "gradients", tmp_path / "run", "--weights", "all", "--num-images", 8, "--json")
    assert [result["step"] for result in outcome.value["results"]] == [0, 10, 20]
    page = tmp_path / "page.html"
    command("analyze", "gradients", tmp_path / "run", "--weights", "all", "--num-images", 8, "--html", page)
    assert "during training" in page.read_text(encoding="utf-8")
