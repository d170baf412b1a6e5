"""Pages: plain data in, one self-contained HTML text out; the same page gives the same bytes."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from reslab.report.analyses.result import QuestionPage, question_parts
from reslab.report.pages.benchmark import SpeedPage, speed_parts
from reslab.report.pages.compare import ComparePage, compare_parts
from reslab.report.pages.data_check import DataPage, data_parts
from reslab.report.pages.demo import demo_parts
from reslab.report.pages.lr_find import RatePage, rate_parts
from reslab.report.pages.run import run_parts
from reslab.report.pages.run_text import DemoPage, RunPage
from reslab.report.pages.study import study_parts
from reslab.report.pages.study_text import StudyPage


def render_run(page: RunPage) -> str:
    """The page of a run: scores, curves, confusion matrix, worst mistakes, class scores, the network's cost, facts.

    Loads nothing from anywhere and stays under 5 MB. Raises ValueError where the confusion matrix does not fit the
    classes, or a mistake's image is not uint8 of shape (H, W) or (H, W, 3).
    """
    return _environment().get_template("run.html").render(run_parts(page))


def render_demo(page: DemoPage) -> str:
    """The page of the demonstration: a deep residual network held against its plain twin (He et al. 2015, Figure 6).

    Raises ValueError unless the page holds two networks.
    """
    return _environment().get_template("demo.html").render(demo_parts(page))


def render_data(page: DataPage) -> str:
    """The page of a check of data: findings, counts, sizes, unreadable files, twins, a training batch.

    Raises ValueError where a picture is not uint8 of shape (H, W) or (H, W, 3).
    """
    return _environment().get_template("data.html").render(data_parts(page))


def render_rates(page: RatePage) -> str:
    """The page of a learning-rate range test: the loss against the rate, the suggestion, facts.

    Raises ValueError where there is no step, or the lengths differ.
    """
    return _environment().get_template("curves.html").render(rate_parts(page))


def render_speeds(page: SpeedPage) -> str:
    """The page of a measurement of engines: images a second as bars, latencies and memory in a table.

    Raises ValueError where there is no result.
    """
    return _environment().get_template("curves.html").render(speed_parts(page))


def render_compare(page: ComparePage) -> str:
    """The page of several runs: their curves laid over each other, and their numbers in a table.

    Raises ValueError where there is no run.
    """
    return _environment().get_template("curves.html").render(compare_parts(page))


def render_study(page: StudyPage) -> str:
    """The page of a study: claims with verdicts, figures, ours beside the reported values, what was not run, facts."""
    return _environment().get_template("study.html").render(study_parts(page))


def render_question(page: QuestionPage) -> str:
    """The page of a question put to networks: the answer in words, its pictures, its numbers, facts."""
    return _environment().get_template("inspect.html").render(question_parts(page))


@cache
def _environment() -> Environment:
    loader = PackageLoader("reslab.report", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
