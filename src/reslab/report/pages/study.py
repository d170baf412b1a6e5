"""The page of a study, as HTML and as Markdown with its figures as SVG files (docs/studies)."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.format import format_duration, markdown_table
from reslab.report.pages.components import make_panel
from reslab.report.pages.study_figures import StudyFigure, plot_study_figures
from reslab.report.pages.study_results import (
    StudyPage,
    StudyRow,
    comparable_rows,
    estimated_time_text,
    metric_descriptions,
    metric_display_name,
    ours_text,
    provenance_text,
    reported_text,
    scale_text,
    seeds_text,
    study_summary_text,
)
from reslab.spec.study import ReportedValue, StudyMetric, get_metric


def study_context(page: StudyPage) -> dict[str, Any]:
    """Return the values of `study.html`."""
    figures = plot_study_figures(page)
    return {
        "kind": f"Study · {page.study.name}",
        "title": page.study.title,
        "summary": study_summary_text(page),
        "scale": page.scale,
        "scale_text": scale_text(page),
        "reference": page.study.reference,
        "claim_sections": claim_sections(page),
        "source": page.study.source,
        "figures": [
            make_panel(figure.figure, figure.name, title=figure.title, alt_text=figure.alt_text, caption=figure.caption)
            for figure in figures
        ],
        "rows": value_rows(page),
        "metrics": metric_descriptions(page_metrics(page)),
        "missing": missing_rows(page),
        "missing_heading": missing_heading(page),
        "differences": difference_lines(page),
        "notes": note_lines(page),
        "metadata": study_metadata(page),
    }


def claim_sections(page: StudyPage) -> list[dict[str, Any]]:
    """Return the headings with their claims: what the source states, then tests of our own, which it does not."""
    headings = {
        False: f"Claims of the {page.study.source}",
        True: f"Tests of our own, not stated in the {page.study.source}",
    }
    sections = [
        {"anchor": "our-tests" if is_ours else "claims", "heading": heading, "claims": claim_rows(page, is_ours)}
        for is_ours, heading in headings.items()
    ]
    return [section for section in sections if section["claims"]]


def claim_rows(page: StudyPage, is_ours: bool) -> list[dict[str, str]]:
    """Return each claim of the source, or each test of our own, with its verdict and the evidence."""
    return [
        {
            "text": claim.text,
            "verdict": claim.verdict,
            "verdict_text": claim.verdict if page.scale == "full" else f"{claim.verdict} at this scale",
            "explanation": claim.explanation,
        }
        for claim in page.claims
        if claim.is_ours == is_ours
    ]


def value_rows(page: StudyPage) -> list[dict[str, str]]:
    """Return a table row for each row and metric: ours beside the reported value."""
    comparable = comparable_rows(page)
    return [cells for row in page.rows for cells in _value_cells(row, is_shortened=row not in comparable)]


def _value_cells(row: StudyRow, *, is_shortened: bool) -> list[dict[str, str]]:
    main: tuple[StudyMetric, ReportedValue | None] = (row.metric, row.row.reported)
    arch_text = f"{row.arch_text or row.row.model}{f', {row.preset.description}' if is_shortened else ''}"
    metrics = [main, *((get_metric(reported.metric), reported) for reported in row.row.more_reported)]
    return [
        {
            "name": row.row.name if index == 0 else "",
            "arch": arch_text if index == 0 else "",
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


def page_metrics(page: StudyPage) -> list[StudyMetric]:
    """Return the metrics of the page's table, each once."""
    names = [row.row.metric for row in page.rows]
    names += [reported.metric for row in page.rows for reported in row.row.more_reported]
    return [get_metric(name) for name in dict.fromkeys(names)]


def missing_heading(page: StudyPage) -> str:
    """Return the heading of `missing_rows`, of which some may have been run in part."""
    return "Not run, or incomplete" if any(row.runs and row.not_run_reason for row in page.rows) else "Not run"


def missing_rows(page: StudyPage) -> list[dict[str, str]]:
    """Return the rows that were not run, or not with all seeds, with the reason and the estimated time."""
    return [
        {"name": row.row.name, "reason": row.not_run_reason or "not run", "estimated_time": estimated_time_text(row)}
        for row in page.rows
        if not row.runs or row.not_run_reason
    ]


