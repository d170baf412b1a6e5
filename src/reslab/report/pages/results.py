"""The part of a run's page that depends on the task: tiles, one sentence, and sections with their template."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from reslab.report.format import format_int, format_metric, format_number, format_split
from reslab.report.pages.components import make_tile
from reslab.spec.task import TaskByName


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """The results of an evaluation for a page; one subclass a task.

    `template` is included in the page with the values of `context`. `sections` are the anchor, the key of the context
    that decides whether there is such a section, and the title of each. Percentages have as many `decimals`.
    """

    task: ClassVar[TaskByName]
    template: ClassVar[str] = ""
    decimals: ClassVar[int] = 2
    sections: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def context(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the template."""
        return {}

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Return one sentence with the metric that selects the weights."""
        metric, split = self.task.selection_metric, format_split(metrics.get("split"))
        images = f"{format_int(int(metrics['num_samples']))} {split} images"
        title = metric.title[:1].upper() + metric.title[1:]
        return f"{title} {format_metric(metric, metrics.get(metric.name), self.decimals)} on {images}."

    def tiles(self, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the tiles of the metrics that are defined, and of the loss if the task evaluates one."""
        split = format_split(metrics.get("split"))
        images = f"on {format_int(int(metrics['num_samples']))} {split} images"
        tiles = [
            make_tile(
                metric.title, format_metric(metric, metrics[metric.name], self.decimals), images if index == 0 else ""
            )
            for index, metric in enumerate(self.task.metrics)
            if metrics.get(metric.name) is not None
        ]
        if metrics.get("loss") is not None:
            tiles.append(make_tile("loss", format_number(metrics["loss"]), f"mean over the {split} images"))
        return tiles
