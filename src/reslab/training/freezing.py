"""Parts of a network that stay as they are until their time comes: weights without gradient, norms as at test.

What is frozen at a step is a function of the step, so that nothing of it is saved.
"""

import contextlib
from collections.abc import Iterator

from torch import nn

from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import unknown_name
from reslab.spec.recipe import parse_unfreeze_steps
from reslab.training.batch_norm import batch_norms


class Freezing:
    """The parts of a network by the step they are trained from (`reslab.spec.recipe`); none: all from step 0.

    What nobody opens stays frozen for good. A frozen BatchNorm normalises by its running statistics, and they stay.
    Raises ValueError for a part the network does not have.
    """

    def __init__(self, model: nn.Module, unfreeze: tuple[str, ...], steps_per_epoch: int) -> None:
        self.model = model
        self._start_steps: dict[str, int] = {}
        for unfreeze_step in parse_unfreeze_steps(unfreeze):
            for prefix in _name_prefixes(model, unfreeze_step.part):
                self._start_steps[prefix] = unfreeze_step.start.num_steps(steps_per_epoch)
        trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._weights = [(weight, self._start_step(name)) for name, weight in trainable]
        norms = set(batch_norms(model))
        self._norms = [(norm, self._start_step(name)) for name, norm in model.named_modules() if norm in norms]

    def _start_step(self, name: str) -> float:
        """The step from which the module or parameter of this name is trained."""
        if not self._start_steps:
            return 0
        starts = [start for prefix, start in self._start_steps.items() if f"{name}.".startswith(prefix)]
        return min(starts, default=float("inf"))

    def frozen_norms(self, step: int) -> list[nn.Module]:
        """The BatchNorms that are frozen at `step`."""
        return [norm for norm, start in self._norms if step < start]

    def apply(self, step: int) -> None:
        """Make the network what it is at `step`."""
        for weight, start in self._weights:
            weight.requires_grad_(step >= start)
        for norm, start in self._norms:
            if step < start:
                _freeze_bn(norm)
            else:
                _unfreeze_bn(norm, self.model.training)

    def on_step_end(self, step: int) -> None:
        """Open what is trained from `step` on."""
        if step in self._start_steps.values():
            self.apply(step)

    @contextlib.contextmanager
    def active(self, step: int) -> Iterator[None]:
        """Inside, the network is what it is at `step` (and later steps as they are done); afterwards all is open."""
        self.apply(step)
        try:
            yield
        finally:
            for weight, _ in self._weights:
                weight.requires_grad_(True)
            for norm, _ in self._norms:
                _unfreeze_bn(norm, self.model.training)


def _name_prefixes(model: nn.Module, part: str) -> list[str]:
    """What the names of a part's modules and parameters begin with, each with the dot after it."""
    if part == "all":
        return [""]
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
        known_parts = ["all", "head", *(["last-stage"] if isinstance(model, ResidualNetwork) else []), *modules]
        raise unknown_name("part of the network to unfreeze", part, known_parts)
    return [f"{part}."]


def _freeze_bn(norm: nn.Module) -> None:
    """At test for good: `model.train()` passes over it."""
    norm.eval()
    vars(norm)["train"] = lambda mode=True: norm


def _unfreeze_bn(norm: nn.Module, training: bool) -> None:
    if vars(norm).pop("train", None) is not None:
        norm.train(training)
