"""What was asked of `train`, word for word; None is what was not said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from reslab.nn.pretrained import Pretrained
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import refuse
from reslab.spec.recipe import Recipe, parse_duration
from reslab.training.gradient import Loss

PUBLISHED = "published weights"
AUTO = "auto"
_BOTH_WAYS = ("model", "data", "val_fraction", "pretrained")  # arguments that are keys of a recipe, too


@dataclass(frozen=True)
class Asked:
    """The arguments of `train` that say what is trained. `settings` are the recipe's, `axes` the network's;
    `wished_axes` those that the recipe sets where they were not said."""

    model: str | Arch | nn.Module | None = None
    data: Any = None
    recipe: str | Recipe | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None
    loss: Loss | None = None
    data_dir: str | Path | None = None
    val_fraction: float | None = None
    skip_bad_images: bool = False
    wished_axes: tuple[str, ...] = ()
    num_images: int | None = None
    snapshots: str | None = None
    auto_batch: bool = False

    def __post_init__(self) -> None:
        for key in _BOTH_WAYS:
            said = getattr(self, key)
            if said is not None and key in self.settings:
                _refuse_another(f"{key} {said}", key, said, self.settings[key])


def split_settings(
    settings: Mapping[str, Any] | None, epochs: float | None, batch: int | None, lr: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's settings and the network's (`model.order`), the familiar arguments among them.

    Raises ValueError where a setting says otherwise than the argument for the same value.
    """
    axes = {key.removeprefix("model."): value for key, value in (settings or {}).items() if key.startswith("model.")}
    chosen = {key: value for key, value in (settings or {}).items() if not key.startswith("model.")}
    length = None if epochs is None else f"{epochs:g} epoch{'s' * (epochs != 1)}"
    said = (("length", f"epochs {epochs:g}" if epochs else "", length), ("batch", f"batch {batch}", batch))
    for key, words, value in (*said, ("optimizer.lr", f"lr {lr}", lr)):
        if value is None:
            continue
        if key in chosen:
            _refuse_another(words, key, value, chosen[key])
        chosen[key] = value
    return chosen, axes


def _refuse_another(words: str, key: str, said: Any, setting: Any) -> None:
    """ValueError where a setting is not what an argument, told by `words`, says."""
    if said == setting or _read(key, said) == _read(key, setting):
        return
    got = f"{words} and the setting {key}={setting}"
    raise refuse(f"one value of {key}", got, next_step="leave one of them out")


def _read(key: str, value: Any) -> Any:
    """A value as the recipe has it; what the recipe could not hold stays as it is."""
    try:
        recipe = override(Recipe("", ""), {key: value})
    except ValueError:
        return value
    if key == "length":
        return parse_duration(recipe.length)
    return recipe.optimizer.lr if key == "optimizer.lr" else getattr(recipe, key)


def read_batch(batch: int | str | None) -> tuple[int | None, bool]:
    """The global batch (None: the recipe's), and whether its parts are to be chosen; ValueError for another word."""
    if batch == AUTO:
        return None, True
    if isinstance(batch, str):
        if not batch.isdigit() or not int(batch):
            raise refuse("a batch of at least 1, or auto", repr(batch), nearest=AUTO)
        return int(batch), False
    return batch, False


def pretrained_name(pretrained: Pretrained | None) -> str | None:
    """How the first weights are written down: the file or tag, or that they are the published ones."""
    if not pretrained:
        return None
    if isinstance(pretrained, Mapping):
        return "a state dict"
    return PUBLISHED if pretrained is True else str(pretrained)


def callable_name(value: Callable[..., Any] | None) -> str | None:
    """How a callable of the user's own is written down: its module and name."""
    if value is None:
        return None
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{name}"
