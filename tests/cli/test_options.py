"""The readers of options that several commands share."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from reslab.cli.app import join_channel_values
from reslab.cli.option_groups import expand_groups
from reslab.cli.options import parse_channel_values, parse_pretrained


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("true", True), ("False", False), ("IMAGENET1K_V1", "IMAGENET1K_V1"), ("a/true", "a/true")],
)
def test_pretrained_is_parsed(text: str | None, value: object) -> None:
    assert parse_pretrained(text) == value


@pytest.mark.parametrize(
    ("arguments", "gathered"),
    [
        ("eval --mean .1 .2 .3 --std 1 2 3", "eval --mean .1,.2,.3 --std 1,2,3"),
        ("eval --mean 0.1,0.2 run", "eval --mean 0.1,0.2 run"),
        ("eval --mean 0.1 run 0.2", "eval --mean 0.1 run 0.2"),
        ("eval --std 1 -b 64", "eval --std 1 -b 64"),
        ("eval --mean x 2", "eval --mean x 2"),
        ("train --lr 0.1 --epochs 3", "train --lr 0.1 --epochs 3"),
    ],
)
def test_numbers_after_one_option_are_joined(arguments: str, gathered: str) -> None:
    assert join_channel_values(arguments.split()) == gathered.split()


def test_channel_values_are_parsed() -> None:
    assert parse_channel_values("0.5,-1,2", "--mean") == (0.5, -1.0, 2.0)
    assert parse_channel_values(None, "--mean") is None
    with pytest.raises(ValueError, match="--mean as numbers"):
        parse_channel_values("0.5,x", "--mean")


@dataclass(frozen=True)
class Scale:
    factor: Annotated[float, typer.Option("--factor")] = 1.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: Annotated[int, typer.Option("--width", help="Width in pixels.")] = 4
    scale: Scale
    height: Annotated[int | None, typer.Option("--height")] = None


def test_a_group_stands_for_the_options_of_its_fields_in_their_place() -> None:
    app = typer.Typer()
    called: list[tuple[Any, ...]] = []

    def command(*, name: str = "a", sizes: Sizes, depth: int = 1) -> None:
        called.append((name, sizes, depth))

    expanded = expand_groups(command)
    assert list(inspect.signature(expanded).parameters) == ["name", "width", "factor", "height", "depth"]
    app.command()(expanded)
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert "Width in pixels." in help_text
    assert help_text.index("--width") < help_text.index("--height") < help_text.index("--depth")
    assert CliRunner().invoke(app, ["--height", "7", "--depth", "2", "--factor", "0.5"]).exit_code == 0
    assert CliRunner().invoke(app, ["--width", "x"]).exit_code == 2
    assert called == [("a", Sizes(width=4, scale=Scale(0.5), height=7), 2)]


def test_a_command_without_groups_stays_as_it_is() -> None:
    def command(name: str = "a") -> None: ...

    assert expand_groups(command) is command
