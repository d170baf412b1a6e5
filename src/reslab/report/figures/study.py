"""The figures of a study's page, in its order: what its spec draws, then ours beside the reported values."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from reslab.report.figures import study_curves, study_numbers
from reslab.report.study_page import StudyPage
from reslab.report.study_words import figure_label, stamp_words
from reslab.spec.drawing import KINDS, Drawing

_DRAW: dict[str, Callable[[StudyPage, Drawing, str], Figure]] = {
    "error_curves": study_curves.error_curves,
    "loss_and_error": study_curves.loss_and_error,
    "train_then_test": study_curves.train_then_test,
    "lines": study_numbers.lines,
}


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
    found = [_drawn(page, drawing, number) for number, drawing in enumerate(page.study.figures, 1)]
    if any(row.row.reported is not None for row in page.rows) or sum(bool(row.values()) for row in page.rows) > 1:
        found.append(_beside(page))
    return [figure for figure in found if figure is not None]


def _drawn(page: StudyPage, drawing: Drawing, number: int) -> StudyFigure | None:
    rows = [page.row(name) for name in drawing.rows]
    if not any(row is not None and row.runs for row in rows):
        return None
    name = f"{page.study.name.replace('/', '-')}-{number}-{drawing.kind.replace('_', '-')}"
    caption = f"{KINDS[drawing.kind][:1].upper()}{KINDS[drawing.kind][1:]}."
    if drawing.where:
        caption = f"Laid out as {drawing.where}. {caption}"
    figure = _DRAW[drawing.kind](page, drawing, stamp_words(page))
    return StudyFigure(name, drawing.title, figure_label(page, drawing.title), caption, figure)


def _beside(page: StudyPage) -> StudyFigure:
    name = f"{page.study.name.replace('/', '-')}-reported"
    caption = (
        "Diamond: the value that the paper reports (hollow where it was not read in the paper itself). "
        "Dot: ours, the mean over the seeds with its standard deviation; small dots are the seeds."
    )
    title = "Ours beside the reported values"
    return StudyFigure(
        name, title, figure_label(page, title), caption, study_numbers.against_reported(page, stamp_words(page))
    )
