"""Losses of logits (N, C) and targets: class indices (N,), class probabilities (N, C), or numbers in regression.

Every loss is a mean over the N samples, so that the mean of the losses of equal micro-batches or ranks is the loss
of the whole batch. Also here: weight penalties and knowledge distillation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid
from reslab.spec.grammar import signature_params
from reslab.spec.loss import LOSSES, LossSpec, LossType, parse_class_weights, parse_loss
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import TargetKind

LossFn = Callable[[Tensor, Tensor], Tensor]


def dense_targets(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return targets as class probabilities (N, C) in the dtype of the outputs, with label smoothing s.

    (1 - s) t + s / C (Szegedy et al. 2016, Sec. 7). Raises ValueError unless the targets are (N,) or (N, C).
    """
    if targets.shape == outputs.shape and targets.is_floating_point():
        dense = targets.to(outputs.dtype)
    elif targets.shape == outputs.shape[:1]:
        dense = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    else:
        raise invalid(
            f"targets of shape {tuple(outputs.shape[:1])}, or class probabilities {tuple(outputs.shape)}",
            f"{tuple(targets.shape)} of {targets.dtype}",
        )
    return dense if smoothing == 0 else dense * (1 - smoothing) + smoothing / outputs.shape[1]


def _at_least_float32(outputs: Tensor) -> Tensor:
    """Convert to float32 unless already float64, also under autocast: sums over a batch need its precision."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The mean over samples of -sum_c w_c t_c log softmax(z)_c, with smoothed t and `weights` w (C,), 1 if None.

    With weights too it is divided by N, as torch does for class probabilities; for class indices torch divides by the
    sum of w.
    """

    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        if self.weights is not None:
            targets = dense_targets(outputs, targets)
        weights = None if self.weights is None else self.weights.to(outputs)
        return functional.cross_entropy(outputs, targets, weights, label_smoothing=self.smoothing)


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy:
    """The mean over samples, and the mean or sum over classes, of BCE(sigmoid(z), t) (Wightman et al. 2021, Sec. 3.1).

    t is smoothed; with a `threshold` it is then 1 above it and 0 elsewhere. Equal to timm's loss on class indices;
    class probabilities are smoothed here, while timm smooths them when it mixes them. `weights` (C,);
    `positive_weights` (C,) weigh the term of t alone, as torch's `pos_weight`.
    """

    threshold: float | None = None
    sum_classes: bool = False
    smoothing: float = 0.0
    weights: Tensor | None = None
    positive_weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        dense = dense_targets(outputs, targets, self.smoothing)
        if self.threshold is not None:
            dense = (dense > self.threshold).to(outputs.dtype)
        weights = None if self.weights is None else self.weights.to(outputs)
        positive = None if self.positive_weights is None else self.positive_weights.to(outputs)
        losses = functional.binary_cross_entropy_with_logits(
            outputs, dense, weights, pos_weight=positive, reduction="none"
        )
        return (losses.sum(1) if self.sum_classes else losses.mean(1)).mean()


@dataclass(frozen=True, eq=False)
class FocalLoss:
    """The mean over samples of -sum_c w_c t_c (1 - p_c)^gamma log p_c, p = softmax(z) (Lin et al. 2017, Eq. 4)."""

    gamma: float = 2.0
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        log_p = outputs.log_softmax(1)
        losses = -dense_targets(outputs, targets, self.smoothing) * (1 - log_p.exp()).pow(self.gamma) * log_p
        return (losses if self.weights is None else losses * self.weights.to(outputs)).sum(1).mean()


@dataclass(frozen=True, eq=False)
class BinaryFocalLoss:
    """The mean over samples of -sum_c w_c a_c (1 - p_c)^gamma log p_c (Lin et al. 2017, Eq. 5).

    p_c is the sigmoid's probability of the true state of class c; a_c is `alpha` for present classes, else 1 - `alpha`.
    `positive_weights` (C,) multiply the losses of present classes.
    """

    gamma: float = 2.0
    alpha: float = 0.25
    smoothing: float = 0.0
    weights: Tensor | None = None
    positive_weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        dense = dense_targets(outputs, targets, self.smoothing)
        p = outputs.sigmoid()
        p_t = p * dense + (1 - p) * (1 - dense)
        alpha_t = self.alpha * dense + (1 - self.alpha) * (1 - dense)
        losses = functional.binary_cross_entropy_with_logits(outputs, dense, reduction="none")
        losses = alpha_t * (1 - p_t).pow(self.gamma) * losses
        if self.positive_weights is not None:
            losses = losses * (1 + (self.positive_weights.to(outputs) - 1) * dense)
        return (losses if self.weights is None else losses * self.weights.to(outputs)).sum(1).mean()


