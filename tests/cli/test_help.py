"""The help of every command: texts, groups, width, examples; and shell completion."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from reslab.cli import app
from reslab.cli.commands import EXAMPLES
from tests.cli.conftest import Command

ROOT: Any = typer.main.get_command(app.app)


def walk() -> Iterator[tuple[str, Any]]:
    """Yield every command that is no group, with its full name."""
    for name, entry in app.COMMANDS.items():
        command = app.load_command(entry)
        if hasattr(command, "commands"):
            yield from ((f"{name} {child_name}", child) for child_name, child in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(walk())


def shown_options(command: Any) -> list[Any]:
    context = command.make_context(command.name, [], resilient_parsing=True)
    return [param for param in command.get_params(context) if not getattr(param, "hidden", False)]


def test_the_walk_finds_all_commands() -> None:
    assert {"train", "summary", "analyze", "data check"} <= set(COMMANDS)
    assert set(COMMANDS) == set(EXAMPLES)


@pytest.mark.parametrize("entry", app.COMMANDS.values(), ids=lambda entry: entry.name)
def test_the_list_of_commands_has_the_first_paragraph_of_each_help(entry: Any) -> None:
    """The table repeats it, so that the list imports no command."""
    assert " ".join(app.load_command(entry).help.split("\n\n")[0].split()) == entry.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_a_text(name: str) -> None:
    for param in shown_options(COMMANDS[name]):
        assert param.help, param.name
        assert "[default" not in param.help, f"{param.name}: rich reads brackets as markup; use show_default"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns_and_shows_no_python_types(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = command(*name.split(), "--help").out
    assert max(len(line) for line in text.splitlines()) <= 80
    for type_name in ("<bool>", "<int", "<str>", "<float>", "<path>", "<list", "<class"):
        assert type_name not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_chosen_later_are_shown(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = command(*name.split(), "--help").out
    for param in shown_options(COMMANDS[name]):
        if isinstance(param.show_default, str):
            assert f"[default: ({param.show_default})]" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_ends_with_examples_that_parse(command: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = command(*name.split(), "--help").out
    assert 2 <= len(EXAMPLES[name]) <= 3
    for example in EXAMPLES[name]:
        assert example in text
        program, *arguments = shlex.split(example)
        assert program == "reslab"
        assert " ".join(arguments).startswith(name)
        COMMANDS[name].make_context(name, arguments[len(name.split()) :])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reslab train --model resnet56", "resnet56_cifar"),
        ("reslab train --recipe he2015-c", "he2015-cifar"),
        ("reslab study he2015/degr", "he2015/degradation"),
        ("reslab summ", "summary"),
        ("reslab predict --grad", "--grad-cam"),
    ],
)
def test_the_shell_completes_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    monkeypatch.setenv("_RESLAB_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as exit_info:
        app.main([])
    assert exit_info.value.code == 0
    assert expected in capsys.readouterr().out.split()
