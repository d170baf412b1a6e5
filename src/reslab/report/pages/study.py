"""The page of a study, as HTML and as Markdown with its figures as SVG files (docs/studies)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reslab.report.format import format_duration, markdown_table
from reslab.report.pages.components import make_panel
from reslab.report.pages.study_results import (
    StudyPage,
    StudyRow,
    comparable_rows,
    estimated_time_text,
    eval_split_name,
    figure_alt_text,
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
from reslab.spec.study import FIGURE_KINDS, FigureSpec, ReportedValue, StudyMetric, get_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_REPORTED_CAPTION = (
    "Diamond: the value the {source} reports (hollow where it was not verified in the {source}). "
    "Dot: ours, mean and standard deviation over the seeds; small dots are the seeds."
)


@dataclass(frozen=True)
class StudyFigure:
    """A figure with its file name (without suffix), title, alternative text and caption."""

    name: str
    title: str
    alt_text: str
    caption: str
    figure: "Figure"


def plot_study_figures(page: StudyPage) -> list[StudyFigure]:
    """Return the figures for which there are results; each has the scale stamped inside."""
    from reslab.report.plots.study import plot_against_reported

    figures = [
        figure
        for figure_number, spec in enumerate(page.study.figures, 1)
        for figure in _plot_spec(page, spec, figure_number)
    ]
    if any(row.row.reported is not None for row in page.rows) and any(row.values() for row in page.rows):
        title = "Ours beside the reported values"
        shown = replace(page, rows=comparable_rows(page))
        figure = plot_against_reported(shown, stamp_text(shown))
        caption = _REPORTED_CAPTION.format(source=page.study.source) + _left_out_text(page, shown)
        figures.append(
            StudyFigure(f"{_file_stem(page)}-reported", title, figure_alt_text(shown, title), caption, figure)
        )
    return figures


def _left_out_text(page: StudyPage, shown: StudyPage) -> str:
    """Return the rows that were trained for less than in the source, which the figure leaves out; empty if none."""
    left_out = [f"{row.row.name} ({row.preset.description})" for row in page.rows if row not in shown.rows]
    if not left_out:
        return ""
    return f" Not shown, because trained for fewer epochs than in the {page.study.source}: {', '.join(left_out)}."


def _file_stem(page: StudyPage) -> str:
    return page.study.name.replace("/", "-")


def _plot_spec(page: StudyPage, spec: FigureSpec, figure_number: int) -> list[StudyFigure]:
    rows = page.select_rows(spec.rows)
    if spec.kind in ("gradients", "responses"):
        rows = [row for row in rows if row.analysis_results(spec.analysis or spec.kind)]
    if not any(row.runs for row in rows):
        return []
    if spec.kind == "analysis":
        return _plot_analysis(page, spec, figure_number)
    caption = (
        _metric_lines_caption(page, spec)
        if spec.kind == "lines"
        else FIGURE_KINDS[spec.kind].format(split=eval_split_name(rows))
    )
    name = f"{_file_stem(page)}-{figure_number}-{spec.kind.replace('_', '-')}"
    from reslab.report.plots.study import STUDY_PLOTS

    figure = STUDY_PLOTS[spec.kind](page, spec, stamp_text(page, rows))
    alt_text = figure_alt_text(page, spec.title, spec.rows, spec.metric)
    if spec.kind in ("gradients", "responses"):
        alt_text = f"{spec.title}, {page.scale} scale: {', '.join(spec.rows)}."
    return [
        StudyFigure(
            name, spec.title, alt_text, f"{_source_prefix(page, spec)}{caption[:1].upper()}{caption[1:]}.", figure
        )
    ]


def _plot_analysis(page: StudyPage, spec: FigureSpec, figure_number: int) -> list[StudyFigure]:
    """Return the figures of an analysis, its networks under the names of their rows."""
    from reslab.report.analyses import render_analysis
    from reslab.report.plots.study_curves import add_stamp
    from reslab.report.plots.style import plot_style

    named_rows = [(name, page.row(name)) for name in spec.rows]
    results = [
        {**row_results[0], "model": name, "step": None}
        for name, row in named_rows
        if row is not None and (row_results := row.analysis_results(spec.analysis))
    ]
    if not results:
        return []
    rendered, figures = render_analysis(spec.analysis.partition("@")[0], results), []
    for letter, figure in zip("abcdefghij", rendered.figures, strict=False):
        with plot_style():
            add_stamp(figure.figure, stamp_text(page, page.select_rows(spec.rows)))
        name = f"{_file_stem(page)}-{figure_number}{letter}-{spec.analysis.replace('@', '-')}"
        alt_text = f"{figure.alt_text} {page.scale.capitalize()} scale, the first seed. {' '.join(rendered.paragraphs)}"
        caption = f"{_source_prefix(page, spec)}{figure.caption} First seed of each network."
        figures.append(StudyFigure(name, figure.title or spec.title, alt_text, caption, figure.figure))
    return figures


def _metric_lines_caption(page: StudyPage, spec: FigureSpec) -> str:
    reported_text = (
        f"; dotted, with diamonds: the values the {page.study.source} reports" if page.scale == "full" else ""
    )
    description = get_metric(spec.metric).description if "." in spec.metric else metric_display_name(spec.metric)
    caption = f"{description}, against {spec.x_label}"
    return f"{caption}, mean and standard deviation over the seeds{reported_text}"


def _source_prefix(page: StudyPage, spec: FigureSpec) -> str:
    return f"After the {page.study.source}'s {spec.location}. " if spec.location else ""


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
