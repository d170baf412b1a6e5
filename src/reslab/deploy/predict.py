"""`predict`: what a network predicts of images, by its task, computed by any backend."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.data.decode_limits import DEFAULT_LIMITS, DecodeLimits
from reslab.deploy.backends.backend import BackendSettings
from reslab.deploy.backends.detection import detector_arch
from reslab.deploy.inputs import (
    ImageInput,
    InferenceTransform,
    InputItem,
    PreparedImage,
    TensorTransform,
    UnchangedImageTransform,
    WholeImageTransform,
    chunked,
    list_inputs,
    list_tensors,
)
from reslab.deploy.prediction import DEFAULT_MIN_SCORE, OutputForm, Prediction, ResultLimits, result_rules
from reslab.deploy.prediction_images import (
    BoxWriter,
    DetectorGradCam,
    GradCam,
    MaskWriter,
    draw_box_grad_cam,
    draw_grad_cam,
    grad_cam_path,
)
from reslab.deploy.predictor import AnyPredictor, ImageOutput, build_predictor
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import AnyNetwork, GraphModel, Model
from reslab.spec.dense import DetectionArch
from reslab.spec.errors import invalid, unknown_name
from reslab.training.image_size import with_image_size
from reslab.training.model_source import open_model

_NUM_READ_THREADS = 4
# Batches that are read while another one is computed.
_NUM_PREFETCHED_BATCHES = 2
_NON_FINITE_ERROR = "the network's output is not finite: its weights have diverged, or the precision is too low"


@dataclass(frozen=True)
class PredictOptions:
    """The options of a prediction; the arguments of `predict` without the model and the images.

    Raises ValueError for `top_k` or `batch_size` below 1, and a `min_score` that is not from 0 to 1.
    """

    top_k: int | None = None
    min_score: float | None = None
    batch_size: int = 64
    device: str | torch.device = "auto"
    use_temperature: bool = True
    backend: str = "auto"
    precision: str = "float32"
    compiled: bool = False
    embeddings: bool = False
    grad_cam_dir: Path | None = None
    grad_cam_class: str = ""
    masks_dir: Path | None = None
    boxes_dir: Path | None = None
    calibration_images: Tensor | None = None
    limits: DecodeLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        for name, value in (("top_k", self.top_k), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise invalid(f"{name} of at least 1", value, nearest="1")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise invalid("a min_score from 0 to 1", self.min_score, nearest="0" if self.min_score < 0 else "1")

    @property
    def result_limits(self) -> ResultLimits:
        """The limits on the classes and boxes of a prediction."""
        return ResultLimits(self.top_k, self.min_score or 0.0)


DEFAULT_OPTIONS = PredictOptions()


def predict(
    model: Any,
    images: ImageInput | Iterable[ImageInput],
    *,
    top_k: int | None = None,
    min_score: float | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    use_temperature: bool = True,
    backend: str = "auto",
    precision: str = "float32",
    embeddings: bool = False,
    grad_cam_dir: str | Path | None = None,
    grad_cam_class: str = "",
    masks_dir: str | Path | None = None,
    boxes_dir: str | Path | None = None,
    calibration_images: Tensor | None = None,
    image_size: int | None = None,
    weights: Any = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> list[Prediction]:
    """Return the prediction for each of the `images`, in order, by the task of the network.

    Classification: the `top_k` (5) most probable classes, p = softmax(network(image) / T). Multi-label: the classes
    whose p = sigmoid(network(image)) reaches their thresholds, or the `top_k` most probable ones. Regression: the
    values of the targets in their unit. Segmentation: the mask of each image at its own size, and the share of the
    pixels of each class; `masks_dir` is a folder for masks (`NAME.png`, in the palette of PASCAL VOC) and overlays.
    Detection: the boxes of each image with class, score and, of Mask R-CNN, mask, the highest score first: all that the
    detector keeps, those from `min_score`, or the `top_k` highest; `boxes_dir` is a folder for images with their boxes
    drawn (`NAME_boxes.png`), by default from a score of 0.5.

    `model` is anything that `load` takes, with `weights` for a name, a factory or a module: a run or its folder, a
    `model.safetensors`, an exported graph, a name, or a network with its preprocessing. `images` are files, folders,
    patterns, shards, CSV files, and images in memory: Pillow images, bytes, uint8 arrays and tensors (see
    `list_inputs`); for a network of signals or volumes, arrays and tensors of floats (N, C, T) or (N, C, D, H, W).
    Images are prepared as in evaluation; except in segmentation and detection an image of another size than the
    network's is resized by its shorter side and center-cropped. T is the temperature saved with the weights (`reslab
    eval --save-temperature`; Guo et al. 2017, Sec. 4.2), or 1 if there is none or `use_temperature` is false. `backend`
    and `precision` are those of `open_backend`; int8 needs `calibration_images` (normalized). `embeddings` adds the
    input of the last linear layer; `grad_cam_dir` is a folder for Grad-CAM heatmaps of `grad_cam_class`, a class or
    target by name, or else of the top class, the first target, or of a mask the class of the most pixels other than
    class 0; in detection of the box with the highest score, of any class or the named one. `image_size` (pixels)
    replaces the network's own size. A file that cannot be read, or is larger than the `limits`, becomes a row with an
    error.

    Raises ValueError for a folder without images, top_k or batch_size below 1, a network without preprocessing, and a
    precision or device that the backend does not support.
    """
    options = PredictOptions(
        top_k=top_k,
        min_score=min_score,
        batch_size=batch_size,
        device=device,
        use_temperature=use_temperature,
        backend=backend,
        precision=precision,
        embeddings=embeddings,
        grad_cam_dir=None if grad_cam_dir is None else Path(grad_cam_dir),
        grad_cam_class=grad_cam_class,
        masks_dir=None if masks_dir is None else Path(masks_dir),
        boxes_dir=None if boxes_dir is None else Path(boxes_dir),
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
) -> tuple[BackendSettings, Iterator[Prediction]]:
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
    network: Model, predictor: AnyPredictor, items: Sequence[InputItem], options: PredictOptions = DEFAULT_OPTIONS
) -> Iterator[Prediction]:
    """Yield one prediction per item, in order; threads read images while earlier ones are computed."""
    paths = [item.path for item in items]
    if options.min_score is not None:
        _check_form(predictor, OutputForm.BOXES, "a network for detection, whose boxes have scores")
    writers = _Writers(
        _grad_cam_writer(network, predictor, options) if options.grad_cam_dir is not None else None,
        _mask_writer(predictor, paths, options.masks_dir) if options.masks_dir is not None else None,
        _box_writer(predictor, paths, options) if options.boxes_dir is not None else None,
    )
    transform = input_transform(network, predictor)
    for chunk, images in _prefetch(items, options.batch_size, partial(transform, limits=options.limits)):
        yield from _predict_batch(chunk, images, predictor, options.result_limits, writers)


def input_transform(network: Model, predictor: AnyPredictor) -> Callable[..., PreparedImage]:
    """Return the function that prepares an item for the network. Raises ValueError if it would crop below a mask."""
    assert network.preprocess is not None
    if network.arch.dims != 2:
        return TensorTransform(network.preprocess)
    return image_transform(network, predictor)


def image_transform(network: Model, predictor: AnyPredictor) -> InferenceTransform:
    """Return the transform of images for the network, which are whole where pixels or boxes are predicted."""
    assert network.preprocess is not None
    if predictor.form is OutputForm.VECTOR:
        return InferenceTransform(network.preprocess, network.arch.height_width)
    if predictor.form is OutputForm.BOXES:
        return UnchangedImageTransform(network.preprocess, partial(check_detector_input, detector_arch(network)))
    check = network.residual_network.check_input if isinstance(network, DenseNetwork) else None
    return WholeImageTransform(network.preprocess, check)


def check_detector_input(arch: DetectionArch, x: Tensor) -> None:
    """Raise ValueError for images (N, C, H, W) that the detector would resize to a side of no pixel."""
    shorter, longer = sorted(x.shape[-2:])
    if shorter * arch.max_size < longer:
        required = f"an image whose longer side is at most {arch.max_size} times the shorter one"
        raise invalid(required, f"{x.shape[-1]}x{x.shape[-2]}", next_step="crop it")


def _check_form(predictor: AnyPredictor, form: OutputForm, required: str) -> None:
    if predictor.form is not form:
        raise invalid(required, predictor.task.spec.name)


def _mask_writer(predictor: AnyPredictor, paths: Sequence[str], folder: Path) -> MaskWriter:
    _check_form(predictor, OutputForm.MAP, "a network for segmentation, which predicts masks")
    return MaskWriter(folder, paths)


def _box_writer(predictor: AnyPredictor, paths: Sequence[str], options: PredictOptions) -> BoxWriter:
    _check_form(predictor, OutputForm.BOXES, "a network for detection, which predicts boxes")
    assert options.boxes_dir is not None
    min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
    return BoxWriter(options.boxes_dir, paths, predictor.task.classes, min_score)


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


@dataclass(frozen=True)
class _Writers:
    """The writers of the files of each image, if any."""

    grad_cams: "_GradCamWriter | _BoxGradCamWriter | None" = None
    masks: MaskWriter | None = None
    boxes: BoxWriter | None = None


def _predict_batch(
    items: Sequence[InputItem],
    images: Sequence[PreparedImage],
    predictor: AnyPredictor,
    limits: ResultLimits,
    writers: _Writers,
) -> Iterator[Prediction]:
    read = [(item.path, image) for item, image in zip(items, images, strict=True) if image.pixels is not None]
    computed = predictor.compute([image for _, image in read])
    outputs = iter(computed)
    grad_cam_paths = iter(writers.grad_cams(read, computed) if writers.grad_cams and read else [])
    no_result = result_rules(predictor.task).no_fields
    for item, image in zip(items, images, strict=True):
        if image.pixels is None:
            yield Prediction(item.path, error=image.error, **no_result)
            continue
        output, grad_cam = next(outputs), next(grad_cam_paths, "")
        if not output.is_finite:
            yield Prediction(item.path, error=_NON_FINITE_ERROR, **no_result)
            continue
        fields: dict[str, Any] = predictor.result(output, limits)
        if writers.masks is not None and image.original is not None:
            fields |= writers.masks(item.path, image.original, output.decoded)
        if writers.boxes is not None and image.original is not None:
            fields |= writers.boxes(item.path, image.original, fields["boxes"])
        yield Prediction(item.path, **fields, embedding=output.embedding, grad_cam=grad_cam, warning=image.warning)


def _grad_cam_writer(
    network: Model, predictor: AnyPredictor, options: PredictOptions
) -> "_GradCamWriter | _BoxGradCamWriter":
    """Return the writer of heatmaps. Raises ValueError for an exported graph and an unknown class."""
    task, class_name = predictor.task, options.grad_cam_class
    if isinstance(network, GraphModel):
        raise invalid("a network with its layers for Grad-CAM", f"{network.path}, an exported graph")
    if class_name and class_name not in task.classes:
        raise unknown_name(task.output_noun, class_name, task.classes)
    if predictor.form is OutputForm.BOXES:
        return _BoxGradCamWriter(network, predictor, options)
    return _GradCamWriter(network, predictor, options)


class _BoxGradCamWriter:
    """Writes, for each image, the Grad-CAM heatmap of the box with the highest score, of one class if it is named.

    An image without such a box gets no file.
    """

    def __init__(self, network: AnyNetwork, predictor: AnyPredictor, options: PredictOptions) -> None:
        assert options.grad_cam_dir is not None
        assert isinstance(network, DenseNetwork)
        self.folder, name, classes = options.grad_cam_dir, options.grad_cam_class, predictor.task.classes
        self.label = classes.index(name) + 1 if name else None
        self.grad_cam = DetectorGradCam(network, predictor.backend.device)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, images: Sequence[tuple[str, PreparedImage]], outputs: Sequence[ImageOutput]) -> list[str]:
        """Write the heatmaps of images, each with the path that names it; return "" where there is no box."""
        return [self._write(path, image.read_pixels) for path, image in images]

    def _write(self, name: str, pixels: Tensor) -> str:
        grad_cam = self.grad_cam.best_box(pixels, self.label)
        if grad_cam is None:
            return ""
        path = grad_cam_path(self.folder, name)
        draw_box_grad_cam(pixels, grad_cam.heatmap, grad_cam.box).save(path)
        return str(path)


class _GradCamWriter:
    """Writes the Grad-CAM heatmaps of images into a folder and returns their paths."""

    def __init__(self, network: AnyNetwork, predictor: AnyPredictor, options: PredictOptions) -> None:
        assert options.grad_cam_dir is not None
        self.folder, class_name = options.grad_cam_dir, options.grad_cam_class
        task, self.main_outputs = predictor.task, result_rules(predictor.task).main_outputs
        assert self.main_outputs is not None
        self.label = task.classes.index(class_name) if class_name else None
        self.form = predictor.form
        self.folder.mkdir(parents=True, exist_ok=True)
        self.grad_cam = GradCam(network, predictor.backend.device)

    def __call__(self, images: Sequence[tuple[str, PreparedImage]], outputs: Sequence[ImageOutput]) -> list[str]:
        """Write the heatmaps of images, each with the path that names it."""
        paths = [grad_cam_path(self.folder, name) for name, _ in images]
        # The images of maps have sizes of their own.
        group_size = 1 if self.form is OutputForm.MAP else len(images)
        for start in range(0, len(images), group_size):
            group = slice(start, start + group_size)
            pixels = [image.read_pixels for _, image in images[group]]
            heatmaps = self.grad_cam(torch.stack(pixels), self._labels(outputs[group]))
            for path, image, heatmap in zip(paths[group], pixels, heatmaps, strict=True):
                draw_grad_cam(image, heatmap).save(path)
        return [str(path) for path in paths]

    def _labels(self, outputs: Sequence[ImageOutput]) -> Tensor:
        """Return the class or target to explain of each image: the requested one, or the main one of its output."""
        assert self.main_outputs is not None
        if self.label is not None:
            return torch.full((len(outputs),), self.label)
        values = [output.decoded if output.output is None else output.output for output in outputs]
        return self.main_outputs(torch.stack(values))
