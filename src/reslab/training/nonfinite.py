"""Diagnosis of a non-finite loss: replay the steps since the last checkpoint and find where NaN or infinity began."""

import contextlib
import enum
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.image_datasets import ImageDataset, TensorImageDataset
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.files import write_atomic
from reslab.spec.optim import OptimizerConfig, typical_lr
from reslab.training.evaluation.loop import find_bad_images
from reslab.training.loop import BatchLoader, TrainLoop
from reslab.training.meters import NonFiniteError, TrainMeter


class Phase(enum.StrEnum):
    """The phase of a training step, in the order of computation."""

    INPUT = "input"
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    UPDATE = "update"


# The gradients and the update are the same on every rank; what comes before is of one rank's part of the batch.
_SHARED_PHASES = (Phase.BACKWARD, Phase.UPDATE)


@dataclass(frozen=True)
class NonFiniteLocation:
    """The phase in which the first non-finite value appeared, and the layer or parameter it appeared in.

    `module` is a module's name in the forward phase ("" for the network itself), a parameter's name in the backward and
    update phases, "" otherwise; `module_type` is the class of the module.
    """

    phase: Phase
    module: str = ""
    module_type: str = ""

    def describe(self) -> str:
        """Return a description for people, beginning with "in"."""
        layer = f"{self.module or 'the network'} ({self.module_type})"
        return {
            Phase.INPUT: "in the input images",
            Phase.FORWARD: f"in the output of {layer}",
            Phase.LOSS: "in the loss (the outputs are finite)",
            Phase.BACKWARD: f"in the gradient of {self.module}",
            Phase.UPDATE: f"in the optimizer update (first non-finite parameter: {self.module})",
        }[self.phase]


@dataclass(frozen=True)
class NonFiniteOrigin:
    """The step, the location and the samples of the batch in which the first non-finite value appeared.

    `bad_indices` are the samples whose images hold non-finite values.
    """

    step: int
    location: NonFiniteLocation
    sample_indices: tuple[int, ...]
    bad_indices: tuple[int, ...] = ()


