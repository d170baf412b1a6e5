"""Groups of options: a dataclass whose fields are the options of a command that belong together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from reslab.cli.options import (
    ImageColumn,
    LabelColumn,
    MaskValuesOption,
    MaxPixels,
    SkipBadImages,
    SplitColumn,
    TaskOption,
    limit_pixels,
    named_columns,
)


@dataclass(frozen=True)
class DatasetOptions:
    """The options of reading the images and labels of a dataset."""

    skip_bad_images: SkipBadImages = False
    max_pixels: MaxPixels = None
    task: TaskOption = None
    image_column: ImageColumn = None
    label_column: LabelColumn = None
    split_column: SplitColumn = None
    mask_values: MaskValuesOption = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` and `evaluate` for these options."""
        return {
            "task": self.task,
            "skip_bad_images": self.skip_bad_images,
            "columns": named_columns(self.image_column, self.label_column, self.split_column),
            "mask_values": self.mask_values,
        }

    def limits(self) -> AbstractContextManager[None]:
        """Decode images of at most `--max-pixels` in the `with` block."""
        return limit_pixels(self.max_pixels)


def expand_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the fields of each dataclass among its parameters as parameters in its place.

    typer makes an option of each parameter; the command gets the dataclass with their values.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: each.annotation for name, each in signature.parameters.items() if _is_group(each.annotation)}
    if not groups:
        return command
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += _field_parameters(groups[name]) if name in groups else [parameter]

    @functools.wraps(command)
    def expanded(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        return command(**values)

    kind = inspect.Parameter.KEYWORD_ONLY
    keyword_parameters = [parameter.replace(kind=kind) for parameter in parameters]
    expanded.__signature__ = signature.replace(parameters=keyword_parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _field_parameters(group: Any) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in dataclasses.fields(group)
    ]
