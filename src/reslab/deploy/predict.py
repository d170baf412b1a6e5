"""`predict`: class names with probabilities for images, computed by any backend."""

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
from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.module_network import GraphModel
from reslab.runtime.device import deterministic_mode
from reslab.spec.errors import invalid
from reslab.training.image_size import with_image_size
from reslab.training.model_source import Model, Network, open_model


@dataclass(frozen=True)
class ClassScore:
    """The name of a class and its predicted probability."""

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The output for N images, on the CPU: `logits` (N, classes) and, if requested, `embeddings` (N, F)."""

    logits: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network ready to predict: p = softmax(backend(image) / temperature).

    With a `head`, the backend returns the embedding, and the head is computed here in float32.
    """

    backend: Backend
    classes: tuple[str, ...]
    temperature: float = 1.0
    head: nn.Linear | None = None

    def __call__(self, images: Sequence[Tensor]) -> ModelOutput:
        """Return the output for uint8 images (C, H, W) of one size."""
        output = self.backend(torch.stack(list(images)))
        if self.head is None:
            return ModelOutput(output)
        with torch.inference_mode(), deterministic_mode():
            return ModelOutput(self.head(output), output)

    def top_classes(self, output: ModelOutput, top_k: int) -> list[tuple[ClassScore, ...]]:
        """Return the `top_k` classes of each image, the most probable first."""
        top = self.probabilities(output).topk(min(top_k, len(self.classes)), dim=1)
        return [
            tuple(ClassScore(self.classes[label], value) for label, value in zip(labels, values, strict=True))
            for labels, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def probabilities(self, output: ModelOutput) -> Tensor:
        """Return softmax(logits / temperature), (N, classes)."""
        return (output.logits / self.temperature).softmax(1)


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
    """Return a predictor that runs the network with a backend (see `open_backend`), its class names and temperature.

    `embeddings` adds the input of the last linear layer to the output. Raises ValueError like `open_backend`, for a
    network without preprocessing, and for embeddings of a network without a linear layer.
    """
    if network.preprocess is None:
        raise invalid(
            "a network with its preprocessing",
            f"{network.arch.name} without it",
            next_step="train it, load a run, or network.set_metadata(preprocess=...)",
        )
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
    temperature = (network.temperature or 1.0) if use_temperature else 1.0
    return Predictor(opened_backend, class_names(network), temperature, head)


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
class Prediction:
    """The prediction for one image: its `classes`, the most probable first, or the error if it could not be read.

    `warning` is what the decoder of a damaged JPEG said that could still be read. `embedding` and `grad_cam` (the path
    of the heatmap) are empty unless they were requested.
    """

    path: str
    classes: tuple[ClassScore, ...] = ()
    error: str = ""
    embedding: tuple[float, ...] = ()
    grad_cam: str = ""
    warning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return path and classes, and embedding, grad_cam, warning and error unless they are empty."""
        classes = [{"name": score.name, "probability": score.probability} for score in self.classes]
        row: dict[str, Any] = {"path": self.path, "classes": classes}
        optional = {
            "embedding": list(self.embedding),
            "grad_cam": self.grad_cam,
            "warning": self.warning,
            "error": self.error,
        }
        return {**row, **{name: value for name, value in optional.items() if value}}


def prediction_from_dict(row: dict[str, Any]) -> Prediction:
    """Return the prediction that `to_dict` wrote."""
    classes = tuple(ClassScore(entry["name"], entry["probability"]) for entry in row["classes"])
    embedding = tuple(row.get("embedding", ()))
    return Prediction(
        row["path"], classes, row.get("error", ""), embedding, row.get("grad_cam", ""), row.get("warning", "")
    )


@dataclass(frozen=True)
class PredictOptions:
    """The options of a prediction; the arguments of `predict` without the model and the images.

    Raises ValueError for `top_k` or `batch_size` below 1.
    """

    top_k: int = 5
    batch_size: int = 64
    device: str | torch.device = "auto"
    use_temperature: bool = True
    backend: str = "auto"
    precision: str = "float32"
    compiled: bool = False
    embeddings: bool = False
    grad_cam_dir: Path | None = None
    calibration_images: Tensor | None = None
    limits: DecodeLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("batch_size", self.batch_size)):
            if value < 1:
                raise invalid(f"{name} of at least 1", value, nearest="1")


def predict(
    model: Any,
    images: ImageInput | Iterable[ImageInput],
    *,
    top_k: int = 5,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    use_temperature: bool = True,
    backend: str = "auto",
    precision: str = "float32",
    embeddings: bool = False,
    grad_cam_dir: str | Path | None = None,
    calibration_images: Tensor | None = None,
    image_size: int | None = None,
    weights: Any = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> list[Prediction]:
    """Return the `top_k` most probable classes, p = softmax(network(image) / T), of each of the `images`, in order.

    `model` is anything that `load` takes, with `weights` for a name, a factory or a module: a run or its folder, a
    `model.safetensors`, an exported graph, a name, or a network with its preprocessing. `images` are files,
    folders, patterns, shards, CSV files, and images in memory: Pillow images, bytes, uint8 arrays and tensors (see
    `list_inputs`); for a network of signals or volumes, arrays and tensors of floats (N, C, T) or (N, C, D, H, W).
    Images are prepared as in evaluation; an image of
    another size than the network's is resized by its shorter side and center-cropped. T is the temperature saved with
    the weights (`reslab eval --save-temperature`; Guo et al. 2017, Sec. 4.2), or 1 if there is none or
    `use_temperature` is false. `backend` and `precision` are those of `open_backend`; int8 needs `calibration_images`
    (normalized). `embeddings` adds the input of the last linear layer; `grad_cam_dir` is a folder for Grad-CAM
    heatmaps of the top class. `image_size` (pixels) replaces the network's own size. A file that cannot be read,
    or is larger than the `limits`, becomes a row with an error.
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
    predictions = iter_predictions(
        network,
        predictor,
        items,
        top_k=options.top_k,
        batch_size=options.batch_size,
        grad_cam_dir=options.grad_cam_dir,
        limits=options.limits,
    )
    return predictor.backend, predictions


def iter_predictions(
    network: Model,
    predictor: Predictor,
    items: Sequence[InputItem],
    *,
    top_k: int = 5,
    batch_size: int = 64,
    grad_cam_dir: Path | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Iterator[Prediction]:
    """Yield one prediction per item, in order; threads read images while earlier ones are computed."""
    assert network.preprocess is not None
    transform: Callable[..., PreparedImage] = prepare_tensor
    if network.arch.dims == 2:
        transform = InferenceTransform(network.preprocess, network.arch.height_width)
    if grad_cam_dir is not None and isinstance(network, GraphModel):
        raise invalid("a network with its layers for Grad-CAM", f"{network.path}, an exported graph")
    write_grad_cam = (
        None
        if grad_cam_dir is None or isinstance(network, GraphModel)
        else _GradCamWriter(network, predictor, grad_cam_dir)
    )
    for chunk, images in _prefetch(items, batch_size, partial(transform, limits=limits)):
        yield from _predict_batch(chunk, images, predictor, top_k, write_grad_cam)


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
    top_k: int,
    write_grad_cam: "_GradCamWriter | None",
) -> Iterator[Prediction]:
    decoded = [image.pixels for image in images if image.pixels is not None]
    output = predictor(decoded) if decoded else None
    class_scores = iter(predictor.top_classes(output, top_k) if output else [])
    is_finite = iter(output.logits.isfinite().all(1).tolist() if output else [])
    embeddings = iter([] if output is None or output.embeddings is None else output.embeddings.tolist())
    paths = [item.path for item, image in zip(items, images, strict=True) if image.pixels is not None]
    grad_cam_paths = iter(write_grad_cam(paths, decoded, output.logits.argmax(1)) if write_grad_cam and output else [])
    for item, image in zip(items, images, strict=True):
        if image.pixels is None:
            yield Prediction(item.path, error=image.error)
            continue
        prediction = Prediction(
            item.path, next(class_scores), "", tuple(next(embeddings, ())), next(grad_cam_paths, ""), image.warning
        )
        yield prediction if next(is_finite) else Prediction(item.path, error=_NON_FINITE_ERROR)


class _GradCamWriter:
    """Writes the Grad-CAM heatmaps of images into a folder and returns their paths."""

    def __init__(self, network: Network, predictor: Predictor, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.grad_cam = folder, GradCam(network, predictor.backend.device)

    def __call__(self, input_paths: Sequence[str], images: Sequence[Tensor], target_classes: Tensor) -> list[str]:
        paths = [grad_cam_path(self.folder, input_path) for input_path in input_paths]
        heatmaps = self.grad_cam(torch.stack(list(images)), target_classes)
        for path, image, heatmap in zip(paths, images, heatmaps, strict=True):
            draw_grad_cam(image, heatmap).save(path)
        return [str(path) for path in paths]
