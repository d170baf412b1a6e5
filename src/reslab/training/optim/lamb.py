"""LAMB: Adam with a trust ratio per parameter tensor."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from reslab.spec.errors import invalid


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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
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
