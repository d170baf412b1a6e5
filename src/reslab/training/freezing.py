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
        self._starts: dict[str, int] = {}
        for opening in parse_unfreeze_steps(unfreeze):
            for prefix in _prefixes(model, opening.part):
                self._starts[prefix] = opening.start.num_steps(steps_per_epoch)
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._weights = [(weight, self._start(name)) for name, weight in trained]
        norms = set(batch_norms(model))
        self._norms = [(norm, self._start(name)) for name, norm in model.named_modules() if norm in norms]

    def _start(self, name: str) -> float:
        """The step from which the module or parameter of this name is trained."""
        if not self._starts:
            return 0
        found = [start for prefix, start in self._starts.items() if f"{name}.".startswith(prefix)]
        return min(found, default=float("inf"))

    def frozen_norms(self, step: int) -> list[nn.Module]:
        """The BatchNorms that are frozen at `step`."""
        return [norm for norm, start in self._norms if step < start]

    def at(self, step: int) -> None:
        """Make the network what it is at `step`."""
        for weight, start in self._weights:
            weight.requires_grad_(step >= start)
        for norm, start in self._norms:
            if step < start:
                _hold(norm)
            else:
                _release(norm, self.model.training)

    def step_done(self, step: int) -> None:
        """Open what is trained from `step` on."""
        if step in self._starts.values():
            self.at(step)

    @contextlib.contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Inside, the network is what it is at `step` (and later steps as they are done); afterwards all is open."""
        self.at(step)
        try:
            yield
        finally:
            for weight, _ in self._weights:
                weight.requires_grad_(True)
            for norm, _ in self._norms:
                _release(norm, self.model.training)


def _prefixes(model: nn.Module, part: str) -> list[str]:
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
        known = ["all", "head", *(["last-stage"] if isinstance(model, ResidualNetwork) else []), *modules]
        raise unknown_name("part of the network to unfreeze", part, known)
    return [f"{part}."]


def _hold(norm: nn.Module) -> None:
    """At test for good: `model.train()` passes over it."""
    norm.eval()
    vars(norm)["train"] = lambda mode=True: norm


def _release(norm: nn.Module, training: bool) -> None:
    if vars(norm).pop("train", None) is not None:
        norm.train(training)