def difference_lines(page: StudyPage) -> list[str]:
    """Return where the procedure differs from the paper's: changes of the scale by row, then those of the study."""
    names_by_preset: dict[str, list[str]] = {}
    changed = {row.preset.description for row in page.rows if row.preset.changes_procedure}
    for row in page.rows:
        names_by_preset.setdefault(row.preset.description, []).append(row.row.name)
    if page.scale == "full":
        lines = [
            f"{description} ({_join_names(names)})"
            for description, names in names_by_preset.items()
            if description in changed
        ]
    elif len(names_by_preset) == 1:
        lines = [f"all rows: {description}" for description in names_by_preset]
    else:
        lines = [f"{_join_names(names)}: {description}" for description, names in names_by_preset.items()]
    return [*lines, *page.study.differences]


def note_lines(page: StudyPage) -> list[str]:
    """Return the notes on these training runs, then those of the study."""
    return [*page.notes, *([page.study.notes] if page.study.notes else [])]


def study_metadata(page: StudyPage) -> dict[str, str]:
    """Return study, reference, scale and seeds, then the metadata of the page."""
    study = {
        "study": page.study.name,
        "reference": page.study.reference,
        "scale": page.scale,
        "seeds": seeds_text(page),
    }
    return study | {str(name): str(value) for name, value in page.metadata.items()}


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:4])} and {len(names) - 4} more"


_VERDICT_EMOJI = {"holds": "✅", "fails": "❌", "undecided": "◻️"}


def render_study_markdown(page: StudyPage, figure_dir: str = "") -> tuple[str, dict[str, str]]:
    """Return the Markdown, and the SVG of each figure by file name; the Markdown links them in `figure_dir`."""
    from reslab.report.plots.export import render_svg_file

    figures = plot_study_figures(page)
    svg_files = {f"{figure.name}.svg": render_svg_file(figure.figure, figure.alt_text) for figure in figures}
    sections = [
        f"# {page.study.title}",
        f"`{page.study.name}` · {page.study.reference}",
        f"> **{page.scale.capitalize()} scale:** {scale_text(page)}",
        study_summary_text(page),
        *_claims_section(page),
        *_figures_section(figures, figure_dir),
        "## Results",
        _values_table(page),
        " ".join(metric_descriptions(page_metrics(page)))
        + f" Ours: {page.scale} scale, mean ± standard deviation over the seeds, of the last step.",
        _provenance_section(page),
        *_missing_section(page),
        *_bullet_section(f"## Differences from the {page.study.source}'s procedure", difference_lines(page)),
        *_bullet_section("## Notes", note_lines(page)),
        *_metadata_section(study_metadata(page)),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n", svg_files


def _claims_section(page: StudyPage) -> list[str]:
    parts: list[str] = []
    for section in claim_sections(page):
        rows = [
            [f"{_VERDICT_EMOJI[row['verdict']]} {row['verdict_text']}", row["text"], row["explanation"]]
            for row in section["claims"]
        ]
        parts += [f"## {section['heading']}", markdown_table(["verdict", "claim", "evidence"], rows)]
    return parts


def _figures_section(figures: Sequence[StudyFigure], figure_dir: str) -> list[str]:
    lines = []
    for figure in figures:
        alt_text = figure.alt_text.replace("[", "(").replace("]", ")")
        prefix = f"{figure_dir.rstrip('/')}/" if figure_dir else ""
        lines += [f"### {figure.title}", f"![{alt_text}]({prefix}{figure.name}.svg)", figure.caption]
    return ["## Figures", *lines] if lines else []


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
        ("row", "metric", "reported", "statistic, protocol and place"),
        [[row["name"], row["metric"], row["reported"], row["provenance"]] for row in rows],
        "llrl",
    )
    return f"<details><summary>Sources of the reported values</summary>\n\n{table}\n</details>"


def _missing_section(page: StudyPage) -> list[str]:
    rows = [[row["name"], row["reason"], row["estimated_time"]] for row in missing_rows(page)]
    return (
        [f"## {missing_heading(page)}", markdown_table(("row", "reason", "estimated time, all seeds"), rows, "llr")]
        if rows
        else []
    )


def _bullet_section(heading: str, items: Sequence[str]) -> list[str]:
    return [heading, "\n".join(f"* {item}" for item in items)] if items else []


def _metadata_section(metadata: Mapping[str, str]) -> list[str]:
    command = metadata.get("command", "")
    rows = [[name, value] for name, value in metadata.items() if name != "command"]
    return ["## Details", *([f"```\n{command}\n```"] if command else []), markdown_table(("", ""), rows)]
