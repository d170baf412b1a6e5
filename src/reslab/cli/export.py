"""`reslab export RUN --to FORMAT`: a trained network in another program's format, proved there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.options import DataDir, JsonFlag
from reslab.cli.output import print_json, print_pairs
from reslab.report.format import format_int, format_number, format_percent

if TYPE_CHECKING:
    from reslab.deploy.export.export import ExportResult


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or its model.safetensors.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="torchvision, timm, safetensors, onnx, torch or openvino.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="File or folder. [default: export/ beside the weights]"),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32; bf16 for openvino; int8 for onnx.")
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME|FOLDER", help="Pictures to compare on. [default: the run's own]"),
    ] = None,
    data_dir: DataDir = None,
    num_images: Annotated[
        int | None,
        typer.Option("--num-images", min=1, metavar="N", help="So many of them. [default: 256 in float32, else all]"),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", metavar="POINTS", help="Accuracy that bf16 and int8 may lose.")
    ] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace what lies there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a network in another format, load it again there, and hold it against the original on real pictures."""
    from reslab.deploy.export.export import export as export_network

    result = export_network(
        run,
        to,
        output,
        data=data,
        data_dir=data_dir,
        precision=precision,
        max_drop=max_drop,
        num_images=num_images,
        force=force,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        print_pairs(_export_rows(result))


def _export_rows(result: "ExportResult") -> list[tuple[str, str]]:
    comparison = result.comparison
    agreement = f"{format_int(comparison.num_agreeing)} of {format_int(comparison.num_images)} pictures"
    return [
        (
            "exported",
            f"{result.path} ({format_int(result.metadata['num_bytes'])} bytes, {result.format}, {result.precision})",
        ),
        ("same class", f"{agreement} of {result.metadata['data']} ({result.metadata['split']})"),
        ("difference", f"{format_number(comparison.max_difference, 3)} of the largest output, at most"),
        ("accuracy", f"{format_percent(comparison.top1)} before, {format_percent(comparison.exported_top1)} exported"),
        ("report", str(result.report_path)),
    ]
