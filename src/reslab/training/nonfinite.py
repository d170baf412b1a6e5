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

from reslab.data.image_datasets import ImageDataset
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.files import write_atomic
from reslab.training.loop import BatchLoader, TrainContext
from reslab.training.meters import NonFiniteError, TrainMeter

_LATE_LOCATIONS = ("in the gradient", "in the step")


@dataclass(frozen=True)
class NonFiniteOrigin:
    """The step and the samples of its batch, and where in the network it began, in words."""

    step: int
    location: str
    sample_indices: tuple[int, ...]


class _RecordingLoader:
    """Batches that remember the last one handed out."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader, self.num_steps_per_epoch = loader, loader.num_steps_per_epoch
        self.last_batch: tuple[Tensor, Tensor, Tensor] | None = None

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in self.loader.iter_from(start_step):
            self.last_batch = batch
            yield batch


def find_non_finite(
    context: TrainContext, lr_at: Callable[[int], float], *, start: int, stop: int
) -> NonFiniteOrigin | None:
    """Take the steps `start` .. `stop` - 1 again and find the first that a number which is not finite came up in.

    The network and its optimizer stand at step `start`. None where nothing came up. Of several ranks, who go there
    together, the one is named on whose part of the batch it began.
    """
    recording_loader, meter, model = _RecordingLoader(context.loader), TrainMeter(first_step=start), context.model
    origins: list[NonFiniteOrigin] = []

    def after_step(step: int) -> bool:
        assert recording_loader.last_batch is not None
        x, _, indices = recording_loader.last_batch
        gathered = context.process_group.all_gather(
            (_locate_non_finite(model, x, layers, meter.losses[-1]), tuple(indices.tolist()))
        )
        # A gradient is everybody's; what comes before it is of one part of the batch.
        locations = sorted((item for item in gathered if item[0]), key=lambda item: item[0].startswith(_LATE_LOCATIONS))
        origins.extend(
            NonFiniteOrigin(step - 1, location, sample_indices) for location, sample_indices in locations[:1]
        )
        return bool(origins)

    with record_non_finite(model) as layers:
        replay_context = replace(
            context, loader=recording_loader, train_step=replace(context.train_step, compiled_model=None)
        )
        replay_context.run_steps(start, stop, lr_at, after_step, lambda: meter)
    return origins[0] if origins else None


@contextlib.contextmanager
def record_non_finite(model: nn.Module) -> Iterator[list[str]]:
    """Inside, the layers whose outputs are not finite are listed as they are computed, the first of them first."""
    layers: list[str] = []

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check_output(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not is_finite(output):
                layers.append(f"{name or 'the network'} ({type(module).__name__})")

        return check_output

    hooks = [module.register_forward_hook(make_hook(name)) for name, module in model.named_modules()]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is."""
    return bool(tensor.detach().isfinite().all())


def _locate_non_finite(model: nn.Module, x: Tensor, layers: list[str], loss: Tensor) -> str:
    """The first place on the way from pictures to weights that is not finite, "" where all is."""
    if not is_finite(x):
        return "in the pictures themselves"
    if layers:
        return f"in the output of {layers[0]}"
    if not is_finite(loss):
        return "in the loss, of finite outputs"
    bad_weights = [
        name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not is_finite(tensor)
    ]
    if not bad_weights:
        return ""
    # The gradient comes from the end of the network.
    reversed_parameters = reversed(list(model.named_parameters()))
    bad_gradients = [
        name for name, weight in reversed_parameters if weight.grad is not None and not is_finite(weight.grad)
    ]
    return (
        f"in the gradient of {bad_gradients[0]}"
        if bad_gradients
        else f"in the step itself, which {bad_weights[0]} did not stand"
    )


def check_finite_weights(model: nn.Module, process_group: ProcessGroup, step: int) -> None:
    """Raise Diverged, on every rank, where a weight or a statistic is not finite on one of them after `step` steps."""
    weights = model.state_dict().items()
    bad_name = next((name for name, weight in weights if weight.is_floating_point() and not is_finite(weight)), None)
    for name in process_group.all_gather(bad_name):
        if name is not None:
            raise NonFiniteError(f"{name} is not finite after step {step - 1}")


def with_diagnosis(
    error: NonFiniteError, checkpoint_step: int | None, origin: NonFiniteOrigin | None, run_path: Path, lr: float
) -> NonFiniteError:
    """The error with where it began, the step of the state that was `kept` (None: none), and what to try."""
    origin_text = "" if origin is None else f": {_describe_origin(origin, run_path)}"
    checkpoint_text = (
        "no state was saved"
        if checkpoint_step is None
        else f"the last good state, of step {checkpoint_step}, is kept in {run_path}"
    )
    advice = f"try a smaller learning rate, such as --lr {lr / 4:g}, or a longer warm-up"
    return NonFiniteError(f"{error}{origin_text}; training stopped; {checkpoint_text}; {advice}")


def _describe_origin(origin: NonFiniteOrigin, run_path: Path) -> str:
    indices_text = ", ".join(str(index) for index in origin.sample_indices[:4])
    location = f"at step {origin.step} {origin.location}"
    return f"it began {location}, on the batch of samples {indices_text}, ... (all in {_diverged_path(run_path)})"


def write_bad_batch(origin: NonFiniteOrigin, run_path: Path, images: ImageDataset) -> None:
    """Write the whole batch that it began on into the run's folder."""
    samples = [{"index": index, "name": images.name(index)} for index in origin.sample_indices]
    record = {"step": origin.step, "location": origin.location, "batch": samples}
    write_atomic(_diverged_path(run_path), (json.dumps(record) + "\n").encode())


def _diverged_path(run_path: Path) -> Path:
    return run_path / "diverged.json"
