"""The options that several commands share, and the parsers of their values.

`-c FILE` reads a TOML, YAML or JSON file with the keys of --set; `[optimizer]` with `lr = 0.2` is `optimizer.lr=0.2`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from reslab.data.dataset_names import DATASET_NAMES, require_dataset_name
from reslab.spec.errors import invalid


class Panel(StrEnum):
    """The groups of options in the help of a command."""

    MODEL = "Model"
    DATA = "Data"
    TRAINING = "Training"
    OUTPUT = "Output"
    COMPUTE = "Device and speed"
    LIMITS = "Limits"


def output_option(metavar: str, help: str, default: str | None = None) -> Any:
    """Return the option `-o` or `--output`; `default` describes what is written without it."""
    return typer.Option(
        "-o", "--output", metavar=metavar, rich_help_panel=Panel.OUTPUT, help=help, show_default=default or True
    )


def html_option(help: str, default: str | None = None) -> Any:
    """Return the option `--html`; `default` describes what is written without it."""
    return typer.Option("--html", metavar="FILE", rich_help_panel=Panel.OUTPUT, help=help, show_default=default or True)


def named_columns(image: str | None, label: str | None, split: str | None) -> dict[str, str] | None:
    """Return the given names of a CSV file's columns by role, as `open_dataset` takes them; None without any."""
    names = {"image": image, "label": label, "split": split}
    return {role: name for role, name in names.items() if name} or None


