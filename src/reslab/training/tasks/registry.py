"""The tasks by name: their behavior in training, and how users register their own."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, TASKS, find_task
from reslab.training.tasks.classification import Classification
from reslab.training.tasks.detection import Detection
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.regression import Regression
from reslab.training.tasks.segmentation import Segmentation
from reslab.training.tasks.task_type import TaskType

TASK_TYPES: dict[str, type[TaskType]] = {
    task_type.spec.name: task_type for task_type in (Classification, MultiLabel, Regression, Segmentation, Detection)
}
TaskClass = TypeVar("TaskClass", bound=type[TaskType])


def register_task(task_type: TaskClass) -> TaskClass:
    """Register a subclass of `TaskType` under the name of its `spec`, for `--task` and `task=`; a class decorator.

    Raises ValueError for a name that is taken.
    """
    TASKS.register(task_type.spec.name, task_type.spec, task_type)
    TASK_TYPES[task_type.spec.name] = task_type
    return task_type


def find_task_type(name: str) -> type[TaskType]:
    """Return the behavior of a task by its name. Raises ValueError with the nearest name, and for a task without."""
    task = find_task(name).name
    if task not in TASK_TYPES:
        raise invalid(f"a task that can be trained: {', '.join(TASK_TYPES)}", task)
    return TASK_TYPES[task]


def restore_task(fields: Mapping[str, Any] | None, classes: Sequence[str]) -> TaskType:
    """Return the task that run.json or the header of a weights file records; classification where none is recorded."""
    fields = fields or {"name": DEFAULT_TASK}
    return find_task_type(fields["name"]).from_dict(fields, classes)
