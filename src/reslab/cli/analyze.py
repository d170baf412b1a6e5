"""`reslab analyze`: run an analysis on networks; print a table or JSON, write an HTML page or a PNG file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    AllowCode,
    DataDir,
    Device,
    JsonFlag,
    MaxPixels,
    NamedModel,
    Panel,
    html_option,
    limit_pixels,
)
from reslab.cli.output import echo_err, print_json, print_table, write_page
from reslab.cli.overrides import parse_overrides, split_model_prefix
from reslab.runtime.files import write_atomic
from reslab.spec.config import override_keys, to_dict
from reslab.spec.errors import invalid, unknown_name

if TYPE_CHECKING:
    from reslab.analysis.registry import Analysis
    from reslab.analysis.target import AnalysisTarget
    from reslab.report.analyses.result import RenderedResult

# The keys of `ANALYSES`, which imports torch.
ANALYSIS_NAMES = (
    "shapes",
    "cost",
    "gradients",
    "telescope",
    "responses",
    "scaling",
    "orders",
    "lesion",
    "landscape",
    "attribution",
    "features",
    "similarity",
    "nearest",
    "probes",
    "compare",
)
_MAX_PRINTED_TABLES = 6


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The weights to analyze and the images to analyze them on, by the names of `open_targets`."""

    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH|random",
            rich_help_panel=Panel.DATA,
            help="Dataset of the images.",
            show_default="the run's own, else digits",
        ),
    ] = None
    data_dir: DataDir = None
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="STEP|FILE|TAG",
            rich_help_panel=Panel.MODEL,
            help="Of a run: final, init, a step, or all (every snapshot). Of a model name: a run, a file or the tag of "
            "published weights.",
        ),
    ] = "final"
    model: NamedModel = None
    allow_code: AllowCode = False
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            metavar="INTEGER",
            rich_help_panel=Panel.DATA,
            help="Number of images.",
            show_default="128, or 16 large ones",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", metavar="INTEGER", help="Random seed of the initial weights and the images.")
    ] = 0


@dataclass(frozen=True, kw_only=True)
class AnalysisOutput:
    """Where the results go: a page, plots, and the terminal as tables or JSON."""

    html_path: Annotated[
        Path | None,
        html_option("Write an HTML page."),
    ] = None
    png_path: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", rich_help_panel=Panel.OUTPUT, help="Write the plots as a PNG file."),
    ] = None
    as_json: JsonFlag = False

    def check(self) -> None:
        """Raise ValueError for an output that is not .html or .png, before a measurement that may take long."""
        for path, suffixes in ((self.html_path, (".html", ".htm")), (self.png_path, (".png",))):
            if path is not None and path.suffix.lower() not in suffixes:
                raise invalid(f"a file ending in {suffixes[0]}", path, str(path.with_suffix(suffixes[0])))
            if path is not None and path.is_dir():
                raise invalid("a file", f"{path}, a folder", str(path / f"analysis{suffixes[0]}"))


def analyze(
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="ANALYSIS", help="Name of an analysis; without one, all analyses are listed."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|MODEL", help="Runs, RUN@STEP, weights files, models, MODEL:KEY=VALUE or timm/NAME."
        ),
    ] = None,
    target: TargetOptions,
    max_pixels: MaxPixels = None,
    output: AnalysisOutput,
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
) -> None:
    """Analyze one or more networks and compare the results; without arguments, list the analyses.

    Networks that an analysis does not apply to are skipped, with the reason.
    """
    if name is not None and name not in ANALYSIS_NAMES:
        raise unknown_name("analysis", name, ANALYSIS_NAMES, "`reslab analyze` lists them all")
    output.check()
    _check_names(names or [])
    arch_overrides, analysis_options = split_model_prefix(parse_overrides(overrides))
    from reslab.analysis.open_targets import open_targets
    from reslab.analysis.registry import ANALYSES, override_options, run_each
    from reslab.analysis.target import progress_callback

    if name is None:
        list_analyses(list(ANALYSES.values()), output.as_json)
        return
    analysis = ANALYSES[name]
    override_options(analysis, analysis_options)
    options = vars(target) | {"data": target.data or analysis.default_data}
    if not names:  # --model names the network itself, beside runs their factory
        names, options["model"] = [target.model] if target.model else [], None
    with limit_pixels(max_pixels), progress_callback(echo_err):
        targets = open_targets(names, arch_overrides=arch_overrides, device=device, **options)
        results, skipped = run_each(name, targets, analysis_options)
    analyzed = [one for one in targets if one.name not in skipped]
    print_results(analysis, analyzed, [to_dict(result) for result in results], skipped, output)


def _check_names(names: Sequence[str]) -> None:
    """Raise ValueError for a name that no model has, before torch is imported; paths and other forms are left."""
    from reslab.spec.zoo.dense import require_model

    for name in names:
        if not set(name) & set("/@:") and not Path(name).suffix and not Path(name).exists():
            require_model(name)


def list_analyses(analyses: "Sequence[Analysis]", as_json: bool) -> None:
    """Print all analyses with their options."""
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


def print_results(
    analysis: "Analysis",
    targets: "Sequence[AnalysisTarget]",
    results: Sequence[dict[str, Any]],
    skipped: Mapping[str, str],
    output: AnalysisOutput,
) -> None:
    """Print the results and the skipped networks; write the requested HTML page and PNG file."""
    from reslab.report.analyses import render_analysis

    is_rendered = output.html_path or output.png_path or not output.as_json
    rendered = render_analysis(analysis.name, results) if is_rendered else None
    if rendered is not None:
        rendered = replace(
            rendered,
            paragraphs=(*rendered.paragraphs, *(f"{name} was skipped: {reason}" for name, reason in skipped.items())),
        )
        write_results(analysis, targets, rendered, output)
    if output.as_json:
        paths = {"html": _path_or_none(output.html_path), "png": _path_or_none(output.png_path)}
        print_json({"analysis": analysis.name, "results": results, "skipped": skipped, **paths})
    elif rendered is not None:
        _print_rendered(rendered)


def write_results(
    analysis: "Analysis", targets: "Sequence[AnalysisTarget]", rendered: "RenderedResult", output: AnalysisOutput
) -> None:
    """Write the requested HTML page and PNG file."""
    if output.html_path is not None:
        from reslab.analysis.open_targets import describe_target
        from reslab.report.pages.analysis import AnalysisPage
        from reslab.runtime.provenance import command_line

        metadata = {f"{target.name}": "; ".join(describe_target(target).values()) for target in targets}
        metadata |= {"command": command_line()}
        page = AnalysisPage(
            analysis.name,
            f"{analysis.summary[0].upper()}{analysis.summary[1:]}.",
            analysis.reference,
            rendered,
            metadata,
        )
        write_page(output.html_path, page)
    if output.png_path is not None:
        from reslab.report.plots.export import render_png

        write_atomic(output.png_path, render_png(rendered.figures, rendered.title))
        echo_err(f"PNG file: {output.png_path}")


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
