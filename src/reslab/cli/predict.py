"""`reslab predict RUN IMAGE...|FOLDER`: class names for pictures."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reslab.cli.options import Batch, Device, Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.format import format_number, format_percent
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from reslab.deploy.inputs import Item
    from reslab.deploy.predict import Answering, Prediction
    from reslab.nn.network import ResidualNetwork

_SECONDS_A_LINE = 30.0
_GRAPHS = (".onnx", ".pt2", ".xml")


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or its model.safetensors.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER...", help="Pictures, folders, patterns, .tar shards, a .csv of paths; - is stdin."
        ),
    ],
    top_k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Classes to tell for each picture.")] = 3,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Into a .json, .csv or .parquet file.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output: rows already there are not computed again.")
    ] = False,
    features: Annotated[
        bool, typer.Option("--features", help="Tell the embedding too: what the last linear layer reads.")
    ] = False,
    heat_maps: Annotated[
        Path | None, typer.Option("--heat-map", metavar="DIR", help="Draw what speaks for the first class, into PNGs.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="torch, onnxruntime or openvino. [default: what is quick here]")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, bf16, fp16, int8; auto: bf16 where the processor has it.")
    ] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network, with torch.")] = False,
    batch: Batch = None,
    device: Device = "auto",
    temperature: Annotated[
        bool,
        typer.Option("--temperature/--no-temperature", help="Divide by the temperature kept by `eval --calibrate`."),
    ] = True,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line a class, with commas.")] = False,
    json: Json = False,
) -> None:
    """Tell what is in pictures. A file that cannot be read is a row with its error; exit 1 where none could be."""
    if json and as_csv:
        raise invalid("one of --json and --csv", "both", next_step="leave one of them out")
    if resume and output is None:
        raise invalid("--output FILE with --resume", "--resume alone", next_step="name the file to go on with")
    _check_model(run)
    from reslab.deploy.inputs import list_items
    from reslab.deploy.outputs import Rows, check_output
    from reslab.training.run import load

    if output is not None:
        check_output(output, resume)
    items = list_items(images)
    network = load(run)
    used = network.temperature if temperature else None
    how = {"weights": _fingerprint(run), "top_k": top_k, "temperature": used, "features": features}
    rows = None if output is None else Rows(output, items, {**how, "precision": precision}, resume)
    left = items if rows is None else rows.left
    found: list[Prediction] = []
    answer = None
    if left:
        answer = _open(run, network, engine, precision, device, features, temperature, compiled, len(left))
        with _resumable(output):
            for row in _computed(network, answer, left, top_k, batch, heat_maps):
                found.append(row) if rows is None else rows.add(row)
    if used is not None:
        say(f"probabilities at temperature {format_number(used)} (--no-temperature: as the network gives them)")
    told: dict[str, Any] = {"temperature": used, "engine": str(answer.engine) if answer else None}
    if rows is not None:
        found = rows.finish()
        say(f"{len(found)} rows in {output}" + (f", {len(found) - len(left)} of them from before" if resume else ""))
        told["output"] = str(output)
    _print(found, told, json, as_csv, quiet=output is not None)
    _end(found, json)


def _check_model(run: Path) -> None:
    if run.suffix in _GRAPHS and run.is_file():
        step = "name the run it was exported from, with --engine and --precision"
        raise invalid("a run, or its model.safetensors", f"{run}, a graph for other programs", next_step=step)


def _open(
    run: Path,
    network: "ResidualNetwork",
    engine: str,
    precision: str,
    device: str,
    features: bool,
    temperature: bool,
    compiled: bool,
    num_images: int,
) -> "Answering":
    """The network made ready, which is said; with torch where it is to be compiled."""
    from reslab.deploy.export.verify import run_images
    from reslab.deploy.predict import open_answering

    answer = open_answering(
        network,
        "torch" if compiled and engine == "auto" else engine,
        precision,
        device,
        features=features,
        temperature=temperature,
        compiled=compiled,
        images=run_images(run, network) if precision == "int8" else None,
        num_images=num_images,
    )
    say(f"{answer.engine}")
    return answer


def _computed(
    network: "ResidualNetwork",
    answer: "Answering",
    items: "list[Item]",
    top_k: int,
    batch: int | None,
    maps: Path | None,
) -> "Iterator[Prediction]":
    from reslab.deploy.predict import predictions

    return _shown(predictions(network, answer, items, top_k, batch or 64, maps), items)


@contextlib.contextmanager
def _resumable(output: Path | None) -> Iterator[None]:
    """Ctrl-C with the word that helps: what is in the file so far is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if output is None:
            raise
        raise KeyboardInterrupt(f"stopped; go on with the same command and --resume ({output})") from None


def _print(found: "list[Prediction]", told: dict[str, Any], json: bool, as_csv: bool, quiet: bool) -> None:
    if json:
        print_json({"predictions": [prediction.to_dict() for prediction in found], **told})
    elif as_csv:
        from reslab.deploy.outputs import csv_text

        print(csv_text(found), end="")
    elif not quiet:
        _print_rows(found)


def _end(found: "list[Prediction]", json: bool) -> None:
    unread = sum(bool(prediction.error) for prediction in found)
    if unread and not json:
        say(f"{unread} of {len(found)} files could not be read")
    if unread == len(found):
        raise typer.Exit(1)


def _print_rows(found: "list[Prediction]") -> None:
    rows = [(each.path, "", each.error) if each.error else _row(each) for each in found]
    print_table(["picture", "class", "probability"], rows)


def _row(prediction: "Prediction") -> tuple[str, str, str]:
    first, *others = prediction.classes
    rest = "".join(f", {guess.name} {format_percent(guess.probability, 1)}" for guess in others)
    return prediction.path, first.name, format_percent(first.probability, 1) + rest


def _shown(rows: "Iterable[Prediction]", items: "list[Item]") -> "Iterator[Prediction]":
    """The rows, while a bar in a terminal, or a line now and then elsewhere, tells how far it is."""
    console = Console(stderr=True)
    if console.is_terminal and len(items) > 1:
        columns = (TextColumn("pictures"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=len(items))
            for row in rows:
                bar.advance(task)
                yield row
        return
    said = time.monotonic()
    for count, row in enumerate(rows, 1):
        if time.monotonic() - said > _SECONDS_A_LINE:
            said = time.monotonic()
            print(f"{count} of {len(items)} pictures", file=sys.stderr, flush=True)
        yield row


def _fingerprint(run: Path) -> str:
    """The first digits of the SHA-256 of the weights, by which rows of other weights are known."""
    from reslab.nn.checkpoints.download import file_hash
    from reslab.training.run import find_weights

    return file_hash(find_weights(run))[:16]
