"""The options that name a model, the same for `predict`, `export`, `serve`, `bench`, `eval` and `analyze`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from reslab.cli.options import Panel, complete_model
from reslab.spec.errors import invalid
from reslab.training.model_forms import check_model_source

MODEL_METAVAR = "MODEL"
MODEL_HELP = (
    "A run, weights file or exported graph, a name of `reslab models`, timm/NAME, torchvision/NAME or "
    "package.module:factory."
)
_CHECKPOINT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".th", ".ckpt", ".bin", ".pkl")

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
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "--pretrained",
        metavar="RUN|FILE|TAG",
        rich_help_panel=Panel.MODEL,
        help="Weights of --model: a run, a file, or the tag of published weights (DEFAULT: the library's default).",
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


@dataclass(frozen=True)
class ModelChoice:
    """The model that the user named: the `source` of `open_model`, and its weights."""

    source: str
    weights: str | None = None

    @property
    def run(self) -> Path:
        """The folder or file of the weights, by which calibration images and fingerprints are found."""
        return Path(self.source if self.weights is None else self.weights)

    def __str__(self) -> str:
        return self.source if self.weights is None else f"{self.source} with {self.weights}"


def choose_model(
    positional: Sequence[str], model: str | None, weights: str | None, required: str = "a run, or --model NAME"
) -> tuple[ModelChoice, list[str]]:
    """Return the model that the arguments name, and the arguments that remain.

    The first argument names the model. With --model it is a run or a file of weights for it, if it is one. Raises
    ValueError for a name that no model has, before torch is imported.
    """
    choice, rest = _split_model(positional, model, weights, required)
    _check_order(choice.source, rest)
    check_model_source(choice.source)
    return choice, rest


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


def _split_model(
    positional: Sequence[str], model: str | None, weights: str | None, required: str
) -> tuple[ModelChoice, list[str]]:
    first, rest = (positional[0], list(positional[1:])) if positional else (None, [])
    if model is None:
        if first is None:
            raise invalid(required, "neither", next_step="`reslab runs` and `reslab models` list them")
        return ModelChoice(first, weights), rest
    if weights is None and first is not None and _is_weights(Path(first)):
        return ModelChoice(model, first), rest
    return ModelChoice(model, weights), list(positional)


def _is_weights(path: Path) -> bool:
    return (path / "run.json").is_file() or (path.suffix in _CHECKPOINT_SUFFIXES and path.is_file())
