"""What a study measures of a network: names with their unit, what they are, and which way is better."""

import re
from dataclasses import dataclass

from reslab.spec.errors import unknown

_PATH = re.compile(r"[a-z][a-z_0-9]*(\.[a-z_0-9]+)+$")


@dataclass(frozen=True)
class Metric:
    """A figure of a row: its `unit`, and what it is in `words`."""

    name: str
    unit: str
    words: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("test_error", "%", "error on the test pictures, of the weights of the last step, in eval mode"),
        Metric("test_error_top5", "%", "share of the test pictures whose class is not among the first five"),
        Metric("test_loss", "", "loss on the test pictures, of the weights of the last step, in eval mode"),
        Metric("train_error", "%", "error along the last epoch of training, as its batches came"),
        Metric("train_loss", "", "loss along the last epoch of training, as its batches came"),
        Metric("train_error_eval", "%", "error on the training pictures after the last step, in eval mode"),
        Metric("train_loss_eval", "", "loss on the training pictures after the last step, in eval mode"),
        Metric("train_error_batch", "%", "error on the training pictures after the last step, never in eval mode"),
        Metric("test_error_batch", "%", "error on the test pictures after the last step, never in eval mode"),
        Metric("gap", "%", "test error less the error on the training pictures, both in eval mode"),
        Metric("steps_to_train_error", "steps", "steps until the training error first fell to a fixed value"),
        Metric("train_seconds", "s", "time of training, without evaluation"),
        Metric("params", "", "trained numbers"),
        Metric("macs", "", "multiply-adds for one image"),
    )
}

# What paths into answers are called; any other is told as a path.
_ANSWERS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("gradients.slope.decades", "", "powers of ten by which the gradient grows from last unit to first"),
        Metric("responses.mean_std", "", "standard deviation of a layer's response, the mean over the layers"),
        Metric("lesion.units.error.median", "", "share of the pictures wrong without one unit, the median over units"),
        Metric(
            "lesion.permuted.error.mean", "", "share of the pictures wrong with units permuted, the mean of the draws"
        ),
        Metric("lesion.paths.contribution.peak", "", "length of those paths that carry the most gradient together"),
        Metric("landscape.not_convex", "", "share of the points where the loss surface is far from convex"),
    )
}


def check_metric(name: str) -> None:
    """ValueError for a name that is neither in the table nor a path into the answer of a question.

    `lesion.mean_increase` is the field `mean_increase` of what the question `lesion` answers.
    """
    if name not in METRICS and not _PATH.match(name):
        raise unknown("metric", name, METRICS, "or QUESTION.FIELD, such as lesion.mean_increase")


def metric_of(name: str) -> Metric:
    """The metric of that name; one of a question has its path for words and no unit."""
    check_metric(name)
    return (
        METRICS.get(name)
        or _ANSWERS.get(name)
        or Metric(name, "", f"{name.partition('.')[2]} as the question {name.split('.')[0]} found")
    )
