"""`reslab inspect`: questions put to runs and networks; a table, JSON, a page, a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import DataDir, Device, Json, Settings, read_settings
from reslab.cli.output import print_json, print_table, say
from reslab.spec.errors import invalid

if TYPE_CHECKING:
    from reslab.analysis.registry import Analysis
    from reslab.analysis.subject import AnalysisTarget
    from reslab.report.analyses.result import RenderedResult

_MANY_TABLES = 6


def inspect(
    question: Annotated[str | None, typer.Argument(metavar="[QUESTION]", help="`reslab inspect` lists them.")] = None,
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|MODEL]...", help="Runs, RUN@STEP, weights, networks: NAME:AXIS=VALUE, timm/NAME."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME|FOLDER|random", help="[default: the run's own, else digits]")
    ] = None,
    data_dir: DataDir = None,
    at: Annotated[
        str, typer.Option("--at", metavar="weights|init|all|STEP", help="Which weights of a run; all: each snapshot.")
    ] = "weights",
    images: Annotated[
        int | None, typer.Option("--images", metavar="N", help="Pictures to ask with. [default: 128, or 16 large ones]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fresh weights and the choice of pictures follow from it.")] = 0,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write a page (HTML).")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write the pictures (PNG).")] = None,
    device: Device = "auto",
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Put a question to networks, several beside each other: --set KEY=VALUE is an option of the question.

    Of several, those that it cannot be put to are left out, and named.
    """
    from reslab.analysis.progress import progress_callback
    from reslab.analysis.registry import ANALYSES, default_data, get_analysis, override_options, run_each
    from reslab.analysis.subject import open_targets

    if question is None:
        list_questions(list(ANALYSES.values()), json)
        return
    asked = get_analysis(question)
    check_files(page, png)
    axes, options = split_settings(read_settings(settings))
    override_options(asked, options)
    subjects = open_targets(
        places or [],
        data=data or default_data(question),
        data_dir=data_dir,
        num_images=images,
        seed=seed,
        weights=at,
        arch_overrides=axes,
        device=device,
    )
    from reslab.spec.config import to_dict

    with progress_callback(say):
        found, left_out = run_each(question, subjects, options)
    answers = [to_dict(answer) for answer in found]
    tell(asked, [subject for subject in subjects if subject.name not in left_out], answers, left_out, page, png, json)


def list_questions(questions: "Sequence[Analysis]", json: bool) -> None:
    """What can be asked."""
    from reslab.spec.config import override_keys

    rows = [
        {
            "name": question.name,
            "summary": question.summary,
            "reference": question.reference,
            "options": {key: getattr(question.options, key, None) for key in override_keys(question.options)},
        }
        for question in questions
    ]
    if json:
        print_json(rows)
        return
    print_table(["question", "what is asked", "options"], [_row(row) for row in rows])
    print("\nreslab inspect QUESTION RUN|MODEL...   such as: reslab inspect gradients resnet56_cifar plain56_cifar")


def _row(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["name"], row["summary"], ", ".join(f"{key}={value}" for key, value in row["options"].items())


def split_settings(settings: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Settings of the network (`model.KEY`, without the prefix) and of the question."""
    axes = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    return axes, {key: value for key, value in settings.items() if not key.startswith("model.")}


def check_files(page: Path | None, png: Path | None) -> None:
    """ValueError for a name that is no page or picture: said before anything is measured, which may take long."""
    for place, kinds in ((page, (".html", ".htm")), (png, (".png",))):
        if place is not None and place.suffix.lower() not in kinds:
            raise invalid(f"a file ending in {kinds[0]}", place, str(place.with_suffix(kinds[0])))
        if place is not None and place.is_dir():
            raise invalid("a file", f"{place}, a folder", str(place / f"answer{kinds[0]}"))


def tell(
    question: "Analysis",
    subjects: "Sequence[AnalysisTarget]",
    answers: Sequence[dict[str, Any]],
    left_out: Mapping[str, str],
    page: Path | None,
    png: Path | None,
    json: bool,
) -> None:
    """Print the answers, and who is left out of them; write the page and the picture that were asked for."""
    from reslab.report.analyses import render_analysis

    shown = render_analysis(question.name, answers) if page or png or not json else None
    if shown is not None:
        shown = replace(
            shown, paragraphs=(*shown.paragraphs, *(f"{name} is left out: {why}" for name, why in left_out.items()))
        )
        write(question, subjects, shown, page, png)
    if json:
        files = {"page": _text(page), "png": _text(png)}
        print_json({"analysis": question.name, "results": answers, "left_out": left_out, **files})
    elif shown is not None:
        _print(shown)


def write(
    question: "Analysis",
    subjects: "Sequence[AnalysisTarget]",
    shown: "RenderedResult",
    page: Path | None,
    png: Path | None,
) -> None:
    """The page and the picture, where asked for."""
    from reslab.analysis.subject import describe_target
    from reslab.report.analyses.result import AnalysisPage
    from reslab.report.render import render_analysis_page
    from reslab.runtime.files import write_whole
    from reslab.runtime.provenance import command

    if page is not None:
        told = {f"{subject.name}": "; ".join(describe_target(subject).values()) for subject in subjects}
        told |= {"command": command()}
        content = AnalysisPage(question.name, f"Asked: {question.summary}.", question.reference, shown, told)
        write_whole(page, render_analysis_page(content).encode())
        say(f"page: {page}")
    if png is not None:
        from reslab.report.plots.png import render_png as drawn

        write_whole(png, drawn(shown.figures, shown.title))
        say(f"picture: {png}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _print(shown: "RenderedResult") -> None:
    many = len(shown.tables) > _MANY_TABLES
    for table in shown.tables[: 1 if many else None]:
        print(table.caption)
        print_table(table.columns, table.rows)
        print()
    for words in shown.paragraphs:
        print(words)
    if many:
        print(f"({len(shown.tables) - 1} more tables: --page FILE or --json)")
