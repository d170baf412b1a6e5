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

from reslab.cli.analyze import analyze
from reslab.cli.bench import bench
from reslab.cli.data import data_app
from reslab.cli.demo import demo
from reslab.cli.doctor import doctor
from reslab.cli.eval import evaluate
from reslab.cli.export import export
from reslab.cli.lists import models, recipes, studies
from reslab.cli.lr_find import lr_find
from reslab.cli.options import join_channel_values
from reslab.cli.output import echo_err, print_json
from reslab.cli.predict import predict
from reslab.cli.runs import runs
from reslab.cli.serve import serve
from reslab.cli.study import study
from reslab.cli.summary import summary
from reslab.cli.train import train
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.errors import unknown_name

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "serve": serve,
    "models": models,
    "summary": summary,
    "recipes": recipes,
    "runs": runs,
    "study": study,
    "studies": studies,
    "bench": bench,
    "lr-find": lr_find,
    "analyze": analyze,
    "doctor": doctor,
}

COMMAND_GROUPS: dict[str, typer.Typer] = {"data": data_app}


class InterruptedExit(Exception):
    """Ctrl-C, carried past typer, which would forget what was said with it."""

    exit_code = 130


class ResLabGroup(TyperGroup):
    """The verbs together; carries out what typer would swallow: Ctrl-C with its words, and a reader that went away."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as interrupt:
            raise InterruptedExit(str(interrupt) or "stopped") from None
        except BrokenPipeError:
            # `| head` has read enough: nothing is wrong, and nothing more can be said to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


app = typer.Typer(
    cls=ResLabGroup,
    name="reslab",
    help="Residual networks: describe, build, train, measure and use them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in COMMAND_GROUPS.items():
    app.add_typer(_group, name=_name)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"reslab {version('reslab')}")
        raise typer.Exit


@app.callback()
def _global_options(
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
        env = read_distributed_env()
    except ValueError as error:
        _print_error(str(error), "--json" in arguments)
        return 1
    if env.world_size > 1:
        # Below errors, torch's C++ warns every rank of the unused parameters that it was told to look for.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if env.is_main:
        return _run(arguments)
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run(arguments, is_main=False)


def _run(arguments: Sequence[str], is_main: bool = True) -> int:
    argv = list(arguments) or ["--help"]
    options = argv[: argv.index("--")] if "--" in argv else argv
    debug = "--debug" in options
    if debug:
        argv.remove("--debug")
    previous_showwarning, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        _check_command(options)
        return int(app(join_channel_values(argv), prog_name="reslab", standalone_mode=False) or 0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if is_main or not _is_raised_on_every_rank(error):
            _print_error(
                error_message(error), "--json" in options and is_main, is_error=not isinstance(error, InterruptedExit)
            )
        return int(getattr(error, "exit_code", 1))
    finally:
        warnings.showwarning = previous_showwarning


def _print_error(message: str, as_json: bool, is_error: bool = True) -> None:
    if as_json:
        print_json({"error": message})
    else:
        echo_err(f"error: {message}" if is_error else message)


def _is_raised_on_every_rank(error: Exception) -> bool:
    """Whether the first rank says it too: Ctrl-C, a wrong command line, what all ranks meet together."""
    return (
        isinstance(error, InterruptedExit) or hasattr(error, "format_message") or getattr(error, "on_every_rank", False)
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning in one line; where in the code it was raised is nothing to the person at the terminal."""
    echo_err(f"warning: {message}")


def _check_command(options: Sequence[str]) -> None:
    command = next((argument for argument in options if not argument.startswith("-")), None)
    commands = [*COMMANDS, *COMMAND_GROUPS]
    if command is not None and command not in commands:
        raise CommandLineError(str(unknown_name("verb", command, commands, "`reslab --help` lists them")))


class CommandLineError(ValueError):
    """A command line that no verb understands; the exit code says so."""

    on_every_rank = True
    exit_code = 2


def error_message(error: Exception) -> str:
    """What a person is told: the text of a user's mistake, or the kind of an error that nobody foresaw."""
    if isinstance(error, InterruptedExit):
        return str(error)
    if hasattr(error, "format_message"):
        return f"{error.format_message()} (`reslab VERB --help` shows the options)"
    if isinstance(error, ValueError | OSError | ImportError | NotImplementedError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (this one was not foreseen; `--debug` shows where it came from)"


def entry() -> None:
    """The console script."""
    raise SystemExit(main(sys.argv[1:]))
