"""A network ready to predict: its backend, and the decoding of its outputs by its task."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.data.boxes import without_background
from reslab.data.segments import MASK_THRESHOLD, encode_mask
from reslab.deploy.backends.backend import Backend, DetectionBackend
from reslab.deploy.backends.detection import open_detection_backend
from reslab.deploy.backends.registry import open_backend
from reslab.deploy.inputs import PreparedImage
from reslab.deploy.prediction import NO_LIMITS, DetectedBox, OutputForm, ResultLimits, as_box, result_rules
from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import GraphModel, Model, Network
from reslab.runtime.device import deterministic_mode
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid
from reslab.training.tasks.registry import TASK_TYPES, restore_task
from reslab.training.tasks.task_type import TaskType

_MAX_MAP_PIXELS = 2**20


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The output for N images, on the CPU: `outputs` (N, ...) and, if requested, `embeddings` (N, F)."""

    outputs: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ImageOutput:
    """The output for one image: `decoded` by the task, whether the output `is_finite`, and the `embedding`.

    `decoded` is a tensor, of a detector a tuple of `DetectedBox`. `output` is the network's own; None for a map, which
    is large, and for boxes.
    """

    decoded: Any
    is_finite: bool
    embedding: tuple[float, ...] = ()
    output: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network ready to predict: what its `task` says of backend(image) / temperature.

    With a `head`, the backend returns the embedding, and the head is computed here in float32.
    """

    backend: Backend
    task: TaskType
    temperature: float = 1.0
    head: nn.Linear | None = None

    def __call__(self, images: Sequence[Tensor]) -> ModelOutput:
        """Return the output for uint8 images (C, H, W) of one size."""
        output = self.backend(torch.stack(list(images)))
        if self.head is None:
            return ModelOutput(output)
        with torch.inference_mode(), deterministic_mode():
            return ModelOutput(self.head(output), output)

    def decode(self, outputs: Tensor) -> Tensor:
        """Return what the outputs say, such as softmax(logits / temperature) (N, classes)."""
        return self.task.decode(outputs / self.temperature)

    def compute(self, images: Sequence[PreparedImage]) -> list[ImageOutput]:
        """Return the output of each image; those of one size are computed together, at most 2**20 pixels of a map."""
        return compute_by_shape(images, self._compute_batch, self._batch_size)

    def _batch_size(self, shape: tuple[int, ...]) -> int | None:
        return max(1, _MAX_MAP_PIXELS // math.prod(shape[1:])) if self.form is OutputForm.MAP else None

    @property
    def form(self) -> OutputForm:
        """The form of an output."""
        return result_rules(self.task).form

    def _compute_batch(self, images: Sequence[PreparedImage]) -> list[ImageOutput]:
        output = self([image.read_pixels for image in images])
        is_finite = output.outputs.isfinite().flatten(1).all(1).tolist()
        if self.form is OutputForm.MAP:
            sizes = [image.original_size for image in images]
            maps = [self._decode_map(*pair) for pair in zip(output.outputs, sizes, strict=True)]
            return [ImageOutput(*pair) for pair in zip(maps, is_finite, strict=True)]
        embeddings = [()] * len(images) if output.embeddings is None else map(tuple, output.embeddings.tolist())
        rows = zip(self.decode(output.outputs), is_finite, embeddings, output.outputs, strict=True)
        return [ImageOutput(*row) for row in rows]

    def _decode_map(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        """Return what outputs (C, H, W) say of each pixel of an image of this size, resized bilinearly."""
        resized = functional.interpolate(outputs[None].float(), size, mode="bilinear", align_corners=False)
        return self.decode(resized)[0]

    def result(self, output: ImageOutput, limits: ResultLimits = NO_LIMITS) -> dict[str, Any]:
        """Return the fields of `Prediction` that say what was predicted, within the limits."""
        return result_rules(self.task).fields(self.task, output.decoded, limits)


@dataclass(frozen=True, eq=False)
class DetectionPredictor:
    """A detector ready to predict: the boxes that its backend finds, with the class names of the `task`."""

    backend: DetectionBackend
    task: TaskType

    @property
    def form(self) -> OutputForm:
        """The form of an output."""
        return OutputForm.BOXES

    def compute(self, images: Sequence[PreparedImage]) -> list[ImageOutput]:
        """Return the boxes of each image; only images of one size share a batch, so padding changes no result."""
        return compute_by_shape(images, self._compute_batch, lambda shape: self.backend.max_batch)

    def _compute_batch(self, images: Sequence[PreparedImage]) -> list[ImageOutput]:
        detections = self.backend(torch.stack([image.read_pixels for image in images]))
        return [ImageOutput(detected_boxes(one, self.task.classes), self.backend.is_finite) for one in detections]

    def result(self, output: ImageOutput, limits: ResultLimits = NO_LIMITS) -> dict[str, Any]:
        """Return the fields of `Prediction` that say what was predicted, within the limits."""
        return result_rules(self.task).fields(self.task, output.decoded, limits)


AnyPredictor = Predictor | DetectionPredictor


def detected_boxes(detections: Mapping[str, Tensor], classes: Sequence[str]) -> tuple[DetectedBox, ...]:
    """Return what a detector found in one image as boxes with the names of classes, the highest score first."""
    detections = without_background(detections)
    order = detections["scores"].argsort(descending=True, stable=True).tolist()
    boxes, labels, scores = (detections[name].tolist() for name in ("boxes", "labels", "scores"))
    masks = detections.get("masks")
    return tuple(
        DetectedBox(
            classes[labels[i] - 1],
            scores[i],
            as_box(boxes[i]),
            None if masks is None else encode_mask((masks[i, 0] > MASK_THRESHOLD).numpy()),
        )
        for i in order
    )


def compute_by_shape(
    images: Sequence[PreparedImage],
    compute: Callable[[Sequence[PreparedImage]], list[ImageOutput]],
    batch_size: Callable[[tuple[int, ...]], int | None],
) -> list[ImageOutput]:
    """Return the output of each image, in order; images of one shape are computed together.

    `batch_size(shape)` is the largest number of images of a shape; None: any.
    """
    positions: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        positions.setdefault(tuple(image.read_pixels.shape), []).append(i)
    outputs: dict[int, ImageOutput] = {}
    for shape, group in positions.items():
        size = batch_size(shape) or len(group)
        for start in range(0, len(group), size):
            indices = group[start : start + size]
            outputs.update(zip(indices, compute([images[i] for i in indices]), strict=True))
    return [outputs[i] for i in range(len(images))]


def build_predictor(
    network: Model,
    backend: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    embeddings: bool = False,
    use_temperature: bool = True,
    compiled: bool = False,
    calibration_images: Tensor | None = None,
    num_images: int | None = None,
) -> AnyPredictor:
    """Return a predictor that runs the network with a backend (see `open_backend`), its task and its temperature.

    `embeddings` adds the input of the last linear layer to the output. Raises ValueError like `open_backend`, for a
    network without preprocessing, for a task without predictions, and for embeddings of a network without a linear
    layer.
    """
    if network.preprocess is None:
        raise invalid(
            "a network with its preprocessing",
            f"{network.arch.name} without it",
            next_step="train it, load a run, or network.set_metadata(preprocess=...)",
        )
    task = model_task(network)
    result_rules(task)
    if embeddings and isinstance(network, GraphModel):
        raise invalid("a network with its layers for embeddings", f"{network.path}, an exported graph")
    if embeddings and isinstance(network, DenseNetwork):
        raise invalid("a network whose last layer is linear for embeddings", network.arch.name)
    if result_rules(task).form is OutputForm.BOXES:
        assert isinstance(network, DenseNetwork | GraphModel)
        return DetectionPredictor(open_detection_backend(network, backend, precision, device, compiled=compiled), task)
    backbone: Model = network
    head = None
    if embeddings and not isinstance(network, GraphModel | DenseNetwork):
        backbone, head = split_head(network)
    opened_backend = open_backend(
        backbone,
        backend,
        precision,
        device,
        compiled=compiled,
        calibration_images=calibration_images,
        num_images=num_images,
        spin_threads=False,  # other threads decode images meanwhile, and a server waits for requests
    )
    temperature = saved_temperature(network) if use_temperature else None
    return Predictor(opened_backend, task, temperature or 1.0, head)


def model_task(network: Model) -> TaskType:
    """Return the network's task with its class names; that of its kind if none is recorded.

    Raises ValueError for a kind without a task.
    """
    kind = network.arch.kind if isinstance(network.arch, DenseArch) else ModelKind.CLASSIFICATION
    default = next((name for name, task_type in TASK_TYPES.items() if task_type.model_kind == kind), None)
    if network.task is None and default is None:
        raise invalid("a network of a task", f"{network.arch.name} for {kind}")
    return restore_task(network.task or {"name": default}, class_names(network))


def saved_temperature(network: Model) -> float | None:
    """Return the temperature of the network's probabilities; None if none was fitted, or its task has none."""
    return network.temperature if result_rules(model_task(network)).has_temperature else None


def class_names(network: Model) -> tuple[str, ...]:
    """Return the network's class names, or `class 0`, `class 1`, ... if it has none."""
    num_background = network.arch.num_background if isinstance(network.arch, DenseArch) else 0
    return network.classes or tuple(f"class {index}" for index in range(network.arch.num_classes - num_background))


def split_head(network: Network) -> tuple[Network, nn.Linear]:
    """Return a copy of the network that ends before its last linear layer, and that layer; ValueError without one."""
    backbone = copy.deepcopy(network).eval()
    name = last_linear_name(backbone)
    if name is None:
        raise invalid("a network with a linear layer, whose input is the embedding", network.arch.name)
    head = backbone.get_submodule(name)
    assert isinstance(head, nn.Linear)
    backbone.set_submodule(name, nn.Identity())
    return backbone, head.cpu().float().requires_grad_(False)