_SIGMOID_LOSSES = ("bce", "focal-binary")
_LOSS_FUNCTIONS: dict[str, Callable[..., Tensor]] = {}
LossFunctionT = TypeVar("LossFunctionT", bound=Callable[..., Tensor])


def register_loss(name: str, *, reference: str = "") -> Callable[[LossFunctionT], LossFunctionT]:
    """Return a decorator that registers a loss for the recipe key `loss`.

    The function takes the logits `outputs` (N, C) and the `targets` as probabilities (N, C), with label smoothing, and
    returns one number a sample (N,). Further parameters are numbers, in brackets after the name; it is called in at
    least float32. Raises ValueError for a name that is taken, and a parameter that is no number.
    """

    def register(function: LossFunctionT) -> LossFunctionT:
        params = signature_params(function, ("outputs", "targets"))
        if any(param.type is str or param.required for param in params):
            raise invalid(
                f"numbers with defaults as the parameters of the loss {name}", "another", "gamma: float = 2.0"
            )
        numbers = tuple((param.name, param.low, param.high, float(param.default or 0)) for param in params)
        example = f"{name}({','.join(f'{default:g}' for *_, default in numbers)})" if numbers else name
        targets = (TargetKind.CLASS, TargetKind.MULTI_HOT)
        LOSSES.register(name, LossType(example, reference, numbers, targets=targets), function)
        _LOSS_FUNCTIONS[name] = function
        return function

    return register


@dataclass(frozen=True, eq=False)
class RegisteredLoss:
    """The mean over samples of a registered function of logits and smoothed targets; `weights` (C,) scale samples.

    The weight of a sample is sum_c w_c t_c, that of its class if it has one.
    """

    function: Callable[..., Tensor]
    args: dict[str, float | None]
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        losses = self.function(outputs, dense_targets(outputs, targets, self.smoothing), **self.args)
        if losses.shape != outputs.shape[:1]:
            raise invalid(f"a loss of each of the {len(outputs)} samples", f"the shape {tuple(losses.shape)}")
        if self.weights is not None:
            losses = losses * (dense_targets(outputs, targets) * self.weights.to(outputs)).sum(1)
        return losses.mean()


def sum_losses(outputs: Any, targets: Any) -> Tensor:
    """Return the sum of the losses that a detector returned by name, in float32.

    They are means over what is sampled from a batch: anchors and proposals of all its images, or in RetinaNet the mean
    over images of the mean over their positive anchors.
    """
    return torch.stack([loss.float() for loss in outputs.values()]).sum()


def build_loss(
    expression: str,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    *,
    positive_weights: Tensor | None = None,
) -> LossFn:
    """Build the loss of an expression, without `distill`. Raises ValueError like `parse_loss`.

    `weights` (C,) weigh the classes, `positive_weights` (C,) in a loss with a sigmoid for each class those that are
    present.
    """
    spec = parse_loss(expression)
    if positive_weights is not None and spec.name not in _SIGMOID_LOSSES:
        raise invalid(f"a loss with weights of present classes: {', '.join(_SIGMOID_LOSSES)}", expression, "bce")
    if spec.name in _LOSS_FUNCTIONS:
        names = [name for name, *_ in LOSSES[spec.name].params]
        return RegisteredLoss(
            _LOSS_FUNCTIONS[spec.name], dict(zip(names, spec.params, strict=True)), smoothing, weights
        )
    builders: dict[str, Callable[[LossSpec], LossFn]] = {
        "cross-entropy": lambda _: CrossEntropy(smoothing, weights),
        "bce": lambda spec: BinaryCrossEntropy(
            spec.params[0], spec.choice == "sum", smoothing, weights, positive_weights
        ),
        "focal": lambda spec: FocalLoss(spec.params[0] or 0.0, smoothing, weights),
        "focal-binary": lambda spec: BinaryFocalLoss(
            spec.params[0] or 0.0, spec.params[1] or 0.0, smoothing, weights, positive_weights
        ),
        "mse": lambda _: functional.mse_loss,
        "mae": lambda _: functional.l1_loss,
        "huber": lambda spec: partial(functional.huber_loss, delta=spec.params[0] or 1.0),
        "detector": lambda _: sum_losses,
    }
    return builders[spec.name](spec)


