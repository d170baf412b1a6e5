"""Muon: orthogonalized momentum for weight matrices, AdamW for the other parameters."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from reslab.spec.errors import invalid, unknown_name

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7
UPDATE_SCALES: dict[str, Callable[[int, int], float]] = {
    "rms": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
}


class Muon(Optimizer):
    """W <- (1 - lr weight_decay) W - lr s orthogonal(momentum of G) (Jordan et al. 2024), AdamW elsewhere.

    Groups with `matrix=True` hold weights of two or more dimensions, flattened to (out, in x height x width); their
    steps equal `torch.optim.Muon`'s. AdamW updates all other groups with `betas`, `eps` and lr x `adamw_lr_factor`.
    `scale` is s for a matrix of A rows and B columns: `rms` 0.2 sqrt(max(A, B)), the RMS of AdamW's steps, so that one
    learning rate serves both (Liu et al. 2025, arXiv:2502.16982, Eq. 4); `original` sqrt(max(1, A/B)).
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
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["matrix"] and any(parameter.ndim < 2 for parameter in group["params"]):
                raise invalid("weights of two or more dimensions in a matrix group", "a vector")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; parameters without a gradient stay unchanged."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group["matrix"]:
                self._update_with_adamw(parameters, group)
                continue
            for parameter in parameters:
                self._update_matrix(parameter, parameter.grad, group)
        return loss

    def _update_matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        lr, momentum, state = group["lr"], group["momentum"], self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum_buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        direction = (gradient.lerp(momentum_buffer, momentum) if group["nesterov"] else momentum_buffer).flatten(1)
        update = orthogonalize(direction, group["num_iterations"]).view(weight.shape)
        weight.mul_(1 - lr * group["weight_decay"])
        weight.add_(update, alpha=-lr * UPDATE_SCALES[group["scale"]](*direction.shape))

    def _update_with_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter].update(step=torch.zeros(()), **zeros)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"] * group["adamw_lr_factor"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalize(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Approximate U V^T of `matrix` = U S V^T by the Newton-Schulz iteration X <- aX + (bA + cA^2) X, A = X X^T.

    In bf16; (rows, columns) to the same shape. The coefficients (Jordan et al. 2024) bring every singular value to
    about 0.7 .. 1.2.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16().T if is_tall else matrix.bfloat16()
    x = x / x.norm().clamp(min=_EPS)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
