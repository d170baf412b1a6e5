"""Where a loss stopped being finite: the steps from the last good state taken again, every layer watched.

What a run says when a number in it is no longer finite.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reslab.data.image_datasets import Images
from reslab.runtime.distributed import Ranks
from reslab.runtime.files import write_whole
from reslab.training.loop import Batches, Steps
from reslab.training.meters import Diverged, Tally

_AFTERWARDS = ("in the gradient", "in the step")


@dataclass(frozen=True)
class Origin:
    """The step and the samples of its batch, and where in the network it began, in words."""

    step: int
    where: str
    indices: tuple[int, ...]


class _Watched:
    """Batches that remember the last one handed out."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.num_steps_per_epoch = batches, batches.num_steps_per_epoch
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in self.batches.iterate(start_step):
            self.last = batch
            yield batch


def find_origin(steps: Steps, rate: Callable[[int], float], *, start: int, stop: int) -> Origin | None:
    """Take the steps `start` .. `stop` - 1 again and find the first that a number which is not finite came up in.

    The network and its optimizer stand at step `start`. None where nothing came up. Of several ranks, who go there
    together, the one is named on whose part of the batch it began.
    """
    watched, tally, model = _Watched(steps.batches), Tally(first=start), steps.model
    found: list[Origin] = []

    def between(step: int) -> bool:
        assert watched.last is not None
        x, _, indices = watched.last
        told = steps.ranks.gather((_where(model, x, layers, tally.losses[-1]), tuple(indices.tolist())))
        # A gradient is everybody's; what comes before it is of one part of the batch.
        places = sorted((one for one in told if one[0]), key=lambda one: one[0].startswith(_AFTERWARDS))
        found.extend(Origin(step - 1, where, samples) for where, samples in places[:1])
        return bool(found)

    with watching(model) as layers:
        again = replace(steps, batches=watched, stepping=replace(steps.stepping, compiled=None))
        again.take(start, stop, rate, between, lambda: tally)
    return found[0] if found else None


@contextlib.contextmanager
def watching(model: nn.Module) -> Iterator[list[str]]:
    """Inside, the layers whose outputs are not finite are listed as they are computed, the first of them first."""
    layers: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not finite(output):
                layers.append(f"{name or 'the network'} ({type(module).__name__})")

        return see

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def finite(tensor: Tensor) -> bool:
    """Whether every number is."""
    return bool(tensor.detach().isfinite().all())


def _where(model: nn.Module, x: Tensor, layers: list[str], loss: Tensor) -> str:
    """The first place on the way from pictures to weights that is not finite, "" where all is."""
    if not finite(x):
        return "in the pictures themselves"
    if layers:
        return f"in the output of {layers[0]}"
    if not finite(loss):
        return "in the loss, of finite outputs"
    weights = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not finite(tensor)]
    if not weights:
        return ""
    # The gradient comes from the end of the network.
    named = reversed(list(model.named_parameters()))
    gradients = [name for name, weight in named if weight.grad is not None and not finite(weight.grad)]
    return (
        f"in the gradient of {gradients[0]}" if gradients else f"in the step itself, which {weights[0]} did not stand"
    )


def check_weights(model: nn.Module, ranks: Ranks, step: int) -> None:
    """Raise Diverged, on every rank, where a weight or a statistic is not finite on one of them after `step` steps."""
    weights = model.state_dict().items()
    bad = next((name for name, weight in weights if weight.is_floating_point() and not finite(weight)), None)
    for name in ranks.gather(bad):
        if name is not None:
            raise Diverged(f"{name} is not finite after step {step - 1}")


def explained(error: Diverged, kept: int | None, origin: Origin | None, run: Path, lr: float) -> Diverged:
    """The error with where it began, the step of the state that was `kept` (None: none), and what to try."""
    found = "" if origin is None else f": {_told(origin, run)}"
    last = "no state was saved" if kept is None else f"the last good state, of step {kept}, is kept in {run}"
    advice = f"try a smaller learning rate, such as --lr {lr / 4:g}, or a longer warm-up"
    return Diverged(f"{error}{found}; training stopped; {last}; {advice}")


def _told(origin: Origin, run: Path) -> str:
    some = ", ".join(str(index) for index in origin.indices[:4])
    where = f"at step {origin.step} {origin.where}"
    return f"it began {where}, on the batch of samples {some}, ... (all in {_file(run)})"


def write_batch(origin: Origin, run: Path, images: Images) -> None:
    """Write the whole batch that it began on into the run's folder."""
    samples = [{"index": index, "name": images.name(index)} for index in origin.indices]
    found = {"step": origin.step, "where": origin.where, "batch": samples}
    write_whole(_file(run), (json.dumps(found) + "\n").encode())


def _file(run: Path) -> Path:
    return run / "diverged.json"
