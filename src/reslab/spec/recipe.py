"""A training recipe: optimizer, schedule, duration, global batch size, transforms, regularization and precision."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reslab.spec.arch import parse_arch_overrides
from reslab.spec.config import expand_keys, override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.loss import parse_class_weights, parse_loss
from reslab.spec.optim import (
    GRAPH_OPTIMIZERS,
    Duration,
    OptimizerConfig,
    ScheduleConfig,
    parse_duration,
    typical_lr,
)
from reslab.spec.task import LOSS, TASKS
from reslab.spec.transform_grammar import check_transforms

PRECISIONS = ("float32", "bf16", "fp16", "auto")
UNFREEZE_EXAMPLE = "'head: 0%'"
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%$")


@dataclass(frozen=True)
class UnfreezeStep:
    """A part of the network and the time from which it is trained.

    `part` is `head` (everything after the last stage), `last-stage`, `all`, or the name of a module (`layer3`,
    `layer4.0`). `start` is a duration, or a fraction of the run's length.
    """

    part: str
    start: Duration | float

    def start_step(self, steps_per_epoch: int, total_steps: int) -> int:
        """Return the first step at which the part is trained, in a run of `total_steps`."""
        if isinstance(self.start, Duration):
            return self.start.num_steps(steps_per_epoch)
        return round(self.start * total_steps)


def parse_unfreeze_steps(texts: tuple[str, ...]) -> tuple[UnfreezeStep, ...]:
    """Parse `("head: 0%", "layer4: 25%", "layer3: 5 epochs", ...)`; an empty tuple trains everything from the start.

    Raises ValueError if an entry is not `PART: START` (a share of the run below 100 %, or a duration), a part appears
    twice, or nothing is trained at first.
    """
    steps = []
    for text in texts:
        part, colon, start_text = (piece.strip() for piece in text.partition(":"))
        if not part or not colon:
            raise invalid("unfreeze as PART: START", repr(text), nearest=UNFREEZE_EXAMPLE)
        steps.append(UnfreezeStep(part, _parse_start(start_text)))
    parts = [step.part for step in steps]
    if len(set(parts)) < len(parts):
        raise invalid("each part of unfreeze once", ", ".join(parts))
    if steps and all(step.start_step(1_000_000, 1_000_000) for step in steps):
        raise invalid("a part of unfreeze that is trained from the start", ", ".join(texts), nearest=UNFREEZE_EXAMPLE)
    return tuple(steps)


def _parse_start(text: str) -> Duration | float:
    match = _PERCENT.match(text)
    if match is None:
        return parse_duration(text, "the start in unfreeze")
    if float(match[1]) >= 100:
        raise invalid("a start in unfreeze below 100% of the run", repr(text), nearest="'50%'")
    return float(match[1]) / 100


@dataclass(frozen=True)
class EMAConfig:
    """An exponential moving average of the weights, evaluated and kept in their place; a decay of 0 means none.

    The average is updated every `every` steps. With `warmup` its decay is smaller at first.
    """

    decay: float = 0.0
    every: int = 1
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise invalid("ema.decay from 0 (none) to below 1", self.decay, nearest="0.999")
        if self.every < 1:
            raise invalid("ema.every of at least 1 step", self.every, nearest="1")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """End the run once `metric` on validation has not improved for `patience` (0: never).

    `metric` is one of the task's (`top1`, `loss`); empty means the one that selects the weights.
    """

    patience: str = "0 epochs"
    metric: str = ""

    def __post_init__(self) -> None:
        parse_duration(self.patience, "early_stopping.patience")
        known = {LOSS.name, *(metric.name for task in TASKS.values() for metric in task.metrics)}
        if self.metric and self.metric not in known:
            raise unknown_name("early_stopping.metric", self.metric, sorted(known))

    @property
    def enabled(self) -> bool:
        """True if the run can end early."""
        return parse_duration(self.patience).count > 0


@dataclass(frozen=True)
class NormalizeConfig:
    """The normalization of the input: `mean` and `std` a channel, or one for all; empty means the dataset's own.

    With `per_pixel_mean` the training images' mean at each pixel is subtracted, before augmentation, and nothing is
    divided.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    per_pixel_mean: bool = False

    def __post_init__(self) -> None:
        if self.mean and self.per_pixel_mean:
            raise invalid("normalize.mean or normalize.per_pixel_mean", "both", next_step="leave one of them out")
        if len(self.mean) != len(self.std) or any(not std > 0 for std in self.std):
            raise invalid("a mean and a std above 0 for every channel", f"mean {self.mean} and std {self.std}")


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation (Hinton et al. 2015, Sec. 2); without a teacher, none.

    `teacher` is a run or its weights. The loss is (1 - alpha) loss + alpha T^2 KL(teacher || student), both softened by
    the temperature T.
    """

    teacher: str = ""
    alpha: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise invalid("distill.alpha from 0 to 1", self.alpha, nearest="0.5")
        if not 1e-3 <= self.temperature <= 1e3:
            raise invalid("distill.temperature from 0.001 to 1000", self.temperature, nearest="4")


@dataclass(frozen=True)
class Recipe:
    """A complete training procedure; `reference` says where it is published, `notes` how this one differs.

    Defaults for the model and the data, unless the user chooses others:
        `model` with the architecture overrides `arch` (`merge=drop-path(0.05)`), `pretrained` weights or random ones;
        the dataset `data` with a `val_fraction` of its training images split off for validation.
    Input: `train_transform` such as `pad(4) crop(32) flip`, `eval_transform` and `normalize`. `image_size` above 0 fits
        both transforms and the network's described input size to that many pixels. Each epoch takes
        1 / `repeated_augmentation` of the images that many times, augmented differently (Hoffer et al. 2020);
        `class_balanced_sampling` draws every class equally often.
    Steps: `duration` is `"20 epochs"` or `"64k steps"`, `batch_size` the global batch. The gradient of a batch is the
        mean over `grad_accum_steps` micro-batches (norms see the micro-batches), clipped to `clip_grad_norm` if that
        is above 0. `precision` is `float32`, `bf16`, `fp16` (autocast, fp16 with a scaled loss; weights and evaluation
        stay float32) or `auto`: bf16 where the hardware is fast at it. `activation_checkpointing` recomputes each
        block in the backward pass to save memory. `compile` compiles the network (torch.compile); `cuda_graph` captures
        the whole step in one CUDA graph, on a GPU, which saves the time of launching its kernels. `unfreeze` says from
        when each part is trained: a share of the run (`head: 0%`, `all: 42%`) or a duration (`layer4: 2 epochs`);
        BatchNorm statistics stay fixed while frozen.
    Loss: `loss` is an expression such as `bce(0.2)`; `class_weights` is `balanced` or one number a class;
        `l1` sum |w| + `l2` sum w^2 over all weights is added to it.
    Weights kept: those of the best validation score, or of the last step; with `ema` their moving average; with
        `swa_epochs` the mean over the ends of the last epochs. `precise_bn_batches` recomputes BatchNorm statistics on
        that many batches at the end; `sync_bn` normalizes by the global batch when several processes share it.
    Evaluation: at the end of every `eval_interval`-th epoch and after the last step. With `eval_train` the final
        weights are evaluated on the training split too.
    """

    name: str
    reference: str
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    duration: str = "20 epochs"
    batch_size: int = 128
    train_transform: str = ""
    image_size: int = 0
    label_smoothing: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    loss: str = "cross-entropy"
    class_weights: str = ""
    distill: DistillConfig = field(default_factory=DistillConfig)
    grad_accum_steps: int = 1
    clip_grad_norm: float = 0.0
    ema: EMAConfig = field(default_factory=EMAConfig)
    swa_epochs: int = 0
    precise_bn_batches: int = 0
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    sync_bn: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
    cuda_graph: bool = False
    l1: float = 0.0
    l2: float = 0.0
    repeated_augmentation: int = 1
    class_balanced_sampling: bool = False
    unfreeze: tuple[str, ...] = ()
    model: str = ""
    arch: tuple[str, ...] = ()
    data: str = ""
    pretrained: bool = False
    val_fraction: float = 0.0
    eval_transform: str = ""
    eval_interval: int = 1
    eval_train: bool = False
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    notes: str = ""

    def __post_init__(self) -> None:
        if parse_duration(self.duration, "duration").count <= 0:
            raise invalid("duration above 0", repr(self.duration), nearest="'1 epoch'")
        if self.batch_size < 1:
            raise invalid("a batch_size of at least 1", self.batch_size)
        if self.image_size < 0:
            raise invalid("an image_size of at least 0 (0: that of the data)", self.image_size, nearest="224")
        if self.eval_interval < 1:
            raise invalid("an eval_interval of at least 1 epoch", self.eval_interval, nearest="1")
        if not 0 <= self.val_fraction < 1:
            raise invalid("val_fraction from 0 (the data's own split) to below 1", self.val_fraction, nearest="0.1")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        check_transforms(self.train_transform)
        check_transforms(self.eval_transform)
        parse_unfreeze_steps(self.unfreeze)
        parse_arch_overrides(self.arch)
        self._check_loss()
        self._check_steps()
        self._check_averaging()

    def _check_loss(self) -> None:
        parse_loss(self.loss)
        parse_class_weights(self.class_weights)
        if not 0 <= self.label_smoothing < 1:
            raise invalid("label_smoothing from 0 to below 1", self.label_smoothing, nearest="0.1")
        for key in ("l1", "l2"):
            if not getattr(self, key) >= 0:
                raise invalid(f"{key} of at least 0 (0: none)", getattr(self, key), nearest="0.001")

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
        if self.cuda_graph:
            self._check_cuda_graph()

    def _check_cuda_graph(self) -> None:
        next_step = "set cuda_graph=false"
        if self.optimizer.name not in GRAPH_OPTIMIZERS:
            required = f"an optimizer whose step can be captured for cuda_graph ({', '.join(GRAPH_OPTIMIZERS)})"
            raise invalid(required, self.optimizer.name, next_step=next_step)
        if self.precision == "fp16":
            raise invalid("precision=bf16 or float32 for cuda_graph", "fp16", nearest="bf16", next_step=next_step)
        if self.unfreeze:
            raise invalid("the same steps from start to end for cuda_graph", "unfreeze", next_step=next_step)

    def _check_averaging(self) -> None:
        for key in ("swa_epochs", "precise_bn_batches"):
            if getattr(self, key) < 0:
                raise invalid(f"{key} of at least 0", getattr(self, key), nearest="0")
        if self.ema.decay and self.swa_epochs:
            raise invalid("ema or swa_epochs", "both", next_step="leave one of them out")
        if self.early_stopping.enabled and self.swa_epochs:
            raise invalid("early_stopping or swa_epochs, which needs a known end", "both", next_step="leave one out")


RECIPE_SHORTHANDS = {"epochs": "duration", "size": "image_size"}


def expand_recipe_keys(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides of a recipe with shortened keys written out; keys of the network (`model.order`) stay.

    `lr` is `optimizer.lr`, `schedule=cosine` is `schedule.name=cosine`, `size` is `image_size`, and `epochs=3` is
    `duration=3 epochs`. Raises ValueError for a short key that is ambiguous, and for a key that is given twice.
    """
    if "epochs" in overrides:
        overrides = {**overrides, "epochs": _epochs_to_duration(overrides["epochs"])}
    model_overrides = {key: value for key, value in overrides.items() if key.startswith("model.")}
    others = {key: value for key, value in overrides.items() if key not in model_overrides}
    return {**expand_keys(Recipe("", ""), others, RECIPE_SHORTHANDS), **model_overrides}


