"""The metrics of a task as rows of text, for terminals and pages."""

from collections.abc import Mapping
from typing import Any

from reslab.report.format import format_int, format_metric, format_number
from reslab.spec.task import Task


def metric_rows(task: Task, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return title and text of each metric that is defined, and of the loss if there is one.

    The metric that selects the weights has the counts of samples beside it, where `values` have them.
    """
    defined = [metric for metric in task.metrics if values.get(metric.name) is not None]
    rows = [(metric.title, format_metric(metric, values[metric.name])) for metric in defined]
    if rows and "num_correct" in values:
        counts = f"{format_int(values['num_correct'])} of {format_int(values['num_samples'])} correct"
        rows[0] = (rows[0][0], f"{rows[0][1]} ({counts})")
    return rows if values.get("loss") is None else [*rows, ("loss", format_number(values["loss"]))]


def main_metric_text(task: Task, values: Mapping[str, Any]) -> str:
    """Return the metric that selects the weights and the loss if there is one: `98.33 %, loss 0.0512`."""
    text = format_metric(task.selection_metric, values.get(task.selection_metric.name))
    return text if values.get("loss") is None else f"{text}, loss {format_number(values['loss'])}"
