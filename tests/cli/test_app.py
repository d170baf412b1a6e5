"""The door of the command line: verbs, errors, exit codes, and what may stand on which stream."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from reslab.cli import app
from tests.cli.conftest import Command


def raising(error: BaseException) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Puts an error in the place of every verb."""

    def put(error: BaseException) -> None:
        monkeypatch.setattr(app, "app", lambda *_, **__: raising(error)())

    return put


def test_help_names_every_verb(command: Command) -> None:
    for words in ((), ("--help",), ("-h",)):
        outcome = command(*words)
        assert outcome.code == 0
        for verb in ("demo", "train", "eval", "predict", "models", "summary", "recipes", "runs", "doctor"):
            assert f" {verb} " in outcome.out


@pytest.mark.parametrize("verb", app.COMMANDS)
def test_every_verb_has_help(command: Command, verb: str) -> None:
    outcome = command(verb, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out
    assert "<class" not in outcome.out


def test_the_version_is_said(command: Command) -> None:
    assert command("--version").out.startswith("reslab 0.")


def test_an_unknown_verb_is_told_the_nearest(command: Command) -> None:
    outcome = command("trian")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "unknown command 'trian'" in outcome.err
    assert "'train'" in outcome.err


def test_an_unknown_option_is_told_the_nearest(command: Command) -> None:
    outcome = command("train", "--epoch", "3")
    assert outcome.code == 2
    assert "--epochs" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_missing_argument_is_named(command: Command) -> None:
    outcome = command("summary")
    assert outcome.code == 2
    assert "NAME" in outcome.err


def test_with_json_an_error_is_one_object(command: Command) -> None:
    for words in (
        ("trian", "--json"),
        ("summary", "resnet19", "--json"),
        ("summary", "--json"),
        ("train", "--x", "--json"),
    ):
        outcome = command(*words)
        assert outcome.code != 0
        assert list(outcome.value) == ["error"]
        assert outcome.err == ""


def test_a_users_mistake_is_one_line(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(ValueError("required: this; got: that"))
    outcome = command("doctor")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "error: required: this; got: that\n")


def test_a_full_disk_is_told(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(OSError(28, "No space left on device"))
    assert "No space left" in command("train").err


def test_what_nobody_foresaw_has_no_traceback_either(command: Command, broken: Callable[[BaseException], None]) -> None:
    broken(KeyError("x"))
    outcome = command("doctor")
    assert outcome.code == 1
    assert "KeyError" in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(command: Command, broken: Callable[[BaseException], None], place: str) -> None:
    broken(KeyError("x"))
    outcome = command("--debug", "doctor") if place == "before" else command("doctor", "--debug")
    assert "Traceback" in outcome.err


@pytest.mark.parametrize("words", ["stopped after step 7; the state is saved", ""])
def test_ctrl_c_says_what_the_verb_said(command: Command, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr("reslab.training.train.train", lambda *_, **__: raising(KeyboardInterrupt(words))())
    outcome = command("train")
    assert (outcome.code, outcome.err) == (130, f"{words or 'stopped'}\n")
    assert command("train", "--json").value == {"error": words or "stopped"}


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "app", lambda *_, **__: warnings.warn("mind the step", stacklevel=1))
    before = warnings.showwarning
    assert command("doctor").err == "warning: mind the step\n"
    assert warnings.showwarning is before


def test_a_reader_that_leaves_is_no_error() -> None:
    found = subprocess.run(
        f"{sys.executable} -m reslab models --json | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[\n"
    assert found.stderr == ""


def test_the_module_runs_as_a_program() -> None:
    words = [sys.executable, "-m", "reslab", "recipes", "--json"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert {"name", "reference"} <= set(json.loads(found.stdout)[0])
