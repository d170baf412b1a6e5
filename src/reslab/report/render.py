"""Render pages: plain data in, one self-contained HTML document out; the same page gives the same bytes."""

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.report.pages.analysis import AnalysisPage, analysis_context
from reslab.report.pages.benchmark import BenchmarkPage, benchmark_context
from reslab.report.pages.compare import ComparePage, compare_context
from reslab.report.pages.data_check import DataCheckPage, data_check_context
from reslab.report.pages.demo import DemoPage, demo_context
from reslab.report.pages.lr_find import LRFinderPage, lr_finder_context
from reslab.report.pages.run import RunPage, run_context
from reslab.report.pages.study import study_context
from reslab.report.pages.study_results import StudyPage
from reslab.report.stage_table import StageTablePage, stage_table_context

Page = (
    AnalysisPage
    | BenchmarkPage
    | ComparePage
    | DataCheckPage
    | DemoPage
    | LRFinderPage
    | RunPage
    | StageTablePage
    | StudyPage
)

# The function that turns each kind of page into the values of its template.
_PAGES: dict[type[Any], tuple[Callable[[Any], dict[str, Any]], str]] = {
    AnalysisPage: (analysis_context, "analysis.html"),
    BenchmarkPage: (benchmark_context, "curves.html"),
    ComparePage: (compare_context, "curves.html"),
    DataCheckPage: (data_check_context, "data_check.html"),
    DemoPage: (demo_context, "demo.html"),
    LRFinderPage: (lr_finder_context, "curves.html"),
    RunPage: (run_context, "run.html"),
    StageTablePage: (stage_table_context, "stage_table.html"),
    StudyPage: (study_context, "study.html"),
}


def render_page(page: Page) -> str:
    """Return the page as HTML that loads nothing from anywhere. Raises ValueError for data that do not fit together.

    Bytes of file names that are not UTF-8 are escaped, as in `\\udce9`, so that the page can be encoded.
    """
    make_context, template = _PAGES[type(page)]
    html = _jinja_environment().get_template(template).render(make_context(page))
    return html.encode(errors="backslashreplace").decode()


@cache
def _jinja_environment() -> Environment:
    loader = PackageLoader("reslab.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
