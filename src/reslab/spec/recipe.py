"""A training procedure: optimizer, schedule, length, global batch, augmentation, regularisation, precision.

Which parts of a network are trained from when: `head: 0 epochs`, `layer4: 2 epochs`, `all: 5 epochs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reslab.spec.arch import parse_arch_overrides
from reslab.spec.config import override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import parse_ops
from reslab.spec.loss import parse_class_weights, parse_loss
from reslab.spec.optim import Duration, OptimizerConfig, parse_duration
from reslab.spec.optim import ScheduleConfig as ScheduleConfig

UNFREEZE_EXAMPLE = "'head: 0 epochs'"


@dataclass(frozen=True)
class UnfreezeStep:
    """A part of a network, and from when it is trained.

    `part` is `head` (all after the last stage), `last-stage`, `all`, or the name of a module (`layer3`, `layer4.0`).
    """

    part: str
    start: Duration


def parse_unfreeze_steps(texts: tuple[str, ...]) -> tuple[UnfreezeStep, ...]:
    """The openings said, none for all from the start.

    Raises ValueError where one is not `PART: LENGTH`, a part comes twice, or nothing is trained at first.
    """
    steps = []
    for text in texts:
        part, colon, start_text = (piece.strip() for piece in text.partition(":"))
        if not part or not colon:
            raise invalid("unfreeze as PART: LENGTH", repr(text), nearest=UNFREEZE_EXAMPLE)
        steps.append(UnfreezeStep(part, parse_duration(start_text, "the start in unfreeze")))
    parts = [step.part for step in steps]
    if len(set(parts)) < len(parts):
        raise invalid("each part of unfreeze once", ", ".join(parts))
    if steps and min(step.start.count for step in steps) > 0:
        raise invalid("a part of unfreeze that is trained from the start", ", ".join(texts), nearest=UNFREEZE_EXAMPLE)
    return tuple(steps)


MONITORED_METRICS = ("top1", "loss")
PRECISIONS = ("float32", "bf16", "fp16", "auto")


@dataclass(frozen=True)
class Recipe:
    """A whole training procedure; `source` says where it is printed, `notes` what is done otherwise than there.

    Where nobody says otherwise it is for the network `model` with the `axes` (`merge=drop-path(0.05)`) on the data set
    `data`, its first weights published ones where `pretrained`, a `val_fraction` of the training pictures split off for
    validation. `test` are the words of evaluation, `mean` and `std` the normalisation, where not the data's own; with
    `pixel_mean` the training pictures' mean at each pixel is subtracted, before augmentation, and nothing divided. With
    `judge_train` the finished weights are judged on the training pictures too.

    `length` is `"20 epochs"` or `"64k steps"`, `batch` the global batch, `augment` a sentence such as
    `pad(4) crop(32) flip`, `precision` `float32`, `bf16`, `fp16` (autocast, fp16 with a scaled loss; the weights and
    every evaluation stay float32) or `auto`, which is bf16 where the machine is quick at it.

    Every epoch takes 1 / `repeats` of the pictures that many times, augmented differently; `balanced` draws every class
    equally often. `unfreeze` says which parts are trained from when (`head: 0 epochs`), none for all; a BatchNorm stays
    as it is where it is frozen.

    `loss` is a sentence such as `bce(0.2)` or `cross-entropy distill(0.5,4)`, whose `teacher` is a run; `class_weights`
    is `balanced` or a number a class; `l1` sum |w| + `l2` sum w^2 over all weights is added to it. The gradient of a
    batch is that of `accumulate` parts, one after another (norms see the parts), brought to a norm of at most
    `clip_norm` where that is above 0. `activation_checkpointing` computes each unit again in the backward pass in place
    of keeping what is in it.

    What is judged and kept: the weights, or their moving average with the decay `ema`, taken every `ema_every` steps
    (`ema_warmup`: with a smaller decay at first), or their mean over the ends of the last `average_epochs` epochs.
    `precise_bn` batches measure the statistics of its BatchNorms at the end; with `sync_bn` they normalise by the
    global batch where several ranks share one. The run ends early where `patience` (0: never) has passed without a
    better score on the validation split, by `patience_on`: `top1` or `loss`.
    """

    name: str
    reference: str
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    duration: str = "20 epochs"
    batch_size: int = 128
    train_transform: str = ""
    label_smoothing: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    loss: str = "cross-entropy"
    class_weights: str = ""
    teacher: str = ""
    grad_accum_steps: int = 1
    clip_grad_norm: float = 0.0
    ema: float = 0.0
    ema_every: int = 1
    ema_warmup: bool = False
    swa_epochs: int = 0
    precise_bn_batches: int = 0
    patience: str = "0 epochs"
    patience_on: str = "top1"
    sync_bn: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
    l1: float = 0.0
    l2: float = 0.0
    repeated_augmentation: int = 1
    class_balanced_sampling: bool = False
    unfreeze: tuple[str, ...] = ()
    model: str = ""
    arch_overrides: tuple[str, ...] = ()
    data: str = ""
    pretrained: bool = False
    val_fraction: float = 0.0
    eval_transform: str = ""
    eval_train: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixel_mean: bool = False
    notes: str = ""

    def __post_init__(self) -> None:
        if parse_duration(self.duration, "duration").count <= 0:
            raise invalid("duration above 0", repr(self.duration), nearest="'1 epoch'")
        if self.batch_size < 1:
            raise invalid("a batch_size of at least 1", self.batch_size)
        if not 0 <= self.label_smoothing < 1:
            raise invalid("label_smoothing from 0 to below 1", self.label_smoothing, nearest="0.1")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        parse_ops(self.train_transform)
        self._check_defaults()
        self._check_loss()
        self._check_steps()
        self._check_averaging()

    def _check_defaults(self) -> None:
        parse_ops(self.eval_transform)
        parse_unfreeze_steps(self.unfreeze)
        parse_arch_overrides(self.arch_overrides)
        if not 0 <= self.val_fraction < 1:
            raise invalid("val_fraction from 0 (the data's own split) to below 1", self.val_fraction, nearest="0.1")
        if self.mean and self.pixel_mean:
            raise invalid("mean or pixel_mean", "both", next_step="leave one of them out")
        if len(self.mean) != len(self.std) or any(not std > 0 for std in self.std):
            raise invalid("a mean and a std above 0 for every channel", f"mean {self.mean} and std {self.std}")

    def _check_loss(self) -> None:
        for key in ("l1", "l2"):
            if not getattr(self, key) >= 0:
                raise invalid(f"{key} of at least 0 (0: none)", getattr(self, key), nearest="0.001")
        parse_class_weights(self.class_weights)
        distills = parse_loss(self.loss).distill is not None
        if distills and not self.teacher:
            raise invalid("a teacher to distill from, a run or its weights", "none", nearest="teacher=runs/NAME")
        if self.teacher and not distills:
            suggestion = f"loss={self.loss} distill(0.5,4)"
            raise invalid(
                "distill(share,temperature) in the loss of a recipe with a teacher", repr(self.loss), suggestion
            )

    def _check_steps(self) -> None:
        if self.repeated_augmentation < 1:
            raise invalid("repeated_augmentation of at least 1", self.repeated_augmentation, nearest="1")
        if not 1 <= self.grad_accum_steps <= self.batch_size:
            raise invalid(
                f"grad_accum_steps from 1 to the batch_size of {self.batch_size}", self.grad_accum_steps, nearest="1"
            )
        if not self.clip_grad_norm >= 0:
            raise invalid("clip_grad_norm of at least 0 (0: no clipping)", self.clip_grad_norm, nearest="1.0")
        if self.compile and self.activation_checkpointing:
            raise invalid("compile or activation_checkpointing", "both", next_step="leave one of them out")

    def _check_averaging(self) -> None:
        if not 0 <= self.ema < 1:
            raise invalid("ema from 0 (none) to below 1", self.ema, nearest="0.999")
        if self.ema_every < 1:
            raise invalid("ema_every of at least 1 step", self.ema_every, nearest="1")
        for key in ("swa_epochs", "precise_bn_batches"):
            if getattr(self, key) < 0:
                raise invalid(f"{key} of at least 0", getattr(self, key), nearest="0")
        if self.ema and self.swa_epochs:
            raise invalid("ema or swa_epochs", "both", next_step="leave one of them out")
        self._check_patience()

    def _check_patience(self) -> None:
        if self.patience_on not in MONITORED_METRICS:
            raise unknown_name("patience_on", self.patience_on, MONITORED_METRICS)
        if parse_duration(self.patience, "patience").count and self.swa_epochs:
            raise invalid("patience or swa_epochs, whose last epochs are known", "both", next_step="leave one out")


def apply_recipe_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
    """`recipe` with `settings` (`{"optimizer.lr": "0.2", "batch_size": 256}`), and what a person should be told about it.

    A learning rate belongs to its global batch: another `batch` scales it, lr x new / old (Goyal et al. 2017,
    Sec. 2.1), unless `optimizer.lr` is set too. Raises ValueError for an unknown key (with the nearest) or a value of
    another type.
    """
    overridden = override(recipe, overrides, kind="recipe key")
    if overridden.batch_size == recipe.batch_size or "optimizer.lr" in overrides or "optimizer" in overrides:
        return overridden, ()
    return scale_lr(overridden, recipe.batch_size)


def scale_lr(recipe: Recipe, reference_batch_size: int) -> tuple[Recipe, tuple[str, ...]]:
    """`recipe`, whose learning rate was for `from_batch`, with the rate for its own batch; and the sentence on it."""
    lr = recipe.optimizer.lr * recipe.batch_size / reference_batch_size
    message = f"learning rate {recipe.optimizer.lr:g} for batch {reference_batch_size} becomes {lr:g} for batch {recipe.batch_size}"
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=lr)), (message,)
