"""The base class of tasks: what a task does in training and evaluation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from reslab.data.dataset import DatasetSplits
from reslab.report.pages.components import TaskResults
from reslab.spec.dense import ModelKind
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.task import TaskByName
from reslab.training.evaluation.evaluation import Evaluation

LossFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TaskType(ABC):
    """A task on the outputs named `classes`: its losses, its metrics, and what its outputs mean.

    A subclass is registered with `register_task`; its further fields are fitted to the data (as the mean and standard
    deviation of the targets), and saved with the weights: `to_dict` returns what `from_dict` takes.
    """

    spec: ClassVar[TaskByName]
    model_kind: ClassVar[ModelKind] = ModelKind.CLASSIFICATION
    """The kind of the networks that predict the targets."""
    can_distill: ClassVar[bool] = False
    """True if the outputs are logits over classes, whose softmax a student can imitate."""

    classes: tuple[str, ...]

    @classmethod
    def for_data(cls, data: DatasetSplits) -> Self:
        """Return the task fitted to the training images of a dataset."""
        return cls(data.classes)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """Return the task that `to_dict` saved."""
        return cls(tuple(classes), **{name: value for name, value in fields.items() if name != "name"})

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the task and its fitted values, as JSON."""
        return {"name": self.spec.name}

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the network."""
        return len(self.classes)

    def prepare_data(self, data: DatasetSplits, model: nn.Module) -> DatasetSplits:
        """Return the data as this network takes them; by default as they are."""
        return data

    def prepare_model(self, model: nn.Module) -> None:  # noqa: B027, as most tasks change nothing
        """Change the network as its training needs it; by default not at all. Another call changes nothing."""

    def float32_reason(self, model: nn.Module) -> str:
        """Return why `precision=auto` is float32 for this network on every device; empty if the device decides."""
        return ""

    def training_forward(self, model: Callable[..., Any], x: Any, y: Any) -> Any:
        """Return what the network returns in training, on a batch of images x and targets y."""
        return model(x)

    def predict(self, model: Callable[..., Any], x: Any) -> Any:
        """Return the outputs of the network in evaluation, in at least float32, on a batch of images x."""
        outputs = self.main_output(model(x))
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def main_output(self, outputs: Any) -> Any:
        """Return the tensor that is measured, of what the network returns; the loss gets all of it.

        Raises ValueError, with the change to `forward`, for anything else.
        """
        return check_output_type(outputs)

    def check_outputs(self, outputs: Any) -> None:
        """Raise ValueError unless the outputs have the shape (N, number of outputs)."""
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs:
            required = f"outputs of shape (N, {self.num_outputs}), one for each {self.output_noun} of the data"
            raise invalid(required, tuple(outputs.shape))

    output_noun: ClassVar[str] = "class"
    has_positions: ClassVar[bool] = False
    """True if outputs have positions in the image, which its mirror image mirrors."""

    def mirror_outputs(self, outputs: Any, axes: Sequence[int], size: Sequence[int]) -> Any:
        """Return the outputs for an image from those for its mirror image of `size` (H, W): axis -1 mirrors columns."""
        return outputs.flip(*axes) if self.has_positions else outputs

    def average_views(self, outputs: Sequence[Any]) -> Any:
        """Return the outputs for images from those for several views of each; by default the log of the mean
        probability of each class."""
        return torch.stack([view.float().log_softmax(1) for view in outputs]).logsumexp(0) - math.log(len(outputs))

    def example_targets(self, outputs: Any) -> Tensor:
        """Return targets of zeros for these outputs, to try a loss on."""
        return torch.zeros_like(outputs[:, 0], dtype=torch.int64)

    @abstractmethod
    def default_loss(self) -> LossFn | None:
        """Return the loss of an evaluation; None where networks have none in evaluation."""

    def batch_loss(self, model: Callable[..., Any], x: Any, y: Any) -> Tensor:
        """Return the loss of a batch of images x and targets y, for gradients; the model computes in its own mode.

        It is the loss of an evaluation, of all outputs that the network returns.
        """
        loss = self.default_loss()
        assert loss is not None, "a task without a loss in evaluation has a batch_loss of its own"
        outputs = model(x)
        self.main_output(outputs)
        return loss(outputs, y)

    @abstractmethod
    def build_loss(self, recipe: Recipe, data: DatasetSplits, device: torch.device | str) -> LossFn:
        """Return the loss of a recipe, its weights on `device`. Raises ValueError if it does not fit the data."""

    @abstractmethod
    def decode(self, outputs: Any) -> Any:
        """Return predictions from outputs, one per image: probabilities of classes, numbers, or masks."""

    def fold_into(self, last: nn.Linear) -> Self:
        """Change the last layer so that outputs are predictions, if it can; return the task of its outputs."""
        return self

    @abstractmethod
    def batch_metrics(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Return the metrics of a training batch: an integer is a number of samples, a float a mean over the batch."""

    def batch_result(self, outputs: Any, targets: Any, keep_predictions: bool) -> Any:
        """Return what an evaluation keeps of a batch, on the CPU; the ranks send it to each other."""
        return outputs.float().cpu(), targets.cpu()

    @abstractmethod
    def evaluate(
        self, batch_results: Sequence[Any], loss: float, split: str = "", keep_predictions: bool = False
    ) -> Evaluation:
        """Return the evaluation of all batches, in the order of the split; `loss` is the mean over samples."""

    @classmethod
    def average(cls, evaluations: Sequence[Any]) -> Evaluation:
        """Return the evaluation of an ensemble, from evaluations that kept their predictions."""
        raise invalid(f"one model for the task {cls.spec.name}", f"an ensemble of {len(evaluations)}")

    def fitted_to(self, val_evaluation: Any) -> Self:
        """Return the task with the values that are chosen on the validation split, such as thresholds."""
        return self

    def unfitted(self) -> Self:
        """Return the task without the values of `fitted_to`, which belong to weights that have been trained."""
        return self

    @classmethod
    @abstractmethod
    def results(cls, evaluation: Any, val_evaluation: Any = None) -> TaskResults:
        """Return the sections of a report on an evaluation that kept its predictions."""


def check_output_type(outputs: Any) -> Tensor:
    """Return the outputs of a network. Raises ValueError, with the change to `forward`, unless they are a tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    required = "a forward that returns one tensor of logits (N, classes)"
    if outputs is None:
        raise invalid(required, "None", next_step="end forward with `return x`")
    if isinstance(outputs, Mapping):
        tensors = [key for key, value in outputs.items() if isinstance(value, Tensor)]
        key = "logits" if "logits" in tensors else next(iter(tensors), "logits")
        raise invalid(required, f"a {type(outputs).__name__} with {', '.join(map(str, outputs))}", f"outputs[{key!r}]")
    nearest = "outputs[0]" if isinstance(outputs, list | tuple) else ""
    raise invalid(required, f"a {type(outputs).__name__}", nearest)
