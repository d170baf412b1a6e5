"""Everything that the page of a study names; the same parts make its Markdown.

The page of a study as Markdown, its figures as SVG files beside it: what stands in docs/studies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reslab.report.format import format_duration, markdown_table
from reslab.report.pages.study_text import (
    StudyPage,
    StudyRow,
    estimated_time_text,
    metric_descriptions,
    metric_display_name,
    ours_text,
    provenance_text,
    reported_text,
    scale_text,
    seeds_text,
    stamp_text,
    study_summary_text,
)
from reslab.report.plots.export import render_inline_svg, render_svg_file
from reslab.report.plots.study import StudyFigure, plot_study_figures
from reslab.spec.study import Metric, ReportedValue, get_metric


def study_context(page: StudyPage) -> dict[str, Any]:
    """The values of `study.html`, by name. A figure's name is the id of its drawing on the page."""
    figures = plot_study_figures(page)
    return {
        "kind": f"Study · {page.study.name}",
        "title": page.study.title,
        "summary": study_summary_text(page),
        "scale": page.scale,
        "scale_text": scale_text(page),
        "stamp": stamp_text(page),
        "reference": page.study.reference,
        "claims": claim_rows(page),
        "figures": [_figure_context(figure) for figure in figures],
        "rows": value_rows(page),
        "metrics": metric_descriptions(page_metrics(page)),
        "missing": missing_rows(page),
        "missing_heading": missing_heading(page),
        "differences": difference_lines(page),
        "notes": note_lines(page),
        "metadata": study_metadata(page),
        "sections": [],
    }


def claim_rows(page: StudyPage) -> list[dict[str, str]]:
    """Each claim with its verdict, a word for its look, and the reason."""
    css_classes = {"holds": "holds", "fails": "fails"}
    return [
        {
            "text": claim.text,
            "verdict": claim.verdict if page.scale == "full" or claim.verdict == "not judged"
            else f"{claim.verdict} at this scale",
            "kind": css_classes.get(claim.verdict, "open"),
            "explanation": claim.explanation,
        }
        for claim in page.claims
    ]  # fmt: skip


def value_rows(page: StudyPage) -> list[dict[str, str]]:
    """A line a row and metric: name, network, what it measures, reported, ours, seeds, where it is reported, time."""
    return [cells for row in page.rows for cells in _value_cells(row)]


def _value_cells(row: StudyRow) -> list[dict[str, str]]:
    main: tuple[Metric, ReportedValue | None] = (row.metric, row.row.reported)
    metrics = [main, *((get_metric(reported.metric), reported) for reported in row.row.more_reported)]
    return [
        {
            "name": row.row.name if index == 0 else "",
            "arch": (row.arch_text or row.row.model) if index == 0 else "",
            "metric": metric_display_name(metric.name),
            "reported": reported_text(reported, metric.unit),
            "ours": ours_text(row, metric.name, metric.unit),
            "seeds": str(len(row.values(metric.name)) or len(row.runs)) if row.runs else "–",
            "provenance": provenance_text(reported),
            "time": format_duration(train_seconds)
            if index == 0 and (train_seconds := sum(run.train_seconds for run in row.runs))
            else "",
            "was_run": "yes" if row.runs else "",
        }
        for index, (metric, reported) in enumerate(metrics)
    ]


def page_metrics(page: StudyPage) -> list[Metric]:
    """Every metric of the page's table, each once."""
    names = [row.row.metric for row in page.rows]
    names += [reported.metric for row in page.rows for reported in row.row.more_reported]
    return [get_metric(name) for name in dict.fromkeys(names)]


def missing_heading(page: StudyPage) -> str:
    """The heading over `missing_rows`: some of them may be there in part, or have diverged."""
    return "Not run, or not in full" if any(row.runs and row.not_run_reason for row in page.rows) else "Not run"


def missing_rows(page: StudyPage) -> list[dict[str, str]]:
    """The rows that were not run, or not wholly, each with the reason and its price."""
    return [
        {"name": row.row.name, "reason": row.not_run_reason or "not run", "estimated_time": estimated_time_text(row)}
        for row in page.rows
        if not row.runs or row.not_run_reason
    ]


def difference_lines(page: StudyPage) -> list[str]:
    """Where the procedure is not the paper's: the cuts of the scale with the rows they are of, then the study's own."""
    names_by_preset: dict[str, list[str]] = {}
    for row in page.rows:
        names_by_preset.setdefault(row.preset.description, []).append(row.row.name)
    if page.scale == "full":
        lines = [
            f"{description} ({_join_names(names)})"
            for description, names in names_by_preset.items()
            if not description.startswith("nothing")
        ]
    elif len(names_by_preset) == 1:
        lines = [f"all rows: {description}" for description in names_by_preset]
    else:
        lines = [f"{_join_names(names)}: {description}" for description, names in names_by_preset.items()]
    return [*lines, *page.study.differences]


