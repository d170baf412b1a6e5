"""`predict`: what a network predicts of images, by its task, computed by any backend."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.decode_limits import DEFAULT_LIMITS, DecodeLimits
from reslab.deploy.backends.backend import Backend
from reslab.deploy.backends.registry import open_backend
from reslab.deploy.grad_cam import GradCam, draw_grad_cam, grad_cam_path
from reslab.deploy.inputs import (
    ImageInput,
    InferenceTransform,
    InputItem,
    PreparedImage,
    chunked,
    list_inputs,
    list_tensors,
    prepare_tensor,
)
from reslab.deploy.prediction import Prediction
from reslab.deploy.results import result_rules
from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.module_network import GraphModel
from reslab.runtime.device import deterministic_mode
from reslab.spec.errors import invalid, unknown_name
from reslab.training.image_size import with_image_size
from reslab.training.model_source import Model, Network, open_model
from reslab.training.tasks.registry import restore_task
from reslab.training.tasks.task_type import TaskType


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The output for N images, on the CPU: `outputs` (N, ...) and, if requested, `embeddings` (N, F)."""

    outputs: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ImageOutput:
    """The output for one image: the network's `output`, `decoded` by the task, and, if requested, the `embedding`."""

    output: Tensor
    decoded: Tensor
    embedding: tuple[float, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether the output has neither infinities nor NaN."""
        return bool(self.output.isfinite().all())


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

    def compute(self, images: Sequence[Tensor]) -> list[ImageOutput]:
        """Return the output of each uint8 image (C, H, W) of one size."""
        if not images:
            return []
        output = self(images)
        embeddings = [()] * len(images) if output.embeddings is None else map(tuple, output.embeddings.tolist())
        return [ImageOutput(*row) for row in zip(output.outputs, self.decode(output.outputs), embeddings, strict=True)]

    def result(self, output: ImageOutput, top_k: int | None = None) -> dict[str, Any]:
        """Return the fields of `Prediction` that say what was predicted; `top_k` is the number of classes."""
        return result_rules(self.task).fields(self.task, output.decoded, top_k)


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
) -> Predictor:
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
    backbone, head = split_head(network) if embeddings and not isinstance(network, GraphModel) else (network, None)
    opened_backend = open_backend(
        backbone,
        backend,
        precision,
        device,
        compiled=compiled,
        calibration_images=calibration_images,
        num_images=num_images,
    )
    temperature = saved_temperature(network) if use_temperature else None
    return Predictor(opened_backend, task, temperature or 1.0, head)


def model_task(network: Model) -> TaskType:
    """Return the network's task with its class names; classification if none is recorded."""
    return restore_task(network.task, class_names(network))


def saved_temperature(network: Model) -> float | None:
    """Return the temperature of the network's probabilities; None if none was fitted, or its task has none."""
    return network.temperature if result_rules(model_task(network)).has_temperature else None


def class_names(network: Model) -> tuple[str, ...]:
    """Return the network's class names, or `class 0`, `class 1`, ... if it has none."""
    return network.classes or tuple(f"class {index}" for index in range(network.arch.num_classes))


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


_NUM_READ_THREADS = 4
# Batches that are read while another one is computed.
_NUM_PREFETCHED_BATCHES = 2
_NON_FINITE_ERROR = "the network's output is not finite: its weights have diverged, or the precision is too low"


@dataclass(frozen=True)
class PredictOptions:
    """The options of a prediction; the arguments of `predict` without the model and the images.

    Raises ValueError for `top_k` or `batch_size` below 1.
    """

    top_k: int | None = None
    batch_size: int = 64
    device: str | torch.device = "auto"
    use_temperature: bool = True
    backend: str = "auto"
    precision: str = "float32"
    compiled: bool = False
    embeddings: bool = False
    grad_cam_dir: Path | None = None
    grad_cam_class: str = ""
    calibration_images: Tensor | None = None
    limits: DecodeLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise invalid(f"{name} of at least 1", value, nearest="1")


DEFAULT_OPTIONS = PredictOptions()


def predict(
    model: Any,
    images: ImageInput | Iterable[ImageInput],
    *,
    top_k: int | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    use_temperature: bool = True,
    backend: str = "auto",
    precision: str = "float32",
    embeddings: bool = False,
    grad_cam_dir: str | Path | None = None,
    grad_cam_class: str = "",
    calibration_images: Tensor | None = None,
    image_size: int | None = None,
    weights: Any = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> list[Prediction]:
    """Return the prediction for each of the `images`, in order, by the task of the network.

    Classification: the `top_k` (5) most probable classes, p = softmax(network(image) / T). Multi-label: the classes
    whose p = sigmoid(network(image)) reaches their thresholds, or the `top_k` most probable ones. Regression: the
    values of the targets in their unit.

    `model` is anything that `load` takes, with `weights` for a name, a factory or a module: a run or its folder, a
    `model.safetensors`, an exported graph, a name, or a network with its preprocessing. `images` are files,
    folders, patterns, shards, CSV files, and images in memory: Pillow images, bytes, uint8 arrays and tensors (see
    `list_inputs`); for a network of signals or volumes, arrays and tensors of floats (N, C, T) or (N, C, D, H, W).
    Images are prepared as in evaluation; an image of another size than the network's is resized by its shorter side
    and center-cropped. T is the temperature saved with
    the weights (`reslab eval --save-temperature`; Guo et al. 2017, Sec. 4.2), or 1 if there is none or
    `use_temperature` is false. `backend` and `precision` are those of `open_backend`; int8 needs `calibration_images`
    (normalized). `embeddings` adds the input of the last linear layer; `grad_cam_dir` is a folder for Grad-CAM
    heatmaps of `grad_cam_class`, a class or target by name, or else of the top class or the first target. `image_size`
    (pixels) replaces the network's own size. A file that cannot be read, or is larger than the `limits`, becomes a row
    with an error.

    Raises ValueError for a folder without images, top_k or batch_size below 1, a network without preprocessing, and a
    precision or device that the backend does not support.
    """
    options = PredictOptions(
        top_k=top_k,
        batch_size=batch_size,
        device=device,
        use_temperature=use_temperature,
        backend=backend,
        precision=precision,
        embeddings=embeddings,
        grad_cam_dir=None if grad_cam_dir is None else Path(grad_cam_dir),
        grad_cam_class=grad_cam_class,
        calibration_images=calibration_images,
        limits=limits,
    )
    network = open_model(model, weights=weights)
    network = network if image_size is None else with_image_size(network, image_size)
    arch = network.arch
    items = list_inputs(images) if arch.dims == 2 else list_tensors(images, arch.in_channels, arch.dims)
    _, predictions = start_predictions(network, items, options)
    return list(predictions)


def start_predictions(
    network: Model, items: Sequence[InputItem], options: PredictOptions
) -> tuple[Backend, Iterator[Prediction]]:
    """Open the backend; return it with an iterator that computes one prediction per item, in order.

    Raises ValueError like `build_predictor`.
    """
    predictor = build_predictor(
        network,
        # Only torch can be compiled, so "auto" means torch here.
        "torch" if options.compiled and options.backend == "auto" else options.backend,
        options.precision,
        options.device,
        embeddings=options.embeddings,
        use_temperature=options.use_temperature,
        compiled=options.compiled,
        calibration_images=options.calibration_images,
        num_images=len(items),
    )
    return predictor.backend, iter_predictions(network, predictor, items, options)


def iter_predictions(
    network: Model, predictor: Predictor, items: Sequence[InputItem], options: PredictOptions = DEFAULT_OPTIONS
) -> Iterator[Prediction]:
    """Yield one prediction per item, in order; threads read images while earlier ones are computed."""
    assert network.preprocess is not None
    transform: Callable[..., PreparedImage] = prepare_tensor
    if network.arch.dims == 2:
        transform = InferenceTransform(network.preprocess, network.arch.height_width)
    write_grad_cam = None
    if options.grad_cam_dir is not None:
        write_grad_cam = _GradCamWriter(network, predictor, options.grad_cam_dir, options.grad_cam_class)
    for chunk, images in _prefetch(items, options.batch_size, partial(transform, limits=options.limits)):
        yield from _predict_batch(chunk, images, predictor, options.top_k, write_grad_cam)


def _prefetch(
    items: Sequence[InputItem], batch_size: int, prepare: Callable[[InputItem], PreparedImage]
) -> Iterator[tuple[Sequence[InputItem], list[PreparedImage]]]:
    """Yield batches of items with their images or read errors, while threads read the next batches."""
    pending: deque[tuple[Sequence[InputItem], list[Future[PreparedImage]]]] = deque()
    executor = ThreadPoolExecutor(_NUM_READ_THREADS)
    try:
        for chunk in chunked(items, batch_size):
            pending.append((chunk, [executor.submit(prepare, item) for item in chunk]))
            if len(pending) > _NUM_PREFETCHED_BATCHES:
                ready_items, futures = pending.popleft()
                yield ready_items, [future.result() for future in futures]
        while pending:
            ready_items, futures = pending.popleft()
            yield ready_items, [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _predict_batch(
    items: Sequence[InputItem],
    images: Sequence[PreparedImage],
    predictor: Predictor,
    top_k: int | None,
    write_grad_cam: "_GradCamWriter | None",
) -> Iterator[Prediction]:
    read = [(item.path, image.pixels) for item, image in zip(items, images, strict=True) if image.pixels is not None]
    computed = predictor.compute([pixels for _, pixels in read])
    outputs = iter(computed)
    grad_cam_paths = iter(write_grad_cam(read, computed) if write_grad_cam and read else [])
    no_result = result_rules(predictor.task).no_fields
    for item, image in zip(items, images, strict=True):
        if image.pixels is None:
            yield Prediction(item.path, error=image.error, **no_result)
            continue
        output, grad_cam = next(outputs), next(grad_cam_paths, "")
        if not output.is_finite:
            yield Prediction(item.path, error=_NON_FINITE_ERROR, **no_result)
            continue
        fields: dict[str, Any] = {"embedding": output.embedding, "grad_cam": grad_cam, "warning": image.warning}
        yield Prediction(item.path, **predictor.result(output, top_k), **fields)


class _GradCamWriter:
    """Writes the Grad-CAM heatmaps of images into a folder and returns their paths.

    Raises ValueError for an exported graph, a task whose outputs are not numbers of the image, and an unknown class.
    """

    def __init__(self, network: Model, predictor: Predictor, folder: Path, class_name: str = "") -> None:
        task, self.main_outputs = predictor.task, result_rules(predictor.task).main_outputs
        if isinstance(network, GraphModel):
            raise invalid("a network with its layers for Grad-CAM", f"{network.path}, an exported graph")
        if self.main_outputs is None:
            raise invalid("a task with one output a class of the image for Grad-CAM", task.spec.name)
        if class_name and class_name not in task.classes:
            raise unknown_name(task.output_noun, class_name, task.classes)
        self.label = task.classes.index(class_name) if class_name else None
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.grad_cam = folder, GradCam(network, predictor.backend.device)

    def __call__(self, images: Sequence[tuple[str, Tensor]], outputs: Sequence[ImageOutput]) -> list[str]:
        """Write the heatmaps of images, each with the path that names it."""
        assert self.main_outputs is not None
        labels = self.main_outputs(torch.stack([output.output for output in outputs]))
        labels = labels if self.label is None else torch.full_like(labels, self.label)
        heatmaps = self.grad_cam(torch.stack([pixels for _, pixels in images]), labels)
        paths = [grad_cam_path(self.folder, name) for name, _ in images]
        for path, (_, pixels), heatmap in zip(paths, images, heatmaps, strict=True):
            draw_grad_cam(pixels, heatmap).save(path)
        return [str(path) for path in paths]
