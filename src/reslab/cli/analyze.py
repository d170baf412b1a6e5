"""`reslab analyze`: run an analysis on networks; print a table or JSON, write an HTML page or a PNG file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.model_options import AllowCode, NamedModel
from reslab.cli.options import (
    DataDir,
    Device,
    JsonFlag,
    MaxPixels,
    Panel,
    html_option,
    limit_pixels,
    parse_overrides,
    split_model_prefix,
)
from reslab.cli.output import echo_err, print_json, print_table, write_page
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from reslab.analysis.registry import Analysis
    from reslab.analysis.target import AnalysisTarget
    from reslab.report.analyses.result import RenderedResult

_MAX_PRINTED_TABLES = 6


def analyze(
    name: Annotated[
        str | None,
        typer.Argument(metavar="ANALYSIS", help="Name of an analysis; without one, all analyses are listed."),
    ] = None,
    target_specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|MODEL", help="Runs, RUN@STEP, weights files, models, MODEL:KEY=VALUE or timm/NAME."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH|random",
            rich_help_panel=Panel.DATA,
            help="Dataset of the images.",
            show_default="the run's own, else digits",
        ),
    ] = None,
    data_dir: DataDir = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="STEP|FILE|TAG",
            rich_help_panel=Panel.MODEL,
            help="Of a run: final, init, a step, or all (every snapshot). Of a model name: a run, a file or the tag of "
            "published weights.",
        ),
    ] = "final",
    model: NamedModel = None,
    allow_code: AllowCode = False,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            metavar="INTEGER",
            rich_help_panel=Panel.DATA,
            help="Number of images.",
            show_default="128, or 16 large ones",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="INTEGER", help="Random seed of the initial weights and the images.")
    ] = 0,
    html_path: Annotated[
        Path | None,
        html_option("Write an HTML page."),
    ] = None,
    png_path: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", rich_help_panel=Panel.OUTPUT, help="Write the plots as a PNG file."),
    ] = None,
    device: Device = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set an option of the analysis (`reslab analyze` lists them), or with model.KEY=VALUE override "
            "a value of the architectures. Repeatable.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Analyze one or more networks and compare the results; without arguments, list the analyses.

    Networks that an analysis does not apply to are skipped, with the reason.
    """
    from reslab.analysis.open_targets import open_targets
    from reslab.analysis.registry import ANALYSES, get_analysis, override_options, run_each
    from reslab.analysis.target import progress_callback

    if name is None:
        list_analyses(list(ANALYSES.values()), as_json)
        return
    analysis = get_analysis(name)
    check_analysis_outputs(html_path, png_path)
    arch_overrides, analysis_options = split_model_prefix(parse_overrides(overrides))
    override_options(analysis, analysis_options)
    names = target_specs or ([model] if model else [])
    from reslab.spec.config import to_dict

    with limit_pixels(max_pixels), progress_callback(echo_err):
        targets = open_targets(
            names,
            data=data or analysis.default_data,
            data_dir=data_dir,
            num_images=num_images,
            seed=seed,
            weights=weights,
            arch_overrides=arch_overrides,
            device=device,
            model=model if target_specs else None,
            allow_code=allow_code,
        )
        results, skipped = run_each(name, targets, analysis_options)
    result_dicts = [to_dict(result) for result in results]
    print_results(
        analysis,
        [target for target in targets if target.name not in skipped],
        result_dicts,
        skipped=skipped,
        html_path=html_path,
        png_path=png_path,
        as_json=as_json,
    )


def list_analyses(analyses: "Sequence[Analysis]", as_json: bool) -> None:
    """Print all analyses with their options."""
    from reslab.spec.config import override_keys

    rows = [
        {
            "name": analysis.name,
            "summary": analysis.summary,
            "reference": analysis.reference,
            "tasks": analysis.tasks,
            "options": {key: getattr(analysis.options, key, None) for key in override_keys(analysis.options)},
        }
        for analysis in analyses
    ]
    if as_json:
        print_json(rows)
        return
    print_table(["analysis", "summary", "options"], [_analysis_row(row) for row in rows])
    print("\nExample: reslab analyze gradients resnet56_cifar plain56_cifar")


def _analysis_row(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["name"], row["summary"], ", ".join(f"{key}={value}" for key, value in row["options"].items())


def check_analysis_outputs(html_path: Path | None, png_path: Path | None) -> None:
    """Raise ValueError for an output that is not .html or .png, before a measurement that may take long."""
    for path, suffixes in ((html_path, (".html", ".htm")), (png_path, (".png",))):
        if path is not None and path.suffix.lower() not in suffixes:
            raise invalid(f"a file ending in {suffixes[0]}", path, str(path.with_suffix(suffixes[0])))
        if path is not None and path.is_dir():
            raise invalid("a file", f"{path}, a folder", str(path / f"analysis{suffixes[0]}"))


def print_results(
    analysis: "Analysis",
    targets: "Sequence[AnalysisTarget]",
    results: Sequence[dict[str, Any]],
    *,
    skipped: Mapping[str, str],
    html_path: Path | None,
    png_path: Path | None,
    as_json: bool,
) -> None:
    """Print the results and the skipped networks; write the requested HTML page and PNG file."""
    from reslab.report.analyses import render_analysis

    rendered = render_analysis(analysis.name, results) if html_path or png_path or not as_json else None
    if rendered is not None:
        rendered = replace(
            rendered,
            paragraphs=(*rendered.paragraphs, *(f"{name} was skipped: {reason}" for name, reason in skipped.items())),
        )
        write_results(analysis, targets, rendered, html_path, png_path)
    if as_json:
        paths = {"html": _path_or_none(html_path), "png": _path_or_none(png_path)}
        print_json({"analysis": analysis.name, "results": results, "skipped": skipped, **paths})
    elif rendered is not None:
        _print_rendered(rendered)


def write_results(
    analysis: "Analysis",
    targets: "Sequence[AnalysisTarget]",
    rendered: "RenderedResult",
    html_path: Path | None,
    png_path: Path | None,
) -> None:
    """Write the requested HTML page and PNG file."""
    from reslab.analysis.open_targets import describe_target
    from reslab.report.pages.analysis import AnalysisPage
    from reslab.runtime.files import write_atomic
    from reslab.runtime.provenance import command_line

    if html_path is not None:
        metadata = {f"{target.name}": "; ".join(describe_target(target).values()) for target in targets}
        metadata |= {"command": command_line()}
        page = AnalysisPage(
            analysis.name,
            f"{analysis.summary[0].upper()}{analysis.summary[1:]}.",
            analysis.reference,
            rendered,
            metadata,
        )
        write_page(html_path, page)
    if png_path is not None:
        from reslab.report.plots.export import render_png

        write_atomic(png_path, render_png(rendered.figures, rendered.title))
        echo_err(f"PNG file: {png_path}")


def _path_or_none(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _print_rendered(rendered: "RenderedResult") -> None:
    has_many = len(rendered.tables) > _MAX_PRINTED_TABLES
    for table in rendered.tables[: 1 if has_many else None]:
        print(table.caption)
        print_table(table.columns, table.rows)
        print()
    for paragraph in rendered.paragraphs:
        print(paragraph)
    if has_many:
        print(f"({len(rendered.tables) - 1} more tables: --html FILE or --json)")