def _epochs_to_duration(epochs: Any) -> Any:
    try:
        count = float(epochs)
    except (TypeError, ValueError):
        return epochs
    return f"{count:.12g} epoch{'s' * (count != 1)}"


def apply_recipe_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
    """Return `recipe` with `overrides` (`{"optimizer.lr": "0.2", "batch_size": 256}`), and messages for the user.

    A learning rate belongs to its global batch: another `batch_size` scales it, lr x new / old (Goyal et al. 2017,
    Sec. 2.1), unless `optimizer.lr` is overridden too. The schedule `one-cycle` has its own warmup and drops the
    recipe's; another optimizer drops the `kwargs`, `betas` and `eps` of the recipe's. Keys may be shortened
    (`expand_recipe_keys`). Raises ValueError for an unknown key (with the nearest) or a value of another type.
    """
    overrides = expand_recipe_keys(overrides)
    messages: list[str] = []
    other_optimizer = overrides.get("optimizer.name", recipe.optimizer.name) != recipe.optimizer.name
    no_arguments = replace(recipe.optimizer, kwargs="", betas=None, eps=None)
    if other_optimizer and no_arguments != recipe.optimizer:
        messages.append(f"the recipe's arguments of {recipe.optimizer.name} are dropped")
        recipe = replace(recipe, optimizer=no_arguments)
    has_warmup = recipe.schedule.warmup != ScheduleConfig().warmup
    if overrides.get("schedule.name") == "one-cycle" and "schedule.warmup" not in overrides and has_warmup:
        overrides["schedule.warmup"] = ScheduleConfig().warmup
        messages.append(f"one-cycle has its own warmup: the recipe's, of {recipe.schedule.warmup}, is dropped")
    overridden = override(recipe, overrides, kind="recipe key")
    if "optimizer.lr" in overrides or "optimizer" in overrides:
        return overridden, tuple(messages)
    if overridden.batch_size != recipe.batch_size:
        overridden, scale_messages = scale_lr(overridden, recipe.batch_size)
        messages += scale_messages
    name, lr = overridden.optimizer.name, overridden.optimizer.lr
    if name != recipe.optimizer.name and not 0.1 <= lr / typical_lr(name) <= 10:
        messages.append(
            f"the learning rate {lr:g} is the recipe's, for {recipe.optimizer.name}; {name} is usually trained with "
            f"about {typical_lr(name):g}: --lr {typical_lr(name):g}"
        )
    return overridden, tuple(messages)


def scale_lr(recipe: Recipe, reference_batch_size: int) -> tuple[Recipe, tuple[str, ...]]:
    """Return `recipe` with its learning rate scaled from `reference_batch_size` to its own batch, and a message."""
    lr = recipe.optimizer.lr * recipe.batch_size / reference_batch_size
    message = (
        f"learning rate {recipe.optimizer.lr:g} for batch {reference_batch_size} "
        f"becomes {lr:g} for batch {recipe.batch_size}"
    )
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=lr)), (message,)
