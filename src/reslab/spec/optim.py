"""How long, and how the learning rate goes: lengths with their units, warm-ups, schedules.

How a gradient becomes a step: an optimizer by name, and its numbers.
"""

import re
from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown

SCHEDULES = ("constant", "steps", "cosine", "one-cycle", "linear", "poly", "plateau")
WARMUPS = ("linear", "constant")

_DURATION = re.compile(r"(?P<count>\d+(?:_\d+)*(?:\.\d+)?)\s*(?P<kilo>k?)\s*(?P<unit>epochs?|steps?)$")
_UNTIL = re.compile(r"until\s+error\s+(?P<percent>\d+(?:\.\d+)?)\s*%$")


@dataclass(frozen=True)
class Duration:
    """A length with its unit: `20 epochs` or `64k steps`."""

    count: float
    unit: str

    def num_steps(self, steps_per_epoch: int) -> int:
        """The length in steps, rounded to a whole one."""
        return round(self.count * (steps_per_epoch if self.unit == "epochs" else 1))


def parse_duration(text: str, key: str = "a length") -> Duration:
    """`"20 epochs"`, `"1 epoch"`, `"64k steps"`, `"0 steps"` as a value; ValueError where the unit is missing."""
    found = _DURATION.match(text.strip().lower())
    if found is None:
        bare = re.match(r"\d+$", text.strip())
        near = f"'{text.strip()} epochs'" if bare else "'20 epochs'"
        raise refuse(f"{key} with its unit, such as '20 epochs' or '64k steps'", repr(text), nearest=near)
    count = float(found["count"].replace("_", "")) * (1000 if found["kilo"] else 1)
    return Duration(count, found["unit"].rstrip("s") + "s")


def until_error(warmup: str) -> float | None:
    """0.8 of `"until error 80%"`; None of a warm-up that has a length. ValueError where it is not below 100 %."""
    found = _UNTIL.match(warmup.strip().lower())
    if found is None:
        return None
    share = float(found["percent"]) / 100
    if not 0 < share < 1:
        raise refuse("schedule.warmup until an error between 0 and 100 %", repr(warmup), nearest="'until error 80%'")
    return share


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes over the run, as a factor of `optimizer.lr`.

    `warmup` rises linearly from the factor `start`, or stays there where `warmup_shape` is `constant`; where `start_lr`
    is above 0 it begins at that rate in place of a factor, however another batch scales the rest. `until error 80%`
    stays at the start until the training error of a report falls below that. What follows has its own clock from 0 to 1
    over the rest. `constant` stays; `steps` multiplies by `gamma` at each of `milestones` (counted from the first step
    of the run); `cosine` falls to `end` along half a cosine, `linear` along a line, `poly` as (1 - clock)^`power`;
    `one-cycle` (Smith and Topin 2018) rises along half a cosine from `start` to 1 over the share `peak` of the run and
    falls along another to `end`; its rise is its warm-up. `plateau` multiplies by `gamma` where the error on the
    validation split, judged at the end of each epoch, was not below its least so far `patience` times in a row; it then
    counts anew.
    """

    name: str = "constant"
    warmup: str = "0 steps"
    warmup_shape: str = "linear"
    start: float = 0.04
    start_lr: float = 0.0
    peak: float = 0.3
    end: float = 0.0
    milestones: tuple[str, ...] = ()
    gamma: float = 0.1
    power: float = 2.0
    patience: int = 5

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown("schedule", self.name, SCHEDULES)
        for milestone in self.milestones:
            parse_duration(milestone, "schedule.milestones")
        if self.name == "steps" and not self.milestones:
            raise refuse(
                "schedule.milestones for the schedule 'steps'",
                "none",
                nearest="schedule.milestones=32k steps,48k steps",
            )
        if not 0 < self.peak < 1:
            raise refuse("schedule.peak between 0 and 1", self.peak, nearest="0.3")
        if not self.power > 0:
            raise refuse("schedule.power above 0", self.power, nearest="2.0")
        if self.patience < 1:
            raise refuse("schedule.patience of at least 1 evaluation", self.patience, nearest="5")
        self._check_warmup()

    def _check_warmup(self) -> None:
        if self.warmup_shape not in WARMUPS:
            raise unknown("schedule.warmup_shape", self.warmup_shape, WARMUPS)
        if not self.start_lr >= 0:
            raise refuse("schedule.start_lr of at least 0 (0: the factor start)", self.start_lr, nearest="0")
        until = until_error(self.warmup)
        if until is None and not parse_duration(self.warmup, "schedule.warmup").count:
            return
        if self.name == "one-cycle":
            raise refuse(
                "no warmup beside 'one-cycle', which rises by itself", self.warmup, nearest="schedule.warmup=0 steps"
            )
        if until is not None and self.warmup_shape != "constant":
            near = "schedule.warmup_shape=constant"
            raise refuse("a constant warm-up until an error, of no known length", self.warmup_shape, nearest=near)


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
