"""`reslab predict RUN IMAGE...|FOLDER`: class names for pictures."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.options import Batch, Device, Json
from reslab.cli.output import print_json, print_table, say
from reslab.report.tables import number, percent
from reslab.spec.errors import refuse

if TYPE_CHECKING:
    from reslab.deploy.prediction import Prediction


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or its model.safetensors.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Pictures, or folders of them.")],
    top_k: Annotated[int, typer.Option("-k", "--top-k", min=1, help="Classes to tell for each picture.")] = 3,
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
        raise refuse("one of --json and --csv", "both", next_step="leave one of them out")
    from reslab.deploy.prediction import predict as predict_pictures
    from reslab.training.loading import load

    network = load(run)
    used = network.temperature if temperature else None
    found = predict_pictures(network, images, top_k=top_k, batch=batch or 64, device=device, temperature=temperature)
    if used is not None:
        say(f"probabilities at temperature {number(used)} (--no-temperature: as the network gives them)")
    if json:
        print_json({"predictions": [prediction.to_dict() for prediction in found], "temperature": used})
    elif as_csv:
        _print_csv(found)
    else:
        _print_rows(found)
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
    rest = "".join(f", {guess.name} {percent(guess.probability, 1)}" for guess in others)
    return prediction.path, first.name, percent(first.probability, 1) + rest


def _print_csv(found: "list[Prediction]") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability", "error"])
    for prediction in found:
        if prediction.error:
            writer.writerow([prediction.path, "", "", "", prediction.error])
        for rank, guess in enumerate(prediction.classes, 1):
            writer.writerow([prediction.path, rank, guess.name, f"{guess.probability:.6g}", ""])
