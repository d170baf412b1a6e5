"""Groups of options that several commands share: frozen values, whose fields are the options that belong together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from reslab.cli.options import (
    AllowCode,
    AllowExtra,
    DataDir,
    Device,
    ImageSize,
    MaxPixels,
    ModelName,
    NamedModel,
    Panel,
    Pretrained,
    limit_pixels,
    parse_pretrained,
    resolve_data_option,
)
from reslab.spec.errors import invalid
from reslab.training.model_forms import check_model_source

MODEL_METAVAR = "MODEL"
MODEL_HELP = (
    "A run, weights file or exported graph, a name of `reslab models`, timm/NAME, torchvision/NAME or "
    "package.module:factory."
)
_CHECKPOINT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".th", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """The task, and where the labels of a dataset are: the columns of a CSV file, the values in masks."""

    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            rich_help_panel=Panel.DATA,
            help="What the network predicts: classification, multi-label, regression, segmentation or detection.",
            show_default="chosen from the labels",
        ),
    ] = None
    image_column: Annotated[
        str | None,
        typer.Option(
            "--image-column",
            metavar="NAME",
            rich_help_panel=Panel.DATA,
            help="Column of the image paths in a CSV file.",
            show_default="path, filename, file, image, img",
        ),
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="NAME",
            rich_help_panel=Panel.DATA,
            help="Column of the labels in a CSV file. Several columns (0 and 1, or numbers) are separated by commas.",
            show_default="label, class, category",
        ),
    ] = None
    split_column: Annotated[
        str | None,
        typer.Option(
            "--split-column",
            metavar="NAME",
            rich_help_panel=Panel.DATA,
            help="Column of the splits (train, val, test) in a CSV file.",
            show_default="split or subset, if present",
        ),
    ] = None
    mask_values: Annotated[
        str | None,
        typer.Option(
            "--mask-values",
            metavar="KIND|VALUE=CLASS,...",
            rich_help_panel=Panel.DATA,
            help="Meaning of the mask values: classes, instances (each object has a number), or the class of each "
            "value, such as 0=background,255=cell, or '#ff0000=cell' by color.",
            show_default="as the folder's layout suggests",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `open_dataset`, `train` and `evaluate` for these options."""
        names = {"image": self.image_column, "label": self.label_column, "split": self.split_column}
        columns = {role: name for role, name in names.items() if name} or None
        return {"task": self.task, "columns": columns, "mask_values": self.mask_values}


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """How the images and labels of a dataset are read and split."""

    val_fraction: Annotated[
        float | None,
        typer.Option(
            "--val-fraction",
            metavar="FLOAT",
            rich_help_panel=Panel.DATA,
            help="Fraction of the training images to hold out for validation, stratified by class.",
        ),
    ] = None
    skip_bad_images: Annotated[
        bool,
        typer.Option("--skip-bad-images", rich_help_panel=Panel.DATA, help="Skip unreadable images and list them."),
    ] = False
    max_pixels: MaxPixels = None
    labels: LabelOptions

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` and `evaluate` for these options."""
        own = {"val_fraction": self.val_fraction, "skip_bad_images": self.skip_bad_images}
        return {**own, **self.labels.arguments()}

    def limits(self) -> AbstractContextManager[None]:
        """Decode images of at most `--max-pixels` in the `with` block."""
        return limit_pixels(self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions:
    """The dataset to train on, and how much of it; the same for `train` and `lr-find`."""

    data_argument: Annotated[list[str] | None, typer.Argument(metavar="DATA", help="Same as --data.")] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|PATH",
            rich_help_panel=Panel.DATA,
            help="Dataset name, folder with one subfolder per class, CSV file or shards.",
        ),
    ] = None
    data_dir: DataDir = None
    image_size: ImageSize = None
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            metavar="INTEGER",
            min=2,
            rich_help_panel=Panel.DATA,
            help="Number of training images to use, drawn from all classes in proportion.",
            show_default="all",
        ),
    ] = None
    reading: DatasetOptions

    def dataset(self) -> str | None:
        """Return the dataset given as argument or by `--data`; see `resolve_data_option` for the errors."""
        return resolve_data_option(self.data_argument, self.data)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` for these options, without the dataset and the size."""
        return {"data_dir": self.data_dir, "num_images": self.num_images, **self.reading.arguments()}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network to train, and its first weights."""

    model: ModelName = None
    pretrained: Pretrained = None
    allow_extra: AllowExtra = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `train` for the weights."""
        return {"pretrained": parse_pretrained(self.pretrained), "allow_extra": self.allow_extra}


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where a network is computed, and the processes that load its images."""

    device: Device = "auto"
    workers: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--workers",
            metavar="INTEGER",
            min=0,
            rich_help_panel=Panel.COMPUTE,
            help="Number of data loading processes.",
            show_default="chosen automatically",
        ),
    ] = None


