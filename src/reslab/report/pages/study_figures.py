"""The figures of a study's page: those of its spec, then ours beside the reported values."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reslab.report.pages.study_results import (
    StudyPage,
    comparable_rows,
    eval_split_name,
    figure_alt_text,
    metric_display_name,
    stamp_text,
)
from reslab.spec.study import FIGURE_KINDS, FigureSpec, get_metric

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
    from reslab.report.plots.study_style import add_stamp
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
