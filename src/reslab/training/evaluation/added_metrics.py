"""Metrics of users: functions of all outputs and targets of an evaluation, registered for a task."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, Metric, add_metric, find_task

MetricFn = Callable[[Tensor, Tensor], float]
_METRIC_FUNCTIONS: dict[str, dict[str, MetricFn]] = {}


def register_metric(
    metric: Metric, *, task: str = DEFAULT_TASK, selects: bool = False
) -> Callable[[MetricFn], MetricFn]:
    """Return a decorator that registers a metric of a task; its function gets the outputs and targets of all samples.

    In classification the outputs are logits (N, C) and the targets labels (N,), in multi-label classification logits
    and labels (N, C), in regression standardized outputs and labels (N, K), all float32 or int64 on the CPU. With
    `selects` it selects the weights of a run. Raises ValueError for a name that the task has already, and for a task
    whose outputs are not kept for a whole evaluation.
    """

    def register(function: MetricFn) -> MetricFn:
        if not find_task(task).keeps_outputs:
            raise invalid("a task that keeps the outputs of all samples for metrics of your own", task)
        add_metric(task, metric, selects)
        _METRIC_FUNCTIONS.setdefault(task, {})[metric.name] = function
        return function

    return register


def compute_added_metrics(task: str, batch_results: Sequence[Any]) -> dict[str, float]:
    """Return the registered metrics of a task from the outputs and targets of each batch."""
    names = {metric.name for metric in find_task(task).metrics}
    functions = {name: function for name, function in _METRIC_FUNCTIONS.get(task, {}).items() if name in names}
    if not functions:
        return {}
    outputs, targets = (torch.cat(parts) for parts in zip(*batch_results, strict=True))
    return {name: float(function(outputs, targets)) for name, function in functions.items()}
