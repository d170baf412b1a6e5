"""What a run says when a number in it is no longer finite."""

import json
from pathlib import Path

from torch import nn

from reslab.data.image_datasets import Images
from reslab.runtime.distributed import Ranks
from reslab.runtime.files import write_whole
from reslab.training.meters import Diverged
from reslab.training.nonfinite import Origin, finite


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