def note_lines(page: StudyPage) -> list[str]:
    """What a reader must be told beside: of these trainings, then of the study."""
    return [*page.notes, *([page.study.notes] if page.study.notes else [])]


def study_metadata(page: StudyPage) -> dict[str, str]:
    """Study, source, scale and seeds, then the facts of the page."""
    study = {
        "study": page.study.name,
        "reference": page.study.reference,
        "scale": page.scale,
        "seeds": seeds_text(page),
    }
    return study | {str(name): str(value) for name, value in page.metadata.items()}


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:4])} and {len(names) - 4} more"


def _figure_context(figure: StudyFigure) -> dict[str, Any]:
    width_inches = float(figure.figure.get_size_inches()[0])
    return {
        "title": figure.title,
        "svg": Markup(render_inline_svg(figure.figure, figure.name, figure.alt_text)),
        "caption": figure.caption,
        "wide": width_inches > 7.5,
        "min_width": round(62 * width_inches),
    }


_VERDICT_EMOJI = {"holds": "✅", "fails": "❌", "open": "◻️"}


def render_study_markdown(page: StudyPage, figure_dir: str = "") -> tuple[str, dict[str, str]]:
    """The text, and the SVG of each figure by file name; the text looks for them in the folder `figures_in`."""
    figures = plot_study_figures(page)
    svg_files = {f"{figure.name}.svg": render_svg_file(figure.figure, figure.alt_text) for figure in figures}
    sections = [
        f"# {page.study.title}",
        f"`{page.study.name}` · {page.study.reference}",
        f"> **{scale_text(page).replace(':', ':**', 1)}",
        study_summary_text(page),
        *_claims_section(page),
        *_figures_section(figures, figure_dir),
        "## The numbers",
        _values_table(page),
        " ".join(metric_descriptions(page_metrics(page)))
        + f" Ours: {page.scale} scale, the mean over the seeds ± their standard deviation, always of the last step.",
        _provenance_section(page),
        *_missing_section(page),
        *_bullet_section("## Where this is not the paper's procedure", difference_lines(page)),
        *_bullet_section("## Notes", note_lines(page)),
        *_metadata_section(study_metadata(page)),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n", svg_files


def _claims_section(page: StudyPage) -> list[str]:
    rows = [
        [f"{_VERDICT_EMOJI[row['kind']]} {row['verdict']}", row["text"], row["explanation"]] for row in claim_rows(page)
    ]
    return ["## What the paper says, and what came out", markdown_table(["verdict", "claim", "why"], rows)] * bool(rows)


def _figures_section(figures: Sequence[StudyFigure], figure_dir: str) -> list[str]:
    lines = []
    for figure in figures:
        alt_text = figure.alt_text.replace("[", "(").replace("]", ")")
        prefix = f"{figure_dir.rstrip('/')}/" if figure_dir else ""
        lines += [f"### {figure.title}", f"![{alt_text}]({prefix}{figure.name}.svg)", figure.caption]
    return ["## In pictures", *lines] if lines else []


def _values_table(page: StudyPage) -> str:
    columns = ("row", "network", "metric", "reported", f"ours, {page.scale}", "seeds", "training")
    rows = [
        [
            row["name"],
            f"`{row['arch']}`" if row["arch"] else "",
            row["metric"],
            row["reported"],
            f"**{row['ours']}**" if row["was_run"] else row["ours"],
            row["seeds"],
            row["time"],
        ]
        for row in value_rows(page)
    ]
    return markdown_table(columns, rows, "lllrrrr")


def _provenance_section(page: StudyPage) -> str:
    rows = [row for row in value_rows(page) if row["provenance"]]
    if not rows:
        return ""
    table = markdown_table(
        ("row", "metric", "reported", "how, and where"),
        [[row["name"], row["metric"], row["reported"], row["provenance"]] for row in rows],
        "llrl",
    )
    return f"<details><summary>Where each reported value is printed</summary>\n\n{table}\n</details>"


def _missing_section(page: StudyPage) -> list[str]:
    rows = [[row["name"], row["reason"], row["estimated_time"]] for row in missing_rows(page)]
    return (
        [f"## {missing_heading(page)}", markdown_table(("row", "why", "price, all seeds"), rows, "llr")] if rows else []
    )


def _bullet_section(heading: str, items: Sequence[str]) -> list[str]:
    return [heading, "\n".join(f"* {item}" for item in items)] if items else []


def _metadata_section(metadata: Mapping[str, str]) -> list[str]:
    command = metadata.get("command", "")
    rows = [[name, value] for name, value in metadata.items() if name != "command"]
    return ["## Facts", *([f"```\n{command}\n```"] if command else []), markdown_table(("", ""), rows)]
