"""`reslab export`: write a trained network in another format and verify it there."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.option_groups import MODEL_HELP, MODEL_METAVAR, ModelOptions
from reslab.cli.options import DataDir, JsonFlag, Panel, output_option
from reslab.cli.output import print_result
from reslab.report.format import format_int, format_metric, format_number

if TYPE_CHECKING:
    from reslab.deploy.export.export import ExportResult


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written, and the images that it is verified on, by the names of `export`."""

    output: Annotated[
        Path | None,
        output_option("PATH", "File or folder to write.", "export/ beside the weights"),
    ] = None
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="float32; bf16 with openvino; int8 with onnx.")
    ] = "float32"
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH",
            rich_help_panel=Panel.DATA,
            help="Dataset to verify the exported network on.",
            show_default="the run's own",
        ),
    ] = None
    data_dir: DataDir = None
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            metavar="INTEGER",
            min=1,
            rich_help_panel=Panel.DATA,
            help="Number of images to verify on.",
            show_default="256 with float32, else all",
        ),
    ] = None
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            metavar="FLOAT",
            help="Largest accepted drop of the metric with bf16 and int8, in points (of an error: rise in percent).",
        ),
    ] = 1.0
    force: Annotated[bool, typer.Option("--force", rich_help_panel=Panel.OUTPUT, help="Overwrite existing files.")] = (
        False
    )


def export(
    *,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="torchvision, timm, safetensors, onnx, torch or openvino."),
    ],
    run: Annotated[str | None, typer.Argument(metavar=MODEL_METAVAR, help=MODEL_HELP)] = None,
    model: ModelOptions,
    options: ExportOptions,
    as_json: JsonFlag = False,
) -> None:
    """Export a network, reload it in the target runtime and verify it against the original on real images."""
    choice, _ = model.choose([run] if run else [])
    from reslab.deploy.export.export import export as export_network

    result = export_network(choice.source, to, weights=choice.weights, allow_code=choice.allow_code, **vars(options))
    print_result(result.to_dict(), _export_rows(result), as_json=as_json)


def _export_rows(result: "ExportResult") -> list[tuple[str, str]]:
    comparison, metadata = result.comparison, result.metadata
    metric = comparison.metric
    values = [format_metric(metric, value) for value in (comparison.value, comparison.exported_value)]
    rows = [
        ("exported", f"{result.path} ({format_int(metadata['num_bytes'])} bytes, {result.format}, {result.precision})"),
        ("verified on", f"{format_int(comparison.num_images)} images of {metadata['data']} ({metadata['split']})"),
        ("difference", f"{format_number(comparison.max_difference, 3)} of {comparison.difference_of}, at most"),
        (metric.title, f"{values[0]} before, {values[1]} exported"),
        ("report", str(result.report_path)),
    ]
    if comparison.num_compared:
        counts = f"{format_int(comparison.num_agreeing)} of {format_int(comparison.num_compared)} {comparison.noun}"
        rows.insert(2, (f"same {comparison.same}", counts))
    return rows