@dataclass(frozen=True)
class ModelChoice:
    """The model that the user named: the `source` of `open_model`, and its weights."""

    source: str
    weights: str | None = None
    allow_code: bool = False

    @property
    def run(self) -> Path:
        """The folder or file of the weights, by which calibration images and fingerprints are found."""
        return Path(self.source if self.weights is None else self.weights)

    def __str__(self) -> str:
        return self.source if self.weights is None else f"{self.source} with {self.weights}"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options that name a trained or published model, beside an argument that names it too."""

    model: NamedModel = None
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "--pretrained",
            metavar="RUN|FILE|TAG",
            rich_help_panel=Panel.MODEL,
            help="Weights of --model: a run, a file, or the tag of published weights (DEFAULT: the library's default).",
        ),
    ] = None
    allow_code: AllowCode = False

    def choose(self, arguments: Sequence[str]) -> tuple[ModelChoice, list[str]]:
        """Return the model that the arguments name, and the arguments that remain.

        The first argument names the model. With --model it is a run or a file of weights for it, if it is one. Raises
        ValueError for a name that no model has, before torch is imported.
        """
        choice, rest = self._split(arguments)
        _check_order(choice.source, rest)
        check_model_source(choice.source)
        return choice, rest

    def _split(self, arguments: Sequence[str]) -> tuple[ModelChoice, list[str]]:
        first, rest = (arguments[0], list(arguments[1:])) if arguments else (None, [])
        if self.model is None:
            if first is None:
                raise invalid(
                    "a run, or --model NAME", "neither", next_step="`reslab runs` and `reslab models` list them"
                )
            return ModelChoice(first, self.weights, self.allow_code), rest
        if self.weights is None and first is not None and _is_weights(Path(first)):
            return ModelChoice(self.model, first, self.allow_code), rest
        return ModelChoice(self.model, self.weights, self.allow_code), list(arguments)


def _check_order(source: str, rest: Sequence[str]) -> None:
    """Raise ValueError for an image in the place of the model, and the model after it."""
    swapped = next((argument for argument in rest if _is_weights(Path(argument))), None)
    if swapped is not None and Path(source).is_file():
        from reslab.data.image_formats import is_image_name

        if is_image_name(Path(source).name):
            others = [source, *(argument for argument in rest if argument != swapped)]
            raise invalid(
                "the model before the images", " ".join([source, *rest]), nearest=" ".join([swapped, *others])
            )


def _is_weights(path: Path) -> bool:
    return (path / "run.json").is_file() or (path.suffix in _CHECKPOINT_SUFFIXES and path.is_file())


def expand_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the fields of each dataclass among its parameters as parameters in its place.

    typer makes an option of each parameter; the command gets the dataclass with their values. A field that is such a
    dataclass is expanded in its place, too.
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
            values[name] = _take_group(group, values)
        return command(**values)

    kind = inspect.Parameter.KEYWORD_ONLY
    keyword_parameters = [parameter.replace(kind=kind) for parameter in parameters]
    expanded.__signature__ = signature.replace(parameters=keyword_parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _field_parameters(group: Any) -> list[inspect.Parameter]:
    parameters: list[inspect.Parameter] = []
    for field in dataclasses.fields(group):
        if _is_group(field.type):
            parameters += _field_parameters(field.type)
        else:
            default, kind = field.default, inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))
    return parameters


def _take_group(group: Any, values: dict[str, Any]) -> Any:
    """Return the group with its values, which are removed from `values`."""
    return group(
        **{
            field.name: _take_group(field.type, values) if _is_group(field.type) else values.pop(field.name)
            for field in dataclasses.fields(group)
        }
    )
