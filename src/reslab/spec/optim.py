"""Durations with their units, learning rate schedules with warmup, and optimizers."""

import re
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import Table

SCHEDULES: Table[str] = Table(
    "schedule",
    {
        "constant": "1",
        "multistep": "times gamma at each milestone",
        "cosine": "half a cosine to final_factor",
        "one-cycle": "up and down by half a cosine each",
        "linear": "a line to final_factor",
        "poly": "(1 - clock)^power",
        "plateau": "times gamma after patience evaluations without a better error",
    },
)
WARMUPS = ("linear", "constant")

_DURATION = re.compile(r"(?P<count>\d+(?:_\d+)*(?:\.\d+)?)\s*(?P<kilo>k?)\s*(?P<unit>epochs?|steps?)$")
_UNTIL_ERROR = re.compile(r"until\s+error\s+(?P<percent>\d+(?:\.\d+)?)\s*%$")


@dataclass(frozen=True)
class Duration:
    """A duration with its unit: `20 epochs` or `64k steps`."""

    count: float
    unit: str

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the duration in steps, rounded."""
        return round(self.count * (steps_per_epoch if self.unit == "epochs" else 1))


def parse_duration(text: str, key: str = "a duration") -> Duration:
    """Parse `"20 epochs"`, `"1 epoch"`, `"64k steps"` or `"0 steps"`. Raises ValueError if the unit is missing."""
    match = _DURATION.match(text.strip().lower())
    if match is None:
        unitless = re.match(r"\d+$", text.strip())
        suggestion = f"'{text.strip()} epochs'" if unitless else "'20 epochs'"
        raise invalid(f"{key} with its unit, such as '20 epochs' or '64k steps'", repr(text), nearest=suggestion)
    count = float(match["count"].replace("_", "")) * (1000 if match["kilo"] else 1)
    return Duration(count, match["unit"].rstrip("s") + "s")


def parse_warmup_error(warmup: str) -> float | None:
    """Return 0.8 for `"until error 80%"`, None for a warmup with a duration. Raises ValueError if not below 100 %."""
    match = _UNTIL_ERROR.match(warmup.strip().lower())
    if match is None:
        return None
    error = float(match["percent"]) / 100
    if not 0 < error < 1:
        raise invalid("schedule.warmup until an error between 0 and 100 %", repr(warmup), nearest="'until error 80%'")
    return error


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run, as a factor of `optimizer.lr`.

    Warmup: over `warmup` the factor rises linearly from `warmup_factor`, or stays there if `warmup_shape` is
    `constant`. `warmup_lr` above 0 is an initial learning rate in place of a factor, whatever the batch size. With
    `until error 80%` the warmup lasts until the training error of a log record falls below that.
    Schedule, over a clock from 0 to 1 after the warmup:
        `constant`: 1. `multistep`: times `gamma` at each of `milestones`, counted from the first step of the run.
        `cosine`: half a cosine to `final_factor`. `linear`: a line to it. `poly`: (1 - clock)^`power`.
        `one-cycle` (Smith and Topin 2018): half a cosine from `warmup_factor` to 1 over the fraction `pct_start` of the
        run, and half a cosine to `final_factor`; it has no other warmup.
        `plateau`: times `gamma` after `patience` evaluations in a row (one an epoch) whose validation error was not
        below its minimum; then it counts again.
    """

    name: str = "constant"
    warmup: str = "0 steps"
    warmup_shape: str = "linear"
    warmup_factor: float = 0.04
    warmup_lr: float = 0.0
    pct_start: float = 0.3
    final_factor: float = 0.0
    milestones: tuple[str, ...] = ()
    gamma: float = 0.1
    power: float = 2.0
    patience: int = 5

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown_name("schedule", self.name, SCHEDULES)
        for milestone in self.milestones:
            parse_duration(milestone, "schedule.milestones")
        if self.name == "multistep" and not self.milestones:
            raise invalid(
                "schedule.milestones for the schedule 'multistep'",
                "none",
                nearest="schedule.milestones=32k steps,48k steps",
            )
        if not 0 < self.pct_start < 1:
            raise invalid("schedule.pct_start between 0 and 1", self.pct_start, nearest="0.3")
        if not self.power > 0:
            raise invalid("schedule.power above 0", self.power, nearest="2.0")
        if self.patience < 1:
            raise invalid("schedule.patience of at least 1 evaluation", self.patience, nearest="5")
        self._check_warmup()

    def _check_warmup(self) -> None:
        if self.warmup_shape not in WARMUPS:
            raise unknown_name("schedule.warmup_shape", self.warmup_shape, WARMUPS)
        if not self.warmup_lr >= 0:
            raise invalid("schedule.warmup_lr of at least 0 (0: warmup_factor)", self.warmup_lr, nearest="0")
        error_threshold = parse_warmup_error(self.warmup)
        if error_threshold is None and not parse_duration(self.warmup, "schedule.warmup").count:
            return
        if self.name == "one-cycle":
            raise invalid(
                "no warmup with 'one-cycle', which has its own", self.warmup, nearest="schedule.warmup=0 steps"
            )
        if error_threshold is not None and self.warmup_shape != "constant":
            suggestion = "schedule.warmup_shape=constant"
            raise invalid(
                "a constant warmup until an error, whose duration is unknown", self.warmup_shape, nearest=suggestion
            )


