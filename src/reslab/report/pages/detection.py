"""The results of object detection on a run's page."""

from dataclasses import dataclass
from typing import ClassVar

from reslab.report.pages.results import TaskResults
from reslab.spec.task import TaskByName


@dataclass(frozen=True, kw_only=True)
class DetectionResults(TaskResults):
    """The results of a detector."""

    task: ClassVar[TaskByName] = TaskByName("detection")
