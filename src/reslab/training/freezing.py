"""Freezing and gradual unfreezing of parts of a network: weights without gradients, BatchNorms in eval mode.

What is frozen is a function of the step, so that a checkpoint need not save it.
"""

import contextlib
import copy
from collections.abc import Iterator

from torch import nn

from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.nn.recompute import batch_norms
from reslab.spec.errors import unknown_name
from reslab.spec.recipe import parse_unfreeze_steps


class Freezing:
    """Maps the parts of a network to the step from which they are trained; without any, all from step 0.

    The syntax of `unfreeze` is in `reslab.spec.recipe`. Parts that are not listed stay frozen. A frozen BatchNorm
    normalizes by its running statistics and does not update them. Raises ValueError for an unknown part.
    """

    def __init__(self, model: nn.Module, unfreeze: tuple[str, ...], steps_per_epoch: int, total_steps: int) -> None:
        self.model = model
        self._start_steps: dict[str, int] = {}
        self._part_starts: dict[str, int] = {}
        for unfreeze_step in parse_unfreeze_steps(unfreeze):
            start = unfreeze_step.start_step(steps_per_epoch, total_steps)
            self._part_starts[unfreeze_step.part] = start
            for prefix in _name_prefixes(model, unfreeze_step.part):
                self._start_steps[prefix] = start
        trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._weights = [(weight, self._start_step(name)) for name, weight in trainable]
        norms = set(batch_norms(model))
        self._norms = [(norm, self._start_step(name)) for name, norm in model.named_modules() if norm in norms]

    def _start_step(self, name: str) -> float:
        """Return the step from which the module or parameter of this name is trained."""
        if not self._start_steps:
            return 0
        starts = [start for prefix, start in self._start_steps.items() if f"{name}.".startswith(prefix)]
        return min(starts, default=float("inf"))

    def is_phase_start(self, step: int) -> bool:
        """Return True if other parts are trained from `step` on than before; always False without `unfreeze`."""
        return step in self._part_starts.values()

    def trained_parts(self, step: int) -> list[str]:
        """Return the parts of `unfreeze` that are trained at `step`."""
        return [part for part, start in self._part_starts.items() if step >= start]

    def num_trained(self, step: int) -> int:
        """Return the number of parameter values that are trained at `step`."""
        return sum(weight.numel() for weight, start in self._weights if step >= start)

    def unreached_parts(self, total_steps: int) -> dict[str, int]:
        """Return the parts that a run of `total_steps` never trains, with the step they would start at."""
        return {part: start for part, start in self._part_starts.items() if start >= total_steps}

    def frozen_norms(self, step: int) -> list[nn.Module]:
        """Return the BatchNorms that are frozen at `step`."""
        return [norm for norm, start in self._norms if step < start]

    def apply(self, step: int) -> None:
        """Freeze and unfreeze the network's parts as they are at `step`."""
        for weight, start in self._weights:
            weight.requires_grad_(step >= start)
        for norm, start in self._norms:
            if step < start:
                _freeze_bn(norm)
            else:
                _unfreeze_bn(norm, self.model.training)

    def on_step_end(self, step: int) -> None:
        """Unfreeze the parts that are trained from `step` on."""
        if step in self._start_steps.values():
            self.apply(step)

    def fixed(self) -> "Freezing":
        """Return the same parts without unfreezing: what is frozen at first stays frozen."""
        fixed = copy.copy(self)
        fixed._start_steps = {}
        return fixed

    @contextlib.contextmanager
    def active(self, step: int) -> Iterator[None]:
        """Apply the freezing of `step` inside the context (`on_step_end` advances it), then unfreeze everything."""
        self.apply(step)
        try:
            yield
        finally:
            for weight, _ in self._weights:
                weight.requires_grad_(True)
            for norm, _ in self._norms:
                _unfreeze_bn(norm, self.model.training)


def _name_prefixes(model: nn.Module, part: str) -> list[str]:
    """Return the prefixes of the names of a part's modules and parameters, each with a trailing dot."""
    if part == "all":
        return [""]
    if isinstance(model, DenseNetwork) and part in ("head", "last-stage"):
        return _dense_prefixes(model, part)
    if part == "head":
        names = (
            [*model.final_names, *model.head_names]
            if isinstance(model, ResidualNetwork)
            else [last_linear_name(model) or ""]
        )
        return [f"{name}." for name in names if name]
    if part == "last-stage" and isinstance(model, ResidualNetwork) and model.stage_names:
        return [f"{model.stage_names[-1]}."]
    modules = [name for name, _ in model.named_modules() if name]
    if part not in modules:
        known_parts = [
            "all",
            "head",
            *(["last-stage"] if isinstance(model, ResidualNetwork | DenseNetwork) else []),
            *modules,
        ]
        raise unknown_name("part of the network to unfreeze", part, known_parts)
    return [f"{part}."]


def _dense_prefixes(model: DenseNetwork, part: str) -> list[str]:
    """Return the prefixes of what is around the backbone (`head`), or of the backbone's last stage."""
    backbone = model.residual_network
    if part == "head":
        return [f"{name}." for name, child in model.named_children() if backbone not in child.modules()]
    name = next(name for name, module in model.named_modules() if module is backbone)
    return [f"{name}.{backbone.stage_names[-1]}."]


def _freeze_bn(norm: nn.Module) -> None:
    """Put a norm into eval mode and make `model.train()` leave it there."""
    norm.eval()
    vars(norm)["train"] = lambda mode=True: norm


def _unfreeze_bn(norm: nn.Module, training: bool) -> None:
    if vars(norm).pop("train", None) is not None:
        norm.train(training)
