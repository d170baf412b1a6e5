"""Losses: outputs (N, C) and targets, classes (N,) or shares of classes (N, C), to one number.

Every loss is a mean over the N samples, so that the mean over micro-batches, or over ranks, of their losses is the loss
of the whole batch.

The size of the weights as a part of the loss.

Learning from another network's answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.dataset import DatasetSplits
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid
from reslab.spec.loss import LossSpec, parse_class_weights, parse_loss
from reslab.spec.preprocess import Preprocess
from reslab.training.run import load

LossFn = Callable[[Tensor, Tensor], Tensor]


def dense_targets(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Targets as shares of classes (N, C) in the outputs' type: (1 - s) t + s / C (Szegedy et al. 2016, Sec. 7).

    Raises ValueError where targets are neither (N,) nor (N, C).
    """
    if targets.shape == outputs.shape and targets.is_floating_point():
        dense = targets.to(outputs.dtype)
    elif targets.shape == outputs.shape[:1]:
        dense = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    else:
        raise invalid(
            f"targets of shape {tuple(outputs.shape[:1])}, or shares of classes {tuple(outputs.shape)}",
            f"{tuple(targets.shape)} of {targets.dtype}",
        )
    return dense if smoothing == 0 else dense * (1 - smoothing) + smoothing / outputs.shape[1]


def _at_least_float32(outputs: Tensor) -> Tensor:
    """At least float32, also under autocast."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The mean over samples of -sum_c w_c t_c log softmax(z)_c, t smoothed; `weights` w (C,), 1 where None.

    Divided by N with weights too, as torch's does for shares of classes; for labels torch's divides by the sum of w.
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

    t is smoothed, then set to 1 above `threshold` and to 0 elsewhere where there is one. On labels these are the
    numbers of timm's; shares of classes are smoothed here, in timm where they are mixed. `weights` (C,).
    """

    threshold: float | None = None
    sum_classes: bool = False
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        dense = dense_targets(outputs, targets, self.smoothing)
        if self.threshold is not None:
            dense = (dense > self.threshold).to(outputs.dtype)
        weights = None if self.weights is None else self.weights.to(outputs)
        losses = functional.binary_cross_entropy_with_logits(outputs, dense, weights, reduction="none")
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

    p_c is the sigmoid's probability of what is so of class c, a_c `alpha` where it is there and 1 - `alpha` where not.
    """

    gamma: float = 2.0
    alpha: float = 0.25
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = _at_least_float32(outputs)
        dense = dense_targets(outputs, targets, self.smoothing)
        p = outputs.sigmoid()
        p_t = p * dense + (1 - p) * (1 - dense)
        alpha_t = self.alpha * dense + (1 - self.alpha) * (1 - dense)
        losses = functional.binary_cross_entropy_with_logits(outputs, dense, reduction="none")
        losses = alpha_t * (1 - p_t).pow(self.gamma) * losses
        return (losses if self.weights is None else losses * self.weights.to(outputs)).sum(1).mean()


def build_loss(expression: str, smoothing: float = 0.0, weights: Tensor | None = None) -> LossFn:
    """The loss that a sentence names, `distill` apart. Raises ValueError like `parse_loss`."""
    spec = parse_loss(expression)
    builders: dict[str, Callable[[LossSpec], LossFn]] = {
        "cross-entropy": lambda _: CrossEntropy(smoothing, weights),
        "bce": lambda spec: BinaryCrossEntropy(spec.params[0], spec.choice == "sum", smoothing, weights),
        "focal": lambda spec: FocalLoss(spec.params[0] or 0.0, smoothing, weights),
        "focal-binary": lambda spec: BinaryFocalLoss(spec.params[0] or 0.0, spec.params[1] or 0.0, smoothing, weights),
    }
    return builders[spec.name](spec)


def compute_class_weights(setting: str, labels: Tensor, classes: Sequence[str]) -> Tensor | None:
    """Weights (C,) of classes: None for "", N / (C n_c) for "balanced" (King and Zeng 2001), else numbers as said.

    Raises ValueError where a class has no sample to be balanced by, or the numbers are not one a class, above 0.
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
        raise invalid(f"class_weights of {len(classes)} numbers, one a class, or 'balanced'", repr(setting))
    return torch.tensor(weights, dtype=torch.float64)


def weight_penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """l1 sum |w| + l2 sum w^2 over every parameter that is trained, norms and biases too, in float32 or wider.

    The loss of Stevens, Antiga and Viehmann 2020, Sec. 8.5.2. Under plain SGD the gradient 2 l2 w is a weight decay of
    2 l2 on every parameter.
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

    t are the outputs of `teacher` for the same inputs (N, C, H, W), augmented as the student sees them; it is in eval
    mode and never learns. The loop hands the inputs over beside outputs z (N, C) and targets.
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
    """T^2 KL(softmax(t / T) || softmax(z / T)) of outputs (N, C), the mean over samples."""
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    student_log_probs = functional.log_softmax(outputs.to(dtype) / temperature, 1)
    teacher_log_probs = functional.log_softmax(teacher_logits.to(dtype) / temperature, 1)
    return temperature**2 * functional.kl_div(
        student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True
    )


class RenormalizedModel(nn.Module):
    """A network that is handed pictures normalised by another's mean and standard deviation. N C H W in."""

    factor: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, data_preprocess: Preprocess, model_preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        statistics = [
            torch.tensor(value)[:, None, None]
            for value in (data_preprocess.mean, data_preprocess.std, model_preprocess.mean, model_preprocess.std)
        ]
        self.register_buffer("factor", statistics[1] / statistics[3])
        self.register_buffer("shift", (statistics[0] - statistics[2]) / statistics[3])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x * self.factor + self.shift)


def load_teacher(path: str | Path, data: DatasetSplits, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a run, or of its weights, as a teacher on `data`: frozen, in eval mode, on its own normalisation.

    Raises ValueError where there is no such run, or its classes or channels are others.
    """
    teacher = load(path, device)
    _check_teacher(teacher, data, path)
    teacher.requires_grad_(False)
    teacher_preprocess = teacher.preprocess
    if (
        teacher_preprocess is None
        or replace(teacher_preprocess, transform=data.preprocess.transform) == data.preprocess
    ):
        return teacher
    if teacher_preprocess.mean_image or data.preprocess.mean_image:
        raise invalid(
            "a teacher with the data's mean of each pixel",
            f"{path} with another",
            next_step="normalize.per_pixel_mean=false",
        )
    return RenormalizedModel(teacher, data.preprocess, teacher_preprocess).to(device).eval()


def _check_teacher(teacher: ResidualNetwork, data: DatasetSplits, path: str | Path) -> None:
    if teacher.arch.in_channels != data.preprocess.channels:
        raise invalid(f"a teacher of {data.preprocess.channels} channels", f"{path} of {teacher.arch.in_channels}")
    if teacher.arch.num_classes != data.num_classes or (teacher.classes or data.classes) != data.classes:
        teacher_classes = ", ".join((teacher.classes or ())[:3])
        raise invalid(
            f"a teacher of the data's {data.num_classes} classes in their order ({', '.join(data.classes[:3])} ...)",
            f"{path} of {teacher.arch.num_classes} ({teacher_classes} ...)",
        )