def complete_model(incomplete: str) -> list[str]:
    """Return the models whose names start with `incomplete`, for shell completion."""
    from reslab.spec.zoo import ARCHS

    return [name for name in ARCHS if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes whose names start with `incomplete`, for shell completion."""
    from reslab.spec.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_study(incomplete: str) -> list[str]:
    """Return the studies whose names start with `incomplete`, for shell completion."""
    from reslab.spec.papers import STUDIES

    return [name for name in STUDIES if name.startswith(incomplete)]


JsonFlag = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=Panel.OUTPUT, help="Print one JSON value on standard output."),
]
DataArgument = Annotated[list[str] | None, typer.Argument(metavar="DATA", help="Same as --data.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|PATH",
        rich_help_panel=Panel.DATA,
        help="Dataset name, folder with one subfolder per class, CSV file or shards.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        rich_help_panel=Panel.DATA,
        help="Directory of the dataset, also for downloads.",
    ),
]
ValFraction = Annotated[
    float | None,
    typer.Option(
        "--val-fraction",
        metavar="FLOAT",
        rich_help_panel=Panel.DATA,
        help="Fraction of the training images to hold out for validation, stratified by class.",
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        "--image-column",
        metavar="NAME",
        rich_help_panel=Panel.DATA,
        help="Column of the image paths in a CSV file.",
        show_default="path, filename, file, image, img",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        rich_help_panel=Panel.DATA,
        help="What the network predicts: classification, multi-label, regression, segmentation or detection.",
        show_default="chosen from the labels",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="NAME",
        rich_help_panel=Panel.DATA,
        help="Column of the labels in a CSV file. Several columns (0 and 1, or numbers) are separated by commas.",
        show_default="label, class, category",
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        "--split-column",
        metavar="NAME",
        rich_help_panel=Panel.DATA,
        help="Column of the splits (train, val, test) in a CSV file.",
        show_default="split or subset, if present",
    ),
]
MaskValuesOption = Annotated[
    str | None,
    typer.Option(
        "--mask-values",
        metavar="KIND|VALUE=CLASS,...",
        rich_help_panel=Panel.DATA,
        help="Meaning of the mask values: classes, instances (each object has a number), or the class of each value, "
        "such as 0=background,255=cell, or '#ff0000=cell' by color.",
        show_default="as the folder's layout suggests",
    ),
]
NumImages = Annotated[
    int | None,
    typer.Option(
        "--num-images",
        metavar="INTEGER",
        min=2,
        rich_help_panel=Panel.DATA,
        help="Number of training images to use, drawn from all classes in proportion.",
        show_default="all",
    ),
]
SkipBadImages = Annotated[
    bool,
    typer.Option("--skip-bad-images", rich_help_panel=Panel.DATA, help="Skip unreadable images and list them."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="INTEGER",
        min=1,
        rich_help_panel=Panel.DATA,
        help="Refuse images with more pixels (height x width).",
        show_default="120,000,000",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel=Panel.MODEL,
        autocompletion=complete_model,
        help="A name of `reslab models`, a TOML file, timm/NAME, torchvision/NAME or package.module:factory.",
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        "--pretrained",
        "--weights",
        metavar="FILE|TAG",
        rich_help_panel=Panel.MODEL,
        help="Pretrained weights: a file, the tag of published weights, or true for the default tag.",
    ),
]
AllowExtra = Annotated[
    bool,
    typer.Option(
        "--allow-extra",
        rich_help_panel=Panel.MODEL,
        help="Leave out entries of the --pretrained file that the network lacks.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        rich_help_panel=Panel.TRAINING,
        autocompletion=complete_recipe,
        help="Recipe name (`reslab recipes` lists them), or a TOML file.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        rich_help_panel=Panel.TRAINING,
        help="TOML, YAML or JSON file with the keys of --set, which takes precedence.",
    ),
]
TrainOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=Panel.TRAINING,
        help="Override a value of the recipe, or with model.KEY=VALUE of the architecture. Repeatable. "
        "`reslab recipes NAME` lists the keys; the last part of one is enough (lr, schedule=cosine).",
    ),
]
ModelOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=Panel.MODEL,
        help="Override a value of the architecture, such as model.order=full-preact. Repeatable.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PIXELS",
        min=1,
        rich_help_panel=Panel.DATA,
        help="Image size in pixels, for the transforms and the network's input.",
        show_default="the network's or the data's",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="CxHxW",
        rich_help_panel=Panel.MODEL,
        help="Input size, such as 3x224x224.",
        show_default="the model's own",
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        metavar="INTEGER",
        rich_help_panel=Panel.MODEL,
        help="Number of classes.",
        show_default="the model's own",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="INTEGER", help="Random seed.")]
BatchSize = Annotated[
    int | None,
    typer.Option("-b", "--batch-size", metavar="INTEGER", min=1, rich_help_panel=Panel.COMPUTE, help="Batch size."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=Panel.COMPUTE,
        help="auto (the first available of cuda, mps, cpu), or a device such as cuda:1.",
    ),
]
Workers = Annotated[
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
]
InferenceBackend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        rich_help_panel=Panel.COMPUTE,
        help="torch, onnxruntime or openvino; auto: the fastest for this machine.",
    ),
]
InferencePrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        rich_help_panel=Panel.COMPUTE,
        help="float32, bf16, fp16 or int8; auto: bf16 if the processor supports it natively.",
    ),
]


def resolve_data_option(arguments: Sequence[str] | None, data: str | None) -> str | None:
    """Return the dataset given as argument or by `--data`.

    Raises ValueError if both are given and differ, for several arguments, with the options that they belong to, or for
    an unknown dataset.
    """
    if arguments and len(arguments) > 1:
        raise invalid("one dataset", " ".join(arguments), nearest=" ".join(map(_as_option, arguments)))
    argument = arguments[0] if arguments else None
    if argument is not None and data is not None and argument != data:
        raise invalid("one dataset", f"{argument} and --data {data}", next_step="leave one of them out")
    dataset = data or argument
    if dataset is not None:
        require_dataset_name(dataset)
    return dataset


def _as_option(argument: str) -> str:
    from reslab.spec.recipes import RECIPES
    from reslab.spec.zoo import ARCHS

    if argument in DATASET_NAMES or Path(argument).exists():
        return argument
    return f"--model {argument}" if argument in ARCHS else f"--recipe {argument}" if argument in RECIPES else argument


def require_model_and_recipe(model: str | None, recipe: str | None, task: str | None = None) -> None:
    """Raise ValueError for an unknown model or recipe, before anything is imported that takes time.

    The error for an unknown model names the nearest ones for the task.
    """
    from reslab.spec.recipes import find_recipe
    from reslab.spec.task import find_task
    from reslab.spec.zoo.dense import find_dense_arch, require_model
    from reslab.spec.zoo.resolve import get_arch

    if task is not None:
        find_task(task)
    require_model(model, task)
    if model is not None and find_dense_arch(model) is None:
        get_arch(model)
    if recipe is not None:
        find_recipe(recipe)


def parse_overrides(overrides: Sequence[str] | None) -> dict[str, str]:
    """Return `["model.merge=none", "optimizer.lr=0.2"]` as a dictionary.

    Raises ValueError if the `=` or the key is missing, or a key is given twice.
    """
    parsed: dict[str, str] = {}
    for override in overrides or ():
        key, separator, value = (part.strip() for part in override.partition("="))
        if not separator or not key.removeprefix("model."):
            raise invalid("--set KEY=VALUE", override, "--set optimizer.lr=0.2 or --set model.order=full-preact")
        if key in parsed:
            raise invalid(f"each key once in --set, {key} came twice", override, next_step="leave one of them out")
        parsed[key] = value
    return parsed


def parse_model_overrides(overrides: Sequence[str] | None) -> dict[str, str]:
    """Return overrides that are all `model.KEY`, without the prefix; raise ValueError for any other key."""
    arch_overrides, other_overrides = split_model_prefix(parse_overrides(overrides))
    for key, value in other_overrides.items():
        raise invalid("an architecture key model.KEY", f"--set {key}={value}", f"--set model.{key}={value}")
    return arch_overrides


def split_model_prefix(overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split overrides into those of the architecture (`model.KEY`, without the prefix) and all others."""
    arch_overrides = {key.removeprefix("model."): value for key, value in overrides.items() if key.startswith("model.")}
    return arch_overrides, {key: value for key, value in overrides.items() if not key.startswith("model.")}


@contextlib.contextmanager
def limit_pixels(max_pixels: int | None) -> Iterator[None]:
    """Decode images of at most `--max-pixels` in the `with` block."""
    from reslab.data.decode_limits import DecodeLimits, use_limits

    with contextlib.nullcontext() if max_pixels is None else use_limits(DecodeLimits(max_pixels=max_pixels)):
        yield


def parse_pretrained(text: str | None) -> bool | str | None:
    """Return `--pretrained` as the API takes it: True (published weights), False (none), a file or a tag."""
    return {"true": True, "false": False}.get((text or "").lower(), text)


def parse_channel_values(text: str | None, option: str) -> tuple[float, ...] | None:
    """Return `0.5,0.5,0.5` as numbers; raise ValueError naming the option if they are none."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise invalid(f"{option} as numbers, one per channel", repr(text), f"{option} 0.49 0.48 0.45") from None
