"""Single options, their shell completion, and the parsers of their values."""

import contextlib
from collections.abc import Iterator, Sequence
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
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        rich_help_panel=Panel.DATA,
        help="Directory of the dataset, also for downloads.",
    ),
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
NamedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel=Panel.MODEL,
        autocompletion=complete_model,
        help="A name of `reslab models`, timm/NAME, torchvision/NAME, hf-hub:ORG/NAME or package.module:factory.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        rich_help_panel=Panel.MODEL,
        help="Allow importing the factory that a run of your own module records.",
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
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        rich_help_panel=Panel.COMPUTE,
        help="auto (the first available of cuda, mps, cpu), or a device such as cuda:1.",
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
