"""The figures of a study's page, in its order: what its spec draws, then ours beside the reported values."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from reslab.report.analyses import render_analysis
from reslab.report.pages.study_text import StudyPage, figure_alt_text, metric_display_name, stamp_text
from reslab.report.plots import study_curves
from reslab.report.plots import study_values as study_numbers
from reslab.report.plots import study_values as study_profiles
from reslab.report.plots.study_style import add_stamp
from reslab.report.plots.style import plot_style
from reslab.spec.study import FIGURE_KINDS, FigureSpec, get_metric

_PLOTTERS: dict[str, Callable[[StudyPage, FigureSpec, str], Figure]] = {
    "error_curves": study_curves.plot_error_curves,
    "loss_and_error": study_curves.plot_loss_and_error,
    "train_then_test": study_curves.plot_train_then_test,
    "lines": study_numbers.plot_metric_lines,
    "gradients": study_profiles.plot_gradient_profiles,
    "responses": study_profiles.plot_response_profiles,
}
_REPORTED_CAPTION = (
    "Diamond: the value that the paper reports (hollow where it was not read in the paper itself). "
    "Dot: ours, the mean over the seeds with its standard deviation; small dots are the seeds."
)


@dataclass(frozen=True)
class StudyFigure:
    """A figure with its file's name, its title, what it shows in words, and its caption."""

    name: str
    title: str
    alt_text: str
    caption: str
    figure: Figure


def plot_study_figures(page: StudyPage) -> list[StudyFigure]:
    """Every figure of the page that has something to show; the scale is stamped inside each."""
    figures = [
        figure
        for figure_number, spec in enumerate(page.study.figures, 1)
        for figure in _plot_spec(page, spec, figure_number)
    ]
    if any(row.row.reported is not None for row in page.rows) and any(row.values() for row in page.rows):
        title = "Ours beside the reported values"
        figure = study_numbers.plot_against_reported(page, stamp_text(page))
        figures.append(
            StudyFigure(f"{_file_stem(page)}-reported", title, figure_alt_text(page, title), _REPORTED_CAPTION, figure)
        )
    return figures


def _file_stem(page: StudyPage) -> str:
    return page.study.name.replace("/", "-")


def _plot_spec(page: StudyPage, spec: FigureSpec, figure_number: int) -> list[StudyFigure]:
    rows = [row for row in map(page.row, spec.rows) if row is not None]
    if spec.kind in ("gradients", "responses"):
        rows = [row for row in rows if study_profiles.row_analysis_results(row, spec.analysis or spec.kind)]
    if not any(row.runs for row in rows):
        return []
    if spec.kind == "analysis":
        return _plot_analysis(page, spec, figure_number)
    caption = _metric_lines_caption(page, spec) if spec.kind == "lines" else FIGURE_KINDS[spec.kind]
    name = f"{_file_stem(page)}-{figure_number}-{spec.kind.replace('_', '-')}"
    figure = _PLOTTERS[spec.kind](page, spec, stamp_text(page))
    alt_text = figure_alt_text(page, spec.title, spec.rows, spec.metric)
    if spec.kind in ("gradients", "responses"):
        alt_text = f"{spec.title}, {page.scale} scale: {', '.join(spec.rows)}."
    return [
        StudyFigure(name, spec.title, alt_text, f"{_source_prefix(spec)}{caption[:1].upper()}{caption[1:]}.", figure)
    ]


def _plot_analysis(page: StudyPage, spec: FigureSpec, figure_number: int) -> list[StudyFigure]:
    """The figures of a question, its networks under the names of their rows."""
    named_rows = [(name, page.row(name)) for name in spec.rows]
    results = [
        {**row_results[0], "model": name, "step": None}
        for name, row in named_rows
        if row is not None and (row_results := study_profiles.row_analysis_results(row, spec.analysis))
    ]
    if not results:
        return []
    rendered, figures = render_analysis(spec.analysis.partition("@")[0], results), []
    for letter, figure in zip("abcdefghij", rendered.figures, strict=False):
        with plot_style():
            add_stamp(figure.figure, stamp_text(page))
        name = f"{_file_stem(page)}-{figure_number}{letter}-{spec.analysis.replace('@', '-')}"
        alt_text = f"{figure.alt_text} {page.scale.capitalize()} scale, the first seed. {' '.join(rendered.paragraphs)}"
        caption = f"{_source_prefix(spec)}{figure.caption} The first seed of each network."
        figures.append(StudyFigure(name, figure.title or spec.title, alt_text, caption, figure.figure))
    return figures


def _metric_lines_caption(page: StudyPage, spec: FigureSpec) -> str:
    reported_text = "; dotted, with diamonds: what the paper reports" if page.scale == "full" else ""
    description = get_metric(spec.metric).description if "." in spec.metric else metric_display_name(spec.metric)
    caption = f"{description}, against {spec.x_label}"
    return f"{caption}, the mean over the seeds with its standard deviation{reported_text}"


def _source_prefix(spec: FigureSpec) -> str:
    return f"After the paper's {spec.location}. " if spec.location else ""
