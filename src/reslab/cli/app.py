"""The `reslab` program: all commands, and the one place where an error becomes a message and an exit code."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from reslab.cli.commands import COMMANDS, Command, help_epilog
from reslab.cli.option_groups import expand_groups
from reslab.cli.output import echo_err, print_json, printable_streams, reserve_standard_descriptors
from reslab.runtime.torchrun import RankError, is_on_every_rank, read_distributed_env
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import load_plugins

_ALLOW_NONFINITE = "--allow-nonfinite"


class InterruptedExit(Exception):
    """A stop by a signal with its message, which typer would discard if it saw the KeyboardInterrupt."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ResLabCommand(TyperCommand):
    """A command whose help shows no type where the type says nothing: flags, and arguments."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with the types that the help shows."""
        return _without_obvious_types(super().get_params(ctx))


class ResLabGroup(TyperGroup):
    """A group of commands whose help shows no type where the type says nothing."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with the types that the help shows."""
        return _without_obvious_types(super().get_params(ctx))


class LazyGroup(ResLabGroup):
    """The group of all commands: imports a command's module when the command is used.

    It keeps the message of a Ctrl-C and ends quietly at a closed pipe.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, ready to run, with the arguments that remain."""
        name, placeholder, remaining = super().resolve_command(ctx, args)
        if placeholder is None or name is None:  # an incomplete line, in shell completion
            return name, placeholder, remaining
        return name, load_command(COMMANDS[name]), remaining

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as interrupt:
            raise InterruptedExit(str(interrupt) or "stopped", getattr(interrupt, "exit_code", 130)) from None
        except BrokenPipeError as error:
            if hasattr(error, "__notes__"):  # another pipe, during training
                raise
            # `| head` has read enough. Python flushes stdout once more at exit: into devnull, so that it cannot fail.
            _discard_output()
            return 0


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_obvious_types(params: Sequence[Any]) -> list[Any]:
    """Make the help omit `<bool>` after a flag and `<list[str]>` after an argument, whose name says what it is."""
    for param in params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None
        elif getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return list(params)


DESCRIPTION = "A toolkit for residual networks: define, train, evaluate, analyze, reproduce, deploy."

app = typer.Typer(
    cls=LazyGroup,
    name="reslab",
    help=DESCRIPTION,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def load_command(command: Command) -> Any:
    """Import the module of a command and return the command, or the group, as typer runs it."""
    target = command.load()
    if isinstance(target, typer.Typer):
        group = typer.Typer(cls=ResLabGroup, name=command.name, help=command.help, add_completion=False)
        group.callback()(_no_options)
        for info in target.registered_commands:
            assert info.callback is not None
            epilog = help_epilog(f"{command.name} {info.name}")
            group.command(info.name, cls=ResLabCommand, epilog=epilog)(expand_groups(info.callback))
        return typer.main.get_command(group)
    single = typer.Typer(add_completion=False)
    single.command(command.name, cls=ResLabCommand, epilog=help_epilog(command.name))(expand_groups(target))
    return typer.main.get_command(single)


def _no_options() -> None:
    """Stand for a command in the list of commands."""


for _command in COMMANDS.values():
    # Typer builds the list of commands from these; `LazyGroup` runs none of them.
    app.command(_command.name, help=_command.help, rich_help_panel=_command.panel)(_no_options)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"reslab {version('reslab')}")
        raise typer.Exit


