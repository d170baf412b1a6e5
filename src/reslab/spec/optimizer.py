"""How a gradient becomes a step: an optimizer by name, and its numbers."""

import re
from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown

OURS = ("sgd", "adamw", "lamb", "muon")
# torch.optim's classes in small letters, without those that need a closure, sparse gradients or matrices alone.
TORCHS = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop")
OPTIMIZERS = (*OURS, *TORCHS)
TIMM = "timm."

Option = bool | int | float | str | None | tuple[float, ...]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer; `lr` belongs to the recipe's global batch.

    `sgd`, `adamw`, `lamb`, `muon`, any of torch.optim's by name (`rmsprop`) or of timm's (`timm.lion`). `sgd` and
    `muon` use `momentum` and `nesterov`; where `betas` or `eps` are none they are the optimizer's own. `options` are
    its other arguments (`"alpha=0.95 centered=true"`). `weight_decay` is as the optimizer takes it: added to the
    gradient in `sgd`, decoupled in `adamw`; without `decay_norm_and_bias` it spares every parameter of at most one
    dimension.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    weight_decay: float = 0.0
    decay_norm_and_bias: bool = True
    options: str = ""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS and not self.name.startswith(TIMM):
            raise unknown("optimizer", self.name, OPTIMIZERS, "or one of timm's: timm.NAME")
        if not self.lr > 0:
            raise refuse("optimizer.lr above 0", self.lr)
        for key in ("momentum", "weight_decay"):
            if not getattr(self, key) >= 0:
                raise refuse(f"optimizer.{key} of at least 0", getattr(self, key))
        if self.nesterov and self.momentum == 0:
            raise refuse("a momentum above 0 for nesterov", self.momentum, nearest="optimizer.momentum=0.9")
        if self.betas is not None and (len(self.betas) < 2 or not all(0 <= beta < 1 for beta in self.betas)):
            raise refuse("optimizer.betas as numbers from 0 to below 1", self.betas, nearest="0.9,0.999")
        parse_options(self.options)


def parse_options(text: str) -> dict[str, Option]:
    """`"alpha=0.95 centered=true shape=1,2"` as values; ValueError for what is not `name=value` words."""
    found: dict[str, Option] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not value or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise refuse("options as name=value words", repr(part), nearest="'alpha=0.95 centered=true'")
        if name in found:
            raise refuse(f"{name} said once", repr(text))
        found[name] = _value(value)
    return found


def _value(text: str) -> Option:
    words: dict[str, Option] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(float(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