def compute_class_weights(setting: str, labels: Tensor, classes: Sequence[str]) -> Tensor | None:
    """Return class weights (C,): None for "", N / (C n_c) for "balanced" (King and Zeng 2001), else the given numbers.

    Raises ValueError if a class has no sample to balance by, or if there is not one positive number per class.
    """
    weights = parse_class_weights(setting)
    if not weights:
        return None
    if isinstance(weights, str):
        counts = torch.bincount(labels, minlength=len(classes))
        if int(counts.min()) == 0:
            empty_class = classes[int(counts.argmin())]
            raise invalid(
                "a sample of every class to balance by", f"none of {empty_class!r}", next_step="give the weights"
            )
        return len(labels) / (len(classes) * counts.double())
    if len(weights) != len(classes):
        raise invalid(f"class_weights of {len(classes)} numbers, one per class, or 'balanced'", repr(setting))
    return torch.tensor(weights, dtype=torch.float64)


def weight_penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """Return l1 sum |w| + l2 sum w^2 over all trainable parameters, norms and biases included, in at least float32.

    Stevens, Antiga and Viehmann 2020, Sec. 8.5.2. With plain SGD the gradient 2 l2 w equals a weight decay of 2 l2 on
    every parameter.
    """
    penalty = torch.zeros((), device=next(model.parameters()).device)
    with torch.autocast(penalty.device.type, enabled=False):
        for weight in model.parameters():
            if not weight.requires_grad:
                continue
            if l1:
                penalty = penalty + l1 * weight.abs().sum()
            if l2:
                penalty = penalty + l2 * weight.square().sum()
    return penalty


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """(1 - alpha) loss + alpha T^2 KL(softmax(t / T) || softmax(z / T)), a mean over samples (Hinton et al. 2015).

    t are the logits of `teacher` for the same augmented inputs (N, C, H, W) that the student sees, z (N, C) the
    student's. The teacher is frozen and in eval mode. The training loop passes the inputs beside logits and targets.
    """

    loss: LossFn
    teacher: nn.Module
    alpha: float
    temperature: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = self.teacher(inputs)
        hard_loss = self.loss(outputs, targets)
        return (1 - self.alpha) * hard_loss + self.alpha * distillation_loss(outputs, teacher_logits, self.temperature)


def distillation_loss(outputs: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(t / T) || softmax(z / T)) of logits (N, C), the mean over samples."""
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    student_log_probs = functional.log_softmax(outputs.to(dtype) / temperature, 1)
    teacher_log_probs = functional.log_softmax(teacher_logits.to(dtype) / temperature, 1)
    return temperature**2 * functional.kl_div(
        student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True
    )


class RenormalizedModel(nn.Module):
    """Wraps a model for inputs (N, C, H, W) of another mean and standard deviation, or another channel order."""

    factor: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, data_preprocess: Preprocess, model_preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        self.is_reversed = data_preprocess.channel_order != model_preprocess.channel_order
        step = -1 if self.is_reversed else 1
        values = (
            data_preprocess.mean[::step],
            data_preprocess.std[::step],
            model_preprocess.mean,
            model_preprocess.std,
        )
        statistics = [torch.tensor(value)[:, None, None] for value in values]
        self.register_buffer("factor", statistics[1] / statistics[3])
        self.register_buffer("shift", (statistics[0] - statistics[2]) / statistics[3])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1) if self.is_reversed else x
        return self.model(x * self.factor + self.shift)


def prepare_teacher(teacher: ResidualNetwork, data: DatasetSplits, source: str | Path) -> nn.Module:
    """Return a network as a teacher on `data`: frozen, and with the normalization that it was trained with.

    Raises ValueError, naming `source`, if its classes or channels differ from the data's.
    """
    _check_teacher(teacher, data, source)
    teacher.eval().requires_grad_(False)
    own_preprocess = teacher.preprocess
    if own_preprocess is None or replace(own_preprocess, transform=data.preprocess.transform) == data.preprocess:
        return teacher
    if own_preprocess.mean_image or data.preprocess.mean_image:
        got = f"{source} with another"
        raise invalid("a teacher with the data's per-pixel mean", got, "", "normalize.per_pixel_mean=false")
    device = next(teacher.parameters()).device
    return RenormalizedModel(teacher, data.preprocess, own_preprocess).to(device).eval()


def _check_teacher(teacher: ResidualNetwork, data: DatasetSplits, path: str | Path) -> None:
    if teacher.arch.in_channels != data.preprocess.channels:
        raise invalid(f"a teacher with {data.preprocess.channels} channels", f"{path} with {teacher.arch.in_channels}")
    if teacher.arch.num_classes != data.num_classes or (teacher.classes or data.classes) != data.classes:
        teacher_classes = ", ".join((teacher.classes or ())[:3])
        raise invalid(
            f"a teacher with the data's {data.num_classes} classes in their order ({', '.join(data.classes[:3])} ...)",
            f"{path} with {teacher.arch.num_classes} ({teacher_classes} ...)",
        )