@app.callback(help=DESCRIPTION)
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works before and after the command.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="MODULE",
            help="Import a module that registers operations, networks, recipes and more. Repeatable. Works before and "
            "after the command.",
        ),
    ] = None,
    allow_nonfinite: Annotated[
        bool,
        typer.Option(
            _ALLOW_NONFINITE, help="Load weights with NaN or infinite values. Works before and after the command."
        ),
    ] = False,
) -> None:
    """Take the options of all commands; their callbacks and `main` apply them."""


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code.

    0 success, 1 error, 2 wrong command line, 128 + the signal's number if a signal stopped it (Ctrl-C: 130). An error
    is one message on standard error, or with `--json` one object `{"error": ...}` on standard output. Of the ranks that
    torchrun started only rank 0 prints; another rank prints an error that it alone has.
    """
    with printable_streams():
        return _main(arguments)


def _main(arguments: Sequence[str]) -> int:
    try:
        env = read_distributed_env()
    except ValueError as error:
        _print_error(str(error), "--json" in arguments)
        return 1
    if env.world_size > 1:
        # Otherwise DDP warns on every rank about the unused parameters that it was asked to look for.
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
    allow_nonfinite = _ALLOW_NONFINITE in options
    if allow_nonfinite:
        argv.remove(_ALLOW_NONFINITE)
    previous_showwarning, warnings.showwarning = warnings.showwarning, _WarningPrinter()
    try:
        argv, plugins = _split_plugins(argv)
        load_plugins(*plugins)
        _check_command(argv[: argv.index("--")] if "--" in argv else argv)
        with _nonfinite_weights_allowed() if allow_nonfinite else contextlib.nullcontext():
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


@contextlib.contextmanager
def _nonfinite_weights_allowed() -> Iterator[None]:
    from reslab.nn.checkpoints.load_report import allow_nonfinite_weights

    with allow_nonfinite_weights():
        yield


def join_channel_values(arguments: Sequence[str], options: Sequence[str] = ("--mean", "--std")) -> list[str]:
    """Join `--mean 0.1 0.2 0.3` to `--mean 0.1,0.2,0.3`, the one value that the parser expects."""
    joined: list[str] = []
    is_collecting = False
    for argument in arguments:
        if is_collecting and _is_number(argument) and _is_number(joined[-1].rpartition(",")[2]):
            joined[-1] += f",{argument}"
            continue
        is_collecting = argument in options or (is_collecting and _is_number(argument))
        joined.append(argument)
    return joined


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_plugins(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command line without `--plugin MODULE`, which stands before or after the command, and the modules."""
    remaining: list[str] = []
    plugins: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--plugin":
            value = next(arguments, "")
            if not value or value.startswith("-"):
                raise CommandLineError(str(invalid("--plugin MODULE", argument, "--plugin my_operations")))
            plugins.append(value)
        elif argument.startswith("--plugin="):
            plugins.append(argument.removeprefix("--plugin="))
        elif argument == "--":
            remaining += [argument, *arguments]
        else:
            remaining.append(argument)
    return remaining, plugins


def _print_error(message: str, as_json: bool, is_error: bool = True) -> None:
    if as_json:
        print_json({"error": message})
    else:
        echo_err(f"error: {message}" if is_error else message)


def _is_raised_on_every_rank(error: Exception) -> bool:
    """Return True if rank 0 has the same error: Ctrl-C, a wrong command line, an error marked as such."""
    return isinstance(error, InterruptedExit) or hasattr(error, "format_message") or is_on_every_rank(error)


class _WarningPrinter:
    """Prints each warning once, in one line, without its place in the code.

    Python's own filter shows a warning again once any code has left `warnings.catch_warnings`.
    """

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in self._printed:
            self._printed.add(str(message))
            echo_err(f"warning: {message}")


def _check_command(options: Sequence[str]) -> None:
    command = next((argument for argument in options if not argument.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        raise CommandLineError(str(unknown_name("command", command, COMMANDS, "`reslab --help` lists them")))


class CommandLineError(ValueError):
    """A command line with an unknown command; the exit code is 2."""

    on_every_rank = True
    exit_code = 2


def error_message(error: Exception) -> str:
    """Return the text of a user's mistake, or type and text of an unexpected error, with the notes added to it."""
    return "; ".join([_error_text(error), *getattr(error, "__notes__", [])])


def _error_text(error: Exception) -> str:
    if isinstance(error, InterruptedExit):
        return str(error)
    if hasattr(error, "format_message"):
        return f"{error.format_message()} (`reslab COMMAND --help` shows the options)"
    if isinstance(error, ValueError | OSError | ImportError | NotImplementedError | RankError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (unexpected error; rerun with --debug for the traceback)"


def entry() -> None:
    """The console script."""
    reserve_standard_descriptors()
    raise SystemExit(main(sys.argv[1:]))
