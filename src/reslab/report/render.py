"""Pages: plain data in, one self-contained HTML text out; the same page gives the same bytes."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.report.analyses.result import AnalysisPage, analysis_context
from reslab.report.pages.benchmark import BenchmarkPage, benchmark_context
from reslab.report.pages.compare import ComparePage, compare_context
from reslab.report.pages.data_check import DataCheckPage, data_check_context
from reslab.report.pages.demo import demo_context
from reslab.report.pages.lr_find import LRFinderPage, lr_finder_context
from reslab.report.pages.run import run_context
from reslab.report.pages.run_text import DemoPage, RunPage
from reslab.report.pages.study import study_context
from reslab.report.pages.study_text import StudyPage


def render_run_page(page: RunPage) -> str:
    """The page of a run: scores, curves, confusion matrix, worst mistakes, class scores, the network's cost, facts.

    Loads nothing from anywhere and stays under 5 MB. Raises ValueError where the confusion matrix does not fit the
    classes, or a mistake's image is not uint8 of shape (H, W) or (H, W, 3).
    """
    return _jinja_environment().get_template("run.html").render(run_context(page))


def render_demo_page(page: DemoPage) -> str:
    """The page of the demonstration: a deep residual network held against its plain twin (He et al. 2015, Figure 6).

    Raises ValueError unless the page holds two networks.
    """
    return _jinja_environment().get_template("demo.html").render(demo_context(page))


def render_data_check_page(page: DataCheckPage) -> str:
    """The page of a check of data: findings, counts, sizes, unreadable files, twins, a training batch.

    Raises ValueError where a picture is not uint8 of shape (H, W) or (H, W, 3).
    """
    return _jinja_environment().get_template("data.html").render(data_check_context(page))


def render_lr_finder_page(page: LRFinderPage) -> str:
    """The page of a learning-rate range test: the loss against the rate, the suggestion, facts.

    Raises ValueError where there is no step, or the lengths differ.
    """
    return _jinja_environment().get_template("curves.html").render(lr_finder_context(page))


def render_benchmark_page(page: BenchmarkPage) -> str:
    """The page of a measurement of engines: images a second as bars, latencies and memory in a table.

    Raises ValueError where there is no result.
    """
    return _jinja_environment().get_template("curves.html").render(benchmark_context(page))


def render_compare_page(page: ComparePage) -> str:
    """The page of several runs: their curves laid over each other, and their numbers in a table.

    Raises ValueError where there is no run.
    """
    return _jinja_environment().get_template("curves.html").render(compare_context(page))


def render_study_page(page: StudyPage) -> str:
    """The page of a study: claims with verdicts, figures, ours beside the reported values, what was not run, facts."""
    return _jinja_environment().get_template("study.html").render(study_context(page))


def render_analysis_page(page: AnalysisPage) -> str:
    """The page of a question put to networks: the answer in words, its pictures, its numbers, facts."""
    return _jinja_environment().get_template("analysis.html").render(analysis_context(page))


@cache
def _jinja_environment() -> Environment:
    loader = PackageLoader("reslab.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
