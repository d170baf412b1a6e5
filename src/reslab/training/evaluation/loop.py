"""The evaluation loop: the exact scores of a model on batches, on one process or several."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reslab.nn.inplace import inplace_ops
from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.spec.errors import invalid
from reslab.training.evaluation.evaluation import with_added_metrics
from reslab.training.tasks.task_type import TaskType

LossFn = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any, Tensor]],
    task: TaskType,
    loss: LossFn | None = None,
    split: str = "",
    keep_predictions: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Any:
    """Evaluate `model` in eval mode and float32 on batches of x (N, C, H, W), y (N, ...), indices (N,).

    In detection x and y are lists. `loss(outputs, y)` is the mean over a batch, by default the task's. If the ranks
    of `process_group` hold the batches round-robin, every rank returns the scores of all batches, summed in their
    original order: bit for bit those of one process. The model's training mode is restored. Returns the
    `Evaluation` of the task. Raises ValueError without samples, or for outputs that the task cannot have.
    """
    loss = loss or task.default_loss()
    batch_results: list[tuple[Any, int, float, list[int]]] = []  # result, images, sum of losses, bad images
    was_training = model.training
    model.eval()
    try:
        with (
            process_group.shared_errors(),
            deterministic_mode(),
            torch.autocast(_model_device(model).type, enabled=False),
            inplace_ops(model),
        ):
            for x, y, indices in batches:
                outputs = task.predict(partial(_call_model, model), x)
                task.check_outputs(outputs)
                batch_loss = 0.0 if loss is None else check_loss(loss(outputs, y)).item()
                bad_indices = [] if math.isfinite(batch_loss) else find_bad_images(x, indices)
                result = task.batch_result(outputs, y, keep_predictions)
                batch_results.append((result, len(y), batch_loss * len(y), bad_indices))
    finally:
        model.train(was_training)
    batch_results = process_group.merge_interleaved(batch_results)
    if not batch_results:
        raise invalid("at least one sample to evaluate", "none", next_step="choose another split")
    results, counts, losses, bad_indices_by_batch = zip(*batch_results, strict=True)
    mean_loss: Any = None if loss is None else sum(losses) / sum(counts)
    evaluation = with_added_metrics(task.evaluate(results, mean_loss, split, keep_predictions), results)
    all_bad = tuple(itertools.chain.from_iterable(bad_indices_by_batch))
    return replace(evaluation, classes=task.classes, bad_indices=all_bad)


def find_bad_images(x: Tensor | Sequence[Tensor], indices: Tensor) -> list[int]:
    """Return the `indices` (N,) of the images x (N, ...) with a value that is NaN or infinite."""
    is_bad = torch.stack([~image.detach().isfinite().all() for image in x])
    bad_indices: list[int] = indices[is_bad.to(indices.device)].tolist()
    return bad_indices


def _call_model(model: nn.Module, x: Any) -> Any:
    """Return the outputs. Raises ValueError if the model fails because its weights have another precision than x."""
    try:
        return model(x)
    except RuntimeError as error:
        if advice := precision_advice(model, x[0].dtype):
            raise invalid(f"a network with weights in {x[0].dtype}, as its images", error, advice) from error
        raise


def precision_advice(model: nn.Module, dtype: torch.dtype) -> str:
    """Return the expression that gives a model weights of the images' `dtype`; empty if it has some already."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return "" if not dtypes or dtype in dtypes else f"model.to({dtype})"


def _model_device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_loss(loss: Any) -> Tensor:
    """Return the loss of a batch. Raises ValueError unless it is a tensor of one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    nearest = "reduction='mean', or loss.mean()" if isinstance(loss, Tensor) else ""
    raise invalid("a loss of one number, the mean over the batch, as a tensor", got, nearest=nearest)