class _RecordingLoader:
    """Wraps a loader and keeps the last batch."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader, self.num_steps_per_epoch = loader, loader.num_steps_per_epoch
        self.last_batch: tuple[Any, Any, Tensor] | None = None

    def iter_from(self, start_step: int) -> Iterator[tuple[Any, Any, Tensor]]:
        for batch in self.loader.iter_from(start_step):
            self.last_batch = batch
            yield batch


def find_non_finite(loop: TrainLoop, lr_at: Callable[[int], float], *, start: int, stop: int) -> NonFiniteOrigin | None:
    """Replay the steps `start` .. `stop` - 1 and return where the first non-finite value appeared; None if nowhere.

    The network and its optimizer are at step `start`. All ranks replay together; the one is reported on whose part of
    the batch it began.
    """
    recording_loader, meter, model = _RecordingLoader(loop.loader), TrainMeter(first_step=start), loop.model
    origins: list[NonFiniteOrigin] = []

    def after_step(step: int) -> bool:
        assert recording_loader.last_batch is not None
        x, _, indices = recording_loader.last_batch
        samples = (tuple(indices.tolist()), tuple(find_bad_images(x, indices)))
        gathered = loop.process_group.all_gather((_locate_non_finite(model, x, layers, meter.last("loss")), samples))
        non_finite = [(location, samples) for location, samples in gathered if location is not None]
        non_finite.sort(key=lambda item: item[0].phase in _SHARED_PHASES)
        origins.extend(NonFiniteOrigin(step - 1, location, *samples) for location, samples in non_finite[:1])
        return bool(origins)

    with record_non_finite(model) as layers:
        # Compiled code runs no forward hooks, so replay without it.
        eager_step = replace(loop.train_step, compiled_model=None)
        replay_loop = replace(loop, loader=recording_loader, train_step=eager_step)
        replay_loop.run(start, stop, lr_at=lr_at, meter=meter, after_step=after_step)
    return origins[0] if origins else None


@contextlib.contextmanager
def record_non_finite(model: nn.Module) -> Iterator[list[NonFiniteLocation]]:
    """Collect the layers with non-finite outputs inside the context, in the order of computation."""
    layers: list[NonFiniteLocation] = []

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check_output(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not is_finite(output):
                layers.append(NonFiniteLocation(Phase.FORWARD, name, type(module).__name__))

        return check_output

    hooks = [module.register_forward_hook(make_hook(name)) for name, module in model.named_modules()]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def is_finite(tensor: Tensor) -> bool:
    """Return True if every value is finite."""
    return bool(tensor.detach().isfinite().all())


def _locate_non_finite(
    model: nn.Module, x: Any, layers: list[NonFiniteLocation], loss: Tensor
) -> NonFiniteLocation | None:
    """Return the first non-finite location of a step in the order of computation; None if everything is finite."""
    if not all(map(is_finite, x)):
        return NonFiniteLocation(Phase.INPUT)
    if layers:
        return layers[0]
    if not is_finite(loss):
        return NonFiniteLocation(Phase.LOSS)
    bad_weights = [
        name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not is_finite(tensor)
    ]
    if not bad_weights:
        return None
    # Backpropagation starts at the end of the network, so the last parameter with a bad gradient is the first one.
    reversed_parameters = reversed(list(model.named_parameters()))
    bad_gradients = [
        name for name, weight in reversed_parameters if weight.grad is not None and not is_finite(weight.grad)
    ]
    if bad_gradients:
        return NonFiniteLocation(Phase.BACKWARD, bad_gradients[0])
    return NonFiniteLocation(Phase.UPDATE, bad_weights[0])


def check_finite_weights(model: nn.Module, process_group: ProcessGroup, step: int) -> None:
    """Raise NonFiniteError on every rank if a weight or running statistic of any rank is not finite after `step`."""
    weights = model.state_dict().items()
    bad_name = next((name for name, weight in weights if weight.is_floating_point() and not is_finite(weight)), None)
    for name in process_group.all_gather(bad_name):
        if name is not None:
            raise NonFiniteError(
                f"{name} is not finite {f'after step {step - 1}' if step else 'before the first step'}"
            )


def non_finite_images(images: ImageDataset) -> list[str]:
    """Return the names of the images with NaN or infinite pixels; of images in memory alone, as it reads them all."""
    if not isinstance(images, TensorImageDataset) or not images.images.is_floating_point():
        return []
    is_bad = torch.cat([~chunk.isfinite().flatten(1).all(1) for chunk in images.images.split(4096)])
    return [images.name(i) for i in is_bad.nonzero().flatten().tolist()]


def with_diagnosis(
    error: NonFiniteError,
    checkpoint_step: int | None,
    origin: NonFiniteOrigin | None,
    *,
    run_path: Path,
    optimizer: OptimizerConfig,
    images: ImageDataset,
) -> NonFiniteError:
    """Return the error with its origin, the step of the last good checkpoint (None: there is none) and advice.

    `images` are those of `error.bad_images` if it has some, else the training images.
    """
    origin_text = "" if origin is None else f": {_describe_origin(origin, run_path)}"
    checkpoint_text = (
        "no checkpoint was saved"
        if checkpoint_step is None
        else f"the last good checkpoint, of step {checkpoint_step}, is in {run_path}"
    )
    advice = _repair_advice(error.bad_images, images) if error.bad_images else _advice(origin, optimizer, images)
    return NonFiniteError(f"{error}{origin_text}; training stopped; {checkpoint_text}; {advice}")


def _advice(origin: NonFiniteOrigin | None, optimizer: OptimizerConfig, images: ImageDataset) -> str:
    """Return the next step: repair the images or the loss that it began in, else a learning rate of usual size."""
    if origin is not None and origin.location.phase is Phase.INPUT:
        return _repair_advice(origin.bad_indices, images)
    if origin is not None and origin.location.phase is Phase.LOSS:
        return "check the loss: it is not finite for finite outputs (a logarithm of 0, a division by 0)"
    usual_lr = typical_lr(optimizer.name)
    lr = usual_lr if optimizer.lr > 10 * usual_lr else optimizer.lr / 4
    return f"try a lower learning rate, such as --lr {lr:g}, or a longer warmup"


def _repair_advice(indices: Sequence[int], images: ImageDataset) -> str:
    return f"repair or remove the images with NaN or infinite values: {name_images(indices, images)}"


def name_images(indices: Sequence[int], images: ImageDataset) -> str:
    """Return the names of the first images, and how many more there are."""
    names = ", ".join(images.name(index) for index in indices[:4])
    return names + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")


def _describe_origin(origin: NonFiniteOrigin, run_path: Path) -> str:
    indices_text = ", ".join(str(index) for index in origin.sample_indices[:4])
    location = f"at step {origin.step} {origin.location.describe()}"
    return f"it began {location}, on the batch of samples {indices_text}, ... (listed in {_diverged_path(run_path)})"


def write_bad_batch(origin: NonFiniteOrigin, run_path: Path, images: ImageDataset) -> None:
    """Write step, phase, module and the samples of the batch to `diverged.json` in the run's folder."""
    samples = [{"index": index, "name": images.name(index)} for index in origin.sample_indices]
    location = {"phase": origin.location.phase.value, "module": origin.location.module}
    record = {"step": origin.step, **location, "text": origin.location.describe(), "batch": samples}
    write_atomic(_diverged_path(run_path), (json.dumps(record) + "\n").encode())


def _diverged_path(run_path: Path) -> Path:
    return run_path / "diverged.json"
