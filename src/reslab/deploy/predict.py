"""`predict`: pictures to class names with probabilities, by any engine, one row a picture.

Prepared pictures to class names with probabilities, and to embeddings.

A picture made ready for a network.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.transforms.pipeline import TransformPipeline
from reslab.deploy.backends.backend import Backend
from reslab.deploy.backends.registry import open_backend
from reslab.deploy.grad_cam import GradCam, draw_grad_cam, grad_cam_path
from reslab.deploy.inputs import InputItem, chunked, list_inputs
from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import deterministic_mode
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.training.run import Run, load


@dataclass(frozen=True)
class ClassScore:
    """A class by name, and how probable the network holds it to be."""

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """Of N pictures: `logits` (N, classes) and, where they were asked for, `features` (N, F); on the CPU."""

    logits: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Prepared pictures to their `top_k` classes, p = softmax(engine(picture) / temperature).

    With a `head` the engine hands out what the head reads, the embedding, and the head is computed here in float32.
    """

    backend: Backend
    classes: tuple[str, ...]
    temperature: float = 1.0
    head: nn.Linear | None = None

    def __call__(self, images: Sequence[Tensor]) -> ModelOutput:
        """Of uint8 (C, H, W) pictures of one size."""
        output = self.backend(torch.stack(list(images)))
        if self.head is None:
            return ModelOutput(output)
        with torch.inference_mode(), deterministic_mode():
            return ModelOutput(self.head(output), output)

    def top_classes(self, output: ModelOutput, top_k: int) -> list[tuple[ClassScore, ...]]:
        """The `top_k` classes of each picture, the most probable first."""
        top = self.probabilities(output).topk(min(top_k, len(self.classes)), dim=1)
        return [
            tuple(ClassScore(self.classes[label], value) for label, value in zip(labels, values, strict=True))
            for labels, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def probabilities(self, output: ModelOutput) -> Tensor:
        """(N, classes): softmax(logits / temperature)."""
        return (output.logits / self.temperature).softmax(1)


def build_predictor(
    network: ResidualNetwork,
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
    """The network made ready by an engine (see `open_engine`), with its class names and, where kept, its temperature.

    `features` hands out embeddings too: what the last linear layer reads. Raises ValueError as `open_engine`, where the
    network knows no preprocessing, and for features where it has no linear layer.
    """
    if network.preprocess is None:
        raise invalid(
            "a network that knows its preprocessing",
            f"{network.arch.name} without",
            next_step="train it, load a run, or set network.preprocess",
        )
    backbone, head = split_head(network) if embeddings else (network, None)
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


def class_names(network: ResidualNetwork) -> tuple[str, ...]:
    """The network's class names, or `class 0`, `class 1` ... where it knows none."""
    return network.classes or tuple(f"class {index}" for index in range(network.arch.num_classes))


def split_head(network: ResidualNetwork) -> tuple[ResidualNetwork, nn.Linear]:
    """A copy that hands out what its last linear layer reads, and that layer; ValueError where it has none."""
    backbone = copy.deepcopy(network).eval()
    name = last_linear_name(backbone)
    if name is None:
        raise invalid("a network with a linear layer, which embeddings are read by", network.arch.name)
    head = backbone.get_submodule(name)
    assert isinstance(head, nn.Linear)
    backbone.set_submodule(name, nn.Identity())
    return backbone, head.cpu().float().requires_grad_(False)


class InferenceTransform:
    """A picture to what the network reads: the words of its preprocessing, then its size; uint8 (C, H, W)."""

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int]) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.transforms = TransformPipeline(preprocess.transform)
        height, width = image_size
        # The shorter side of the picture to the longer one of the network, so that the crop always fits.
        self.resize = TransformPipeline(f"resize({max(height, width)}) center-crop({max(height, width)})")

    def __call__(self, source: InputItem | Path) -> Tensor | str:
        """The picture of an item or a file, or why it cannot be read."""
        item = InputItem(str(source)) if isinstance(source, Path) else source
        try:
            return self.apply(item.decode(self.preprocess.channels))
        except (ValueError, OSError) as error:
            return str(error).removeprefix(f"{item.path}: ")

    def apply(self, pixels: Tensor) -> Tensor:
        """Decoded pixels (C, H, W) of any size. Raises ValueError where the words do not fit them."""
        pixels = self.transforms.apply_image(pixels, 0)
        return pixels if tuple(pixels.shape[1:]) == self.image_size else self._resize_and_crop(pixels)

    def _resize_and_crop(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        square = self.resize.apply_image(pixels, 0)
        top, left = (square.shape[1] - height) // 2, (square.shape[2] - width) // 2
        return square[:, top : top + height, left : left + width]


_NUM_READ_THREADS = 4
# Batches that are read while one is computed.
_NUM_PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture: its `classes`, the most probable first, or why the file could not be read.

    `features` is the embedding and `heat_map` the file of the heat map, where they were asked for.
    """

    path: str
    classes: tuple[ClassScore, ...] = ()
    error: str = ""
    embedding: tuple[float, ...] = ()
    grad_cam: str = ""

    def to_dict(self) -> dict[str, Any]:
        """path, classes (a list of name and probability), and features, heat_map and error where there are any."""
        classes = [{"name": score.name, "probability": score.probability} for score in self.classes]
        row: dict[str, Any] = {"path": self.path, "classes": classes}
        optional = {"embedding": list(self.embedding), "grad_cam": self.grad_cam, "error": self.error}
        return {**row, **{name: value for name, value in optional.items() if value}}


def prediction_from_dict(row: dict[str, Any]) -> Prediction:
    """The prediction that `to_dict` wrote."""
    classes = tuple(ClassScore(entry["name"], entry["probability"]) for entry in row["classes"])
    embedding = tuple(row.get("embedding", ()))
    return Prediction(row["path"], classes, row.get("error", ""), embedding, row.get("grad_cam", ""))


def predict(
    model: Run | ResidualNetwork | str | Path,
    paths: str | Path | Iterable[str | Path],
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
) -> list[Prediction]:
    """The `top_k` most probable classes, p = softmax(network(picture) / T), of every picture in `paths`, in order.

    `model` is a run or its folder, a `model.safetensors`, or a network that knows its preprocessing. `paths` are files,
    folders, patterns, shards, CSV files (`list_items`). A picture is prepared as for the evaluation; one of another
    size than the network's is scaled by its shorter side and cropped in the middle. T is the temperature that the
    weights carry (`reslab eval --save-temperature`; Guo et al. 2017, Sec. 4.2), 1 where they carry none or without
    `temperature`. `engine` and `precision` are those of `open_engine`, `images` (normalised) for the scales of int8.
    `features` adds the embedding, what the last linear layer reads; `heat_maps` is a folder for Grad-CAM pictures of
    each first class. A file that cannot be read is a row with its error.
    Raises ValueError where a folder holds no picture, top_k or batch is below 1, the preprocessing is not known, or the
    engine cannot run so.
    """
    items = list_inputs(paths)
    network = model if isinstance(model, ResidualNetwork) else load(model)
    check_predict_options(top_k, batch_size)
    predictor = build_predictor(
        network,
        backend,
        precision,
        device,
        embeddings=embeddings,
        use_temperature=use_temperature,
        calibration_images=calibration_images,
        num_images=len(items),
    )
    folder = None if grad_cam_dir is None else Path(grad_cam_dir)
    return list(iter_predictions(network, predictor, items, top_k, batch_size, folder))


def check_predict_options(top_k: int, batch_size: int) -> None:
    """ValueError where one of them is below 1."""
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise invalid(f"{name} of at least 1", value, nearest="1")


def iter_predictions(
    network: ResidualNetwork,
    predictor: Predictor,
    items: Sequence[InputItem],
    top_k: int = 5,
    batch_size: int = 64,
    grad_cam_dir: Path | None = None,
) -> Iterator[Prediction]:
    """One row an item, in order; pictures are read in threads while others are computed."""
    assert network.preprocess is not None
    transform = InferenceTransform(network.preprocess, network.arch.image_size)
    write_grad_cam = None if grad_cam_dir is None else _GradCamWriter(network, predictor, grad_cam_dir)
    for chunk, images in _prefetch(items, batch_size, transform):
        yield from _predict_batch(chunk, images, predictor, top_k, write_grad_cam)


def _prefetch(
    items: Sequence[InputItem], batch_size: int, transform: InferenceTransform
) -> Iterator[tuple[Sequence[InputItem], list[Tensor | str]]]:
    """Batches of items with their pictures, or with why they cannot be read; the next ones are being read already."""
    pending: deque[tuple[Sequence[InputItem], list[Future[Tensor | str]]]] = deque()
    executor = ThreadPoolExecutor(_NUM_READ_THREADS)
    try:
        for chunk in chunked(items, batch_size):
            pending.append((chunk, [executor.submit(transform, item) for item in chunk]))
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
    images: Sequence[Tensor | str],
    predictor: Predictor,
    top_k: int,
    write_grad_cam: "_GradCamWriter | None",
) -> Iterator[Prediction]:
    decoded = [image for image in images if isinstance(image, Tensor)]
    output = predictor(decoded) if decoded else None
    class_scores = iter(predictor.top_classes(output, top_k) if output else [])
    is_finite = iter(output.logits.isfinite().all(1).tolist() if output else [])
    embeddings = iter([] if output is None or output.embeddings is None else output.embeddings.tolist())
    paths = [item.path for item, image in zip(items, images, strict=True) if isinstance(image, Tensor)]
    grad_cam_paths = iter(write_grad_cam(paths, decoded, output.logits.argmax(1)) if write_grad_cam and output else [])
    for item, image in zip(items, images, strict=True):
        if isinstance(image, str):
            yield Prediction(item.path, error=image)
            continue
        prediction = Prediction(
            item.path, next(class_scores), "", tuple(next(embeddings, ())), next(grad_cam_paths, "")
        )
        yield prediction if next(is_finite) else Prediction(item.path, error=_NON_FINITE_ERROR)


_NON_FINITE_ERROR = (
    "the network's answer is not a number: its weights have diverged, or the precision is too small for them"
)


class _GradCamWriter:
    """Heat maps of pictures, written into a folder; returns the names of their files."""

    def __init__(self, network: ResidualNetwork, predictor: Predictor, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.grad_cam = folder, GradCam(network, predictor.backend.device)

    def __call__(self, input_paths: Sequence[str], images: Sequence[Tensor], target_classes: Tensor) -> list[str]:
        paths = [grad_cam_path(self.folder, input_path) for input_path in input_paths]
        heatmaps = self.grad_cam(torch.stack(list(images)), target_classes)
        for path, image, heatmap in zip(paths, images, heatmaps, strict=True):
            draw_grad_cam(image, heatmap).save(path)
        return [str(path) for path in paths]
