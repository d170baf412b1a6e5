"""The figures of a study's page, in its order: what its spec draws, then ours beside the reported values."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from reslab.report.analyses import show_answers
from reslab.report.pages.study_text import StudyPage, figure_label, metric_name, stamp_words
from reslab.report.plots import study_curves
from reslab.report.plots import study_values as study_numbers
from reslab.report.plots import study_values as study_profiles
from reslab.report.plots.study_style import stamp
from reslab.report.plots.style import styled
from reslab.spec.study import KINDS, Drawing, metric_of

_DRAW: dict[str, Callable[[StudyPage, Drawing, str], Figure]] = {
    "error_curves": study_curves.error_curves,
    "loss_and_error": study_curves.loss_and_error,
    "train_then_test": study_curves.train_then_test,
    "lines": study_numbers.lines,
    "gradients": study_profiles.gradients,
    "responses": study_profiles.responses,
}
_BESIDE = (
    "Diamond: the value that the paper reports (hollow where it was not read in the paper itself). "
    "Dot: ours, the mean over the seeds with its standard deviation; small dots are the seeds."
)


@dataclass(frozen=True)
class StudyFigure:
    """A figure with its file's name, its title, what it shows in words, and its caption."""

    name: str
    title: str
    label: str
    caption: str
    figure: Figure


def study_figures(page: StudyPage) -> list[StudyFigure]:
    """Every figure of the page that has something to show; the scale is stamped inside each."""
    found = [figure for number, drawing in enumerate(page.study.figures, 1) for figure in _drawn(page, drawing, number)]
    if any(row.row.reported is not None for row in page.rows) and any(row.values() for row in page.rows):
        title = "Ours beside the reported values"
        figure = study_numbers.against_reported(page, stamp_words(page))
        found.append(StudyFigure(f"{_stem(page)}-reported", title, figure_label(page, title), _BESIDE, figure))
    return found


def _stem(page: StudyPage) -> str:
    return page.study.name.replace("/", "-")


def _drawn(page: StudyPage, drawing: Drawing, number: int) -> list[StudyFigure]:
    rows = [row for row in map(page.row, drawing.rows) if row is not None]
    if drawing.kind in ("gradients", "responses"):
        rows = [row for row in rows if study_profiles.answers_of(row, drawing.question or drawing.kind)]
    if not any(row.runs for row in rows):
        return []
    if drawing.kind == "answers":
        return _shown(page, drawing, number)
    caption = _line_words(page, drawing) if drawing.kind == "lines" else KINDS[drawing.kind]
    name = f"{_stem(page)}-{number}-{drawing.kind.replace('_', '-')}"
    figure = _DRAW[drawing.kind](page, drawing, stamp_words(page))
    label = figure_label(page, drawing.title, drawing.rows, drawing.metric)
    if drawing.kind in ("gradients", "responses"):
        label = f"{drawing.title}, {page.scale} scale: {', '.join(drawing.rows)}."
    return [StudyFigure(name, drawing.title, label, f"{_laid_out(drawing)}{caption[:1].upper()}{caption[1:]}.", figure)]


def _shown(page: StudyPage, drawing: Drawing, number: int) -> list[StudyFigure]:
    """The figures of a question, its networks under the names of their rows."""
    named = [(name, page.row(name)) for name in drawing.rows]
    answers = [
        {**found[0], "subject": name, "step": None}
        for name, row in named
        if row is not None and (found := study_profiles.answers_of(row, drawing.question))
    ]
    if not answers:
        return []
    shown, made = show_answers(drawing.question.partition("@")[0], answers), []
    for letter, one in zip("abcdefghij", shown.figures, strict=False):
        with styled():
            stamp(one.figure, stamp_words(page))
        name = f"{_stem(page)}-{number}{letter}-{drawing.question.replace('@', '-')}"
        label = f"{one.label} {page.scale.capitalize()} scale, the first seed. {' '.join(shown.words)}"
        caption = f"{_laid_out(drawing)}{one.caption} The first seed of each network."
        made.append(StudyFigure(name, one.title or drawing.title, label, caption, one.figure))
    return made


def _line_words(page: StudyPage, drawing: Drawing) -> str:
    reported = "; dotted, with diamonds: what the paper reports" if page.scale == "full" else ""
    what = metric_of(drawing.metric).words if "." in drawing.metric else metric_name(drawing.metric)
    ours = f"{what}, against {drawing.axis}"
    return f"{ours}, the mean over the seeds with its standard deviation{reported}"


def _laid_out(drawing: Drawing) -> str:
    return f"After the paper's {drawing.where}. " if drawing.where else ""
