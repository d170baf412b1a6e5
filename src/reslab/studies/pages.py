"""The page of a study, written: report.html, report.md and the figures beside it."""

from pathlib import Path

from reslab.report.render import render_study
from reslab.report.study_markdown import study_markdown
from reslab.report.study_page import StudyPage
from reslab.runtime.files import write_whole


def write_page(page: StudyPage, folder: Path) -> Path:
    """Write report.md with its figures into `folder`, and report.html; returns the path of the latter."""
    text, figures = study_markdown(page)
    write_whole(folder / "report.md", text.encode())
    for name, figure in figures.items():
        write_whole(folder / name, figure.encode())
    write_whole(folder / "report.html", render_study(page).encode())
    return folder / "report.html"
