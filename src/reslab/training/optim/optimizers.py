"""Muon, orthogonalized momentum for weight matrices, and LAMB, Adam with a trust ratio for each parameter tensor."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from reslab.runtime.device import deterministic_mode
from reslab.spec.errors import invalid, unknown_name

_MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MUON_EPS = 1e-7
# Rounding leaves eigenvalues of about -1e-7 where A has none. Each iteration multiplies them by a^2: after five they
# are still small, after eight they would diverge, so that A is computed anew from X after five.
_MOST_ITERATIONS = 5
UPDATE_SCALES: dict[str, Callable[[int, int], float]] = {
    "rms": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
}


def _closure_loss(closure: Callable[[], Any] | None) -> Any:
    """Return the loss of the closure of a step, with gradients enabled; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Muon(Optimizer):
    """W <- (1 - lr weight_decay) W - lr s orthogonal(momentum of G) (Jordan et al. 2024), AdamW elsewhere.

    Groups with `matrix=True` hold weights of two or more dimensions, flattened to (out, in x height x width); their
    steps equal `torch.optim.Muon`'s but for its rounding to bf16. AdamW updates all other groups with `betas`, `eps`
    and lr x `adamw_lr_factor`. `scale` is s for a matrix of A rows and B columns: `rms` 0.2 sqrt(max(A, B)), the RMS of
    AdamW's steps, so that one learning rate serves both (Liu et al. 2025, arXiv:2502.16982, Eq. 4); `original`
    sqrt(max(1, A/B)).
    Raises ValueError for a number out of range, an unknown scale, or a matrix group with vectors.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        scale: str = "rms",
        adamw_lr_factor: float = 1.0,
        num_iterations: int = 5,
    ) -> None:
        if scale not in UPDATE_SCALES:
            raise unknown_name("scale of muon", scale, UPDATE_SCALES)
        for name, value in (
            ("lr", lr),
            ("weight_decay", weight_decay),
            ("eps", eps),
            ("adamw_lr_factor", adamw_lr_factor),
        ):
            if value < 0:
                raise invalid(f"{name} of at least 0", value)
        if not 0 <= momentum < 1:
            raise invalid("momentum from 0 to below 1", momentum, nearest="0.95")
        defaults = {"lr": lr, "weight_decay": weight_decay, "matrix": False, "scale": scale, "momentum": momentum}
        defaults |= {
            "nesterov": nesterov,
            "betas": betas,
            "eps": eps,
            "adamw_lr_factor": adamw_lr_factor,
            "num_iterations": num_iterations,
            "fused": True,  # a checkpoint's counters of steps are then loaded to the device of the weights
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["matrix"] and any(parameter.ndim < 2 for parameter in group["params"]):
                raise invalid("weights of two or more dimensions in a matrix group", "a vector")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; parameters without a gradient stay unchanged."""
        loss = _closure_loss(closure)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._update_matrices if group["matrix"] else self._update_with_adamw)(parameters, group)
        return loss

    def _update_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum, gradients = group["lr"], group["momentum"], _gradients(weights)
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        # The order of a matrix's columns changes nothing: in this one, channels-last weights are matrices as they are.
        shapes = [direction.movedim(1, -1).shape for direction in directions]
        updates = orthogonalize_all([d.movedim(1, -1).flatten(1) for d in directions], group["num_iterations"])
        for weight, update, shape in zip(weights, updates, shapes, strict=True):
            step_size = lr * UPDATE_SCALES[group["scale"]](*update.shape)
            update = update.view(shape).movedim(-1, 1)
            if isinstance(step_size, Tensor):  # a rate in memory, for a step that is captured in a CUDA graph
                weight.addcmul_(update, step_size, value=-1)
            else:
                weight.add_(update, alpha=-step_size)

    def _update_with_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter].update(step=torch.zeros((), device=parameter.device), **zeros)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            _gradients(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"] * group["adamw_lr_factor"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def orthogonalize(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Approximate U V^T of `matrix` = U S V^T by the Newton-Schulz iteration X <- aX + (bA + cA^2) X, A = X X^T.

    (rows, columns) to the same shape. The coefficients (Jordan et al. 2024) bring every singular value to about
    0.7 .. 1.2. Computed in float32 (float64 in float64), where torch.optim.Muon rounds to bf16.
    """
    return orthogonalize_all([matrix], num_iterations)[0]


def orthogonalize_all(matrices: list[Tensor], num_iterations: int = 5) -> list[Tensor]:
    """Apply `orthogonalize` to every matrix; those whose smaller sides are equal are computed in one batch.

    Every X is a polynomial in the first A times the first X, so that the iteration is one of the square matrices A and
    only two products have the size of X. It takes half the time of products in bf16 on a processor that has them.
    """
    groups: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault((min(matrix.shape), matrix.dtype, matrix.device), []).append(i)
    updates = list(matrices)
    for (_, dtype, _), indices in groups.items():
        results = [matrices[i].to(torch.promote_types(dtype, torch.float32)) for i in indices]
        with deterministic_mode():  # TF32 would leave eigenvalues of about -1e-3, which diverge
            for start in range(0, num_iterations, _MOST_ITERATIONS):
                results = _iterate(results, min(num_iterations - start, _MOST_ITERATIONS), is_first=start == 0)
        for i, update in zip(indices, results, strict=True):
            updates[i] = update
    return updates


def _iterate(matrices: list[Tensor], num_iterations: int, is_first: bool) -> list[Tensor]:
    """Apply the iteration to matrices of the same smaller side, divided by their norms first if `is_first`."""
    a, b, c = _MUON_COEFFICIENTS
    is_tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    gram = torch.stack([x.T @ x if tall else x @ x.T for x, tall in zip(matrices, is_tall, strict=True)])
    norms = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=_MUON_EPS)[:, None, None]
    gram = gram / norms.square() if is_first else gram
    product = None
    for step in range(num_iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else product @ factor
        if step < num_iterations - 1:
            gram = gram @ factor @ factor
    assert product is not None
    product = product / norms if is_first else product
    return [x @ p if tall else p @ x for x, p, tall in zip(matrices, product, is_tall, strict=True)]


class Lamb(Optimizer):
    """w <- w - lr (|w| / |u|) u with u = m / (sqrt(v) + eps) + weight_decay w (You et al. 2020, Alg. 2).

    m and v are Adam's bias-corrected means of g and g^2, after clipping the global gradient norm to `max_grad_norm`
    (None: no clipping). The steps equal timm's: a group without weight decay has a ratio of 1 unless `always_adapt`;
    the ratio is 1 if a norm is 0, and at most 1 with `trust_clip`; `decoupled` applies the decay to w before the step.
    Raises ValueError for a negative number or betas outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float | None = 1.0,
        decoupled: bool = False,
        trust_clip: bool = False,
        always_adapt: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise invalid(f"{name} of at least 0", value)
        if not all(0 <= beta < 1 for beta in betas):
            raise invalid("betas from 0 to below 1", betas, nearest="(0.9, 0.999)")
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise invalid("max_grad_norm above 0, or none", max_grad_norm, nearest="1.0")
        self.max_grad_norm = max_grad_norm
        flags = {"decoupled": decoupled, "trust_clip": trust_clip, "always_adapt": always_adapt}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **flags})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; parameters without a gradient stay unchanged."""
        loss = _closure_loss(closure)
        divisor = self._clip_divisor()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_parameter(parameter, parameter.grad / divisor, group)
        return loss

    def _clip_divisor(self) -> Tensor | float:
        """Return the divisor that clips the global gradient norm to `max_grad_norm`."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm is None or not grads:
            return 1.0
        return (torch.nn.utils.get_total_norm(grads) / self.max_grad_norm).clamp(min=1.0)

    def _update_parameter(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        lr, weight_decay = group["lr"], group["weight_decay"]
        update = self._adam_direction(parameter, gradient, group)
        if weight_decay and group["decoupled"]:
            parameter.mul_(1 - lr * weight_decay)
        elif weight_decay:
            update.add_(parameter, alpha=weight_decay)
        if weight_decay or group["always_adapt"]:
            update.mul_(trust_ratio(parameter, update, group["trust_clip"]))
        parameter.add_(update, alpha=-lr)

    def _adam_direction(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        (beta1, beta2), step = group["betas"], state["step"].item()
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
        exp_avg.lerp_(gradient, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = exp_avg_sq.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        return (exp_avg / (1 - beta1**step)).div_(denominator)


def trust_ratio(parameter: Tensor, update: Tensor, clip: bool = False) -> Tensor:
    """Return |w| / |u|, 1 if either norm is 0, at most 1 with `clip` (LAMBC)."""
    weight_norm, update_norm = parameter.norm(), update.norm()
    both_positive = (weight_norm > 0) & (update_norm > 0)
    ratio = torch.where(both_positive, weight_norm / update_norm, 1.0)
    return ratio.clamp(max=1.0) if clip else ratio
