"""`reslab`: the verbs together, and the one place where an error becomes a message and an exit code."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from reslab.cli.bench import bench
from reslab.cli.data import data
from reslab.cli.demo import demo
from reslab.cli.doctor import doctor
from reslab.cli.eval import evaluate
from reslab.cli.export import export
from reslab.cli.inspect import inspect
from reslab.cli.lists import models, recipes, studies
from reslab.cli.lr_find import lr_find
from reslab.cli.options import gather_numbers
from reslab.cli.output import print_json, say
from reslab.cli.predict import predict
from reslab.cli.runs import runs
from reslab.cli.serve import serve
from reslab.cli.show import show
from reslab.cli.study import study
from reslab.cli.train import train
from reslab.runtime.torchrun import read_place
from reslab.spec.errors import unknown_name

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "serve": serve,
    "models": models,
    "show": show,
    "recipes": recipes,
    "runs": runs,
    "study": study,
    "studies": studies,
    "bench": bench,
    "lr-find": lr_find,
    "inspect": inspect,
    "doctor": doctor,
}

GROUPS: dict[str, typer.Typer] = {"data": data}


class Stopped(Exception):
    """Ctrl-C, carried past typer, which would forget what was said with it."""

    exit_code = 130


class Door(TyperGroup):
    """The verbs together; carries out what typer would swallow: Ctrl-C with its words, and a reader that went away."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except KeyboardInterrupt as stop:
            raise Stopped(str(stop) or "stopped") from None
        except BrokenPipeError:
            # `| head` has read enough: nothing is wrong, and nothing more can be said to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


app = typer.Typer(
    cls=Door,
    name="reslab",
    help="Residual networks: describe, build, train, measure and use them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for _name, _verb in VERBS.items():
    app.command(_name)(_verb)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"reslab {version('reslab')}")
        raise typer.Exit


@app.callback()
def _door(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (before or after the verb).")
    ] = False,
) -> None:
    """Residual networks: describe, build, train, measure and use them."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 an error, 2 a wrong command line, 130 stopped by Ctrl-C.

    An error is one message on standard error, or with `--json` one object `{"error": ...}` on standard output. Of the
    ranks that torchrun started the first speaks; another one only of an error of its own.
    """
    try:
        place = read_place()
    except ValueError as error:
        _tell(str(error), "--json" in arguments)
        return 1
    if place.num_ranks > 1:
        # Below errors, torch's C++ warns every rank of the unused parameters that it was told to look for.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if place.first:
        return _run(arguments)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run(arguments, first=False)


def _run(arguments: Sequence[str], first: bool = True) -> int:
    words = list(arguments) or ["--help"]
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options
    if debug:
        words.remove("--debug")
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        _check_verb(options)
        return int(app(gather_numbers(words), prog_name="reslab", standalone_mode=False) or 0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if first or not _same_everywhere(error):
            _tell(message_of(error), "--json" in options and first, mistake=not isinstance(error, Stopped))
        return int(getattr(error, "exit_code", 1))
    finally:
        warnings.showwarning = shown


def _tell(message: str, json: bool, mistake: bool = True) -> None:
    if json:
        print_json({"error": message})
    else:
        say(f"error: {message}" if mistake else message)


def _same_everywhere(error: Exception) -> bool:
    """Whether the first rank says it too: Ctrl-C, a wrong command line, what all ranks meet together."""
    return isinstance(error, Stopped) or hasattr(error, "format_message") or getattr(error, "on_every_rank", False)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning in one line; where in the code it was raised is nothing to the person at the terminal."""
    say(f"warning: {message}")


def _check_verb(words: Sequence[str]) -> None:
    verb = next((word for word in words if not word.startswith("-")), None)
    verbs = [*VERBS, *GROUPS]
    if verb is not None and verb not in verbs:
        raise WrongCommandLine(str(unknown_name("verb", verb, verbs, "`reslab --help` lists them")))


class WrongCommandLine(ValueError):
    """A command line that no verb understands; the exit code says so."""

    on_every_rank = True
    exit_code = 2


def message_of(error: Exception) -> str:
    """What a person is told: the text of a user's mistake, or the kind of an error that nobody foresaw."""
    if isinstance(error, Stopped):
        return str(error)
    if hasattr(error, "format_message"):
        return f"{error.format_message()} (`reslab VERB --help` shows the options)"
    if isinstance(error, ValueError | OSError | ImportError | NotImplementedError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (this one was not foreseen; `--debug` shows where it came from)"


def entry() -> None:
    """The console script."""
    raise SystemExit(main(sys.argv[1:]))
