"""The program: commands, errors, exit codes, and what goes to which stream."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from reslab.cli import app
from reslab.cli.commands import EXAMPLES
from tests.cli.conftest import Command


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Puts an error in place of every command."""

    def put(error: BaseException) -> None:
        monkeypatch.setattr(app, "app", lambda *_, **__: raising(error)())

    return put


def test_help_lists_every_command(command: Command) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        outcome = command(*arguments)
        assert outcome.code == 0
        for name in ("demo", "train", "eval", "predict", "models", "summary", "recipes", "runs", "doctor"):
            assert f" {name} " in outcome.out


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_has_help(command: Command, name: str) -> None:
    outcome = command(*name.split(), "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out
    assert "<class" not in outcome.out


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version").out.startswith("reslab 0.")


def test_an_unknown_command_suggests_the_nearest(command: Command) -> None:
    outcome = command("trian")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "unknown command 'trian'" in outcome.err
    assert "'train'" in outcome.err


def test_an_unknown_option_suggests_the_nearest(command: Command) -> None:
    outcome = command("train", "--epoch", "3")
    assert outcome.code == 2
    assert "--epochs" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_missing_argument_is_named(command: Command) -> None:
    outcome = command("summary")
    assert outcome.code == 2
    assert "NAME" in outcome.err


def test_with_json_an_error_is_one_object(command: Command) -> None:
    for arguments in (
        ("trian", "--json"),
        ("summary", "resnet19", "--json"),
        ("summary", "--json"),
        ("train", "--x", "--json"),
    ):
        outcome = command(*arguments)
        assert outcome.code != 0
        assert list(outcome.value) == ["error"]
        assert outcome.err == ""


def test_a_users_mistake_is_one_line(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(ValueError("required: this; got: that"))
    outcome = command("doctor")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "error: required: this; got: that\n")


def test_a_full_disk_is_reported(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(OSError(28, "No space left on device"))
    assert "No space left" in command("train").err


def test_an_unexpected_error_has_no_traceback_either(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(KeyError("x"))
    outcome = command("doctor")
    assert outcome.code == 1
    assert "KeyError" in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("position", ["before", "after"])
def test_debug_shows_the_traceback(command: Command, broken: Callable[[BaseException], None], position: str) -> None:
    broken(KeyError("x"))
    outcome = command("--debug", "doctor") if position == "before" else command("doctor", "--debug")
    assert "Traceback" in outcome.err


@pytest.mark.parametrize("message", ["stopped after step 7; the state is saved", ""])
def test_ctrl_c_prints_the_message_of_the_command(
    command: Command, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.setattr("reslab.training.train.train", lambda *_, **__: raising(KeyboardInterrupt(message))())
    outcome = command("train")
    assert (outcome.code, outcome.err) == (130, f"{message or 'stopped'}\n")
    assert command("train", "--json").value == {"error": message or "stopped"}


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "app", lambda *_, **__: warnings.warn("mind the step", stacklevel=1))
    before = warnings.showwarning
    assert command("doctor").err == "warning: mind the step\n"
    assert warnings.showwarning is before


@pytest.mark.filterwarnings("default")
def test_the_same_warning_is_printed_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn_twice(*_: object, **__: object) -> None:
        for _number in range(2):
            warnings.warn("mind the step", stacklevel=1)
            with warnings.catch_warnings():  # Python forgets which warnings it has shown
                pass

    monkeypatch.setattr(app, "app", warn_twice)
    assert command("doctor").err == "warning: mind the step\n"


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.run(
        f"{sys.executable} -m reslab models --json | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert process.stdout == "[\n"
    assert process.stderr == ""


def test_the_module_runs_as_a_program() -> None:
    arguments = [sys.executable, "-m", "reslab", "recipes", "--json"]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert {"name", "reference"} <= set(json.loads(process.stdout)[0])