BUILTIN_OPTIMIZERS = ("sgd", "adamw", "lamb", "muon")
GRAPH_OPTIMIZERS = ("sgd", "adamw", "muon")
"""Those whose step can be captured in a CUDA graph, with a learning rate that is a tensor."""
# torch.optim's classes in lower case, without those that need a closure, sparse gradients or only matrices.
TORCH_OPTIMIZERS = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop")
TIMM_PREFIX = "timm."

_TYPICAL_LRS = {"sgd": 0.1, "asgd": 0.1, "muon": 0.02, "lamb": 0.005, "adagrad": 0.01, "adadelta": 1.0, "rprop": 0.01}
OPTIMIZERS: Table[float] = Table(
    "optimizer", {name: _TYPICAL_LRS.get(name, 0.001) for name in (*BUILTIN_OPTIMIZERS, *TORCH_OPTIMIZERS)}
)
"""The optimizers by name, each with a learning rate of usual size at a batch of about 128."""


def typical_lr(name: str) -> float:
    """Return a learning rate of usual size for an optimizer, by name, at a batch of about 128."""
    return OPTIMIZERS.get(name, 0.001)


OptimizerKwarg = bool | int | float | str | None | tuple[float, ...]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its hyperparameters; `lr` belongs to the recipe's global batch size.

    `name` is `sgd`, `adamw`, `lamb`, `muon`, one of `TORCH_OPTIMIZERS` (`rmsprop`) or one of timm's (`timm.lion`).
    `sgd` and `muon` use `momentum` and `nesterov`; `betas` and `eps` of None mean the optimizer's own defaults.
    `kwargs` are further arguments (`"alpha=0.95 centered=true"`). `weight_decay` works as in the optimizer: added to
    the gradient in `sgd`, decoupled in `adamw`; without `decay_norm_and_bias` it skips parameters of at most one
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
    kwargs: str = ""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS and not self.name.startswith(TIMM_PREFIX):
            raise unknown_name("optimizer", self.name, OPTIMIZERS, "or one of timm's: timm.NAME")
        if not self.lr > 0:
            raise invalid("optimizer.lr above 0", self.lr)
        for key in ("momentum", "weight_decay"):
            if not getattr(self, key) >= 0:
                raise invalid(f"optimizer.{key} of at least 0", getattr(self, key))
        if self.nesterov and self.momentum == 0:
            raise invalid("a momentum above 0 for nesterov", self.momentum, nearest="optimizer.momentum=0.9")
        if self.betas is not None and (len(self.betas) < 2 or not all(0 <= beta < 1 for beta in self.betas)):
            raise invalid("optimizer.betas as numbers from 0 to below 1", self.betas, nearest="0.9,0.999")
        parse_optimizer_kwargs(self.kwargs)


def parse_optimizer_kwargs(text: str) -> dict[str, OptimizerKwarg]:
    """Parse `"alpha=0.95 centered=true shape=1,2"`. Raises ValueError for parts that are not `name=value`."""
    kwargs: dict[str, OptimizerKwarg] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not value or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise invalid("optimizer.kwargs as name=value", repr(part), nearest="'alpha=0.95 centered=true'")
        if name in kwargs:
            raise invalid(f"{name} once", repr(text))
        kwargs[name] = _parse_value(value)
    return kwargs


def _parse_value(text: str) -> OptimizerKwarg:
    constants: dict[str, OptimizerKwarg] = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    if "," in text:
        return tuple(float(part) for part in text.split(",") if part)
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text
