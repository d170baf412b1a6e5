"""Verify an export: choose images, also for int8 calibration, and compare its outputs with those of the network.

The outputs, the predictions and the metric of the task are compared.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from reslab.data.boxes import without_background
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.data.loader import eval_loader
from reslab.deploy.backends.backend import DetectFn, ForwardFn
from reslab.deploy.export.quantization import check_int8, check_num_calibration_images
from reslab.deploy.predictor import class_names
from reslab.metrics.multilabel import predict_labels
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import deterministic_mode
from reslab.spec.dense import DetectionArch
from reslab.spec.errors import invalid
from reslab.spec.task import Metric, TargetKind
from reslab.training.evaluation.evaluation import with_added_metrics
from reslab.training.run import Run
from reslab.training.run_data import DataOptions, open_data_for_run, reopen_data
from reslab.training.tasks.multilabel import MultiLabel
from reslab.training.tasks.task_type import TaskType

_BATCH_SIZE = 32
_SEED = 0
_MAX_CALIBRATION_IMAGES, _MIN_CALIBRATION_IMAGES, _CALIBRATION_PIXELS = 1024, 256, 2**22


@dataclass(frozen=True)
class VerificationData:
    """Labeled, prepared images of the `split` of `data`, and the number of calibration images for int8."""

    data: DatasetSplits
    split: str
    images: ImageDataset
    num_calibration_images: int

    @property
    def num_images(self) -> int:
        """The number of images to compare on."""
        return len(self.images)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized images (n, C, H, W) with their targets, in order."""
        for x, y, _ in eval_loader(self.images, _BATCH_SIZE, self.data.preprocess, "cpu"):
            yield x, y

    def calibration_images(self) -> Tensor:
        """Return a random sample of normalized training images (of the evaluation split if there is no training).

        Where they have several sizes, all are resized to the most frequent one.
        """
        split = "train" if "train" in self.data.splits else self.split
        sampled = _sample_images(self.data.split(split), self.num_calibration_images)
        check_num_calibration_images(len(sampled))
        batches = [x for x, _, _ in eval_loader(sampled, _BATCH_SIZE, self.data.preprocess, "cpu")]
        sizes = Counter(size for x in batches for size in [tuple(x.shape[-2:])] * len(x))
        size = sizes.most_common(1)[0][0]
        return torch.cat([_resized(x, size) for x in batches])


def load_verification_data(
    network: AnyNetwork, run: Run | None, data: Any, data_dir: str | Path | None, num_images: int | None
) -> VerificationData:
    """Return the evaluation images of `data`, by default the run's own; all of them or a sample of `num_images`.

    Raises ValueError without data and run, and if task, classes or channels differ from the network's.
    """
    if num_images is not None and num_images < 1:
        raise invalid("at least 1 image to compare on", num_images, nearest="1")
    task = getattr(network, "task", None)
    opened_data = _open_data(run, data, DataOptions(data_dir=data_dir, task=task["name"] if task else None))
    num_classes = len(class_names(network))
    if opened_data.num_classes != num_classes:
        required = f"data of {num_classes} classes, as the network has"
        raise invalid(
            required, f"{opened_data.name} with {opened_data.num_classes}", next_step="name the data it was trained for"
        )
    preprocess = network.preprocess or opened_data.preprocess
    if preprocess.channels != opened_data.preprocess.channels:
        raise invalid(
            f"images of {preprocess.channels} channels", f"{opened_data.name} of {opened_data.preprocess.channels}"
        )
    opened_data = replace(opened_data, preprocess=preprocess)
    images = opened_data.split(opened_data.eval_split)
    sampled = images if num_images is None else _sample_images(images, num_images)
    return VerificationData(
        opened_data, opened_data.eval_split, sampled, choose_num_calibration_images(network.arch.height_width)
    )


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if x.shape[-2:] == size else functional.interpolate(x, size, mode="bilinear", antialias=True)


def choose_num_calibration_images(image_size: tuple[int, int]) -> int:
    """Return 1,024 for images of up to 64x64 pixels, down to 256 for 128x128 and more, which have more values each."""
    height, width = image_size
    return max(_MIN_CALIBRATION_IMAGES, min(_MAX_CALIBRATION_IMAGES, _CALIBRATION_PIXELS // (height * width)))


def load_calibration_images(source: str | Path, network: AnyNetwork) -> Tensor:
    """Return calibration images for int8: training images of the run in the folder `source`.

    Raises ValueError if `source` is not a run's folder, its data is not available, or there is no int8 of the network.
    """
    check_int8(network)
    if not (Path(source) / "run.json").is_file():
        step = "name the run's folder, or export it first: reslab export RUN --to onnx --precision int8"
        raise invalid("a run, whose training images calibrate int8", f"{source}, a weights file", next_step=step)
    return load_verification_data(network, Run(source), None, None, None).calibration_images()


def _open_data(run: Run | None, data: Any, options: DataOptions) -> DatasetSplits:
    if data is not None:
        return open_data_for_run(run, data, options)
    if run is None:
        step = "name a dataset or a folder: --data NAME|FOLDER (a run has its own)"
        raise invalid("images to verify the export on", "weights without a run", next_step=step)
    return reopen_data(run.metadata["data"], None, options.data_dir)


def _sample_images(images: ImageDataset, num_images: int) -> ImageDataset:
    """Return a fixed random sample of the images; the first ones may all be of one class."""
    if num_images >= len(images):
        return images
    permutation = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
    return images.subset(sorted(permutation[:num_images].tolist()))


MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """The comparison of predictions: the noun of what is compared, and which of them are equal.

    `count(task, expected, actual)` returns booleans; where `expected` is a tie within MAX_DIFFERENCE of the largest
    output, either prediction is right.
    """

    noun: str
    count: Callable[[Any, Tensor, Tensor], Tensor]


def _same_class(task: TaskType, expected: Tensor, actual: Tensor) -> Tensor:
    return expected.argmax(1) == actual.argmax(1)


def _same_labels(task: MultiLabel, expected: Tensor, actual: Tensor) -> Tensor:
    thresholds = torch.tensor(task.used_thresholds, dtype=torch.float64)
    probabilities, exported = task.decode(expected), task.decode(actual)
    is_tie = (probabilities - thresholds).abs() <= MAX_DIFFERENCE
    return (predict_labels(probabilities, thresholds) == predict_labels(exported, thresholds)) | is_tie


def _same_pixels(task: TaskType, expected: Tensor, actual: Tensor) -> Tensor:
    first, second = expected.topk(2, dim=1).values.unbind(1)
    is_tie = first - second <= 2 * MAX_DIFFERENCE * _largest(expected)[:, None, None]
    return _same_class(task, expected, actual) | is_tie


AGREEMENTS: dict[TargetKind, Agreement] = {
    TargetKind.CLASS: Agreement("images", _same_class),
    TargetKind.MULTI_HOT: Agreement("labels", _same_labels),
    TargetKind.MASK: Agreement("pixels", _same_pixels),
}


@dataclass(frozen=True)
class ExportComparison:
    """The comparison of network and export on `num_images` images.

    `max_difference` is the maximum over the images of max |exported - original| / max |original|, with the inner maxima
    over the outputs, or what `difference_of` says; `max_error` the maximum of |exported - original| itself. Of
    `num_compared` predictions (`noun`: images, labels, pixels or boxes) `num_agreeing` have the `same` class or box;
    none are compared where predictions are numbers. `value` and `exported_value` are the `metric` of the network and of
    the export, None where it is undefined, as average precision is without an object.
    """

    num_images: int
    max_difference: float
    max_error: float
    noun: str
    num_compared: int
    num_agreeing: int
    metric: Metric
    value: float | None
    exported_value: float | None
    same: str = "class"
    difference_of: str = "the largest output"

    @property
    def agreement(self) -> float | None:
        """The fraction of equal predictions; None where predictions are numbers."""
        return self.num_agreeing / self.num_compared if self.num_compared else None

    @property
    def metric_drop(self) -> float | None:
        """The loss of the metric in percentage points, or percent of an error; negative: a gain; None: undefined."""
        if self.value is None or self.exported_value is None:
            return None
        drop = self.metric.score(self.value) - self.metric.score(self.exported_value)
        return 100 * drop if self.metric.is_fraction else 100 * drop / max(abs(self.value), torch.finfo().tiny)

    def to_dict(self) -> dict[str, Any]:
        """Return what a report records."""
        return {
            "num_images": self.num_images,
            "max_difference": self.max_difference,
            "max_error": self.max_error,
            "agreement": self.agreement,
            "agreement_of": self.noun,
            "same": self.same,
            "difference_of": self.difference_of,
            "metric": self.metric.name,
            "value": self.value,
            "exported_value": self.exported_value,
            "metric_drop": self.metric_drop,
        }


def compare_outputs(
    original: ForwardFn, exported: ForwardFn, batches: Iterable[tuple[Tensor, Tensor]], task: TaskType
) -> ExportComparison:
    """Compare both on every batch (x, y). Raises ValueError without a batch, and if the output shapes differ.

    `task` is that of the outputs of both, such as with outputs in the unit of the targets.
    """
    agreement = AGREEMENTS.get(task.spec.target)
    max_difference = max_error = 0.0
    num_agreeing = num_compared = num_images = 0
    results: tuple[list[Any], list[Any]] = ([], [])
    for x, y in batches:
        with torch.no_grad(), deterministic_mode():
            expected = original(x).double().cpu()
        actual = exported(x).double().cpu()
        if actual.shape != expected.shape:
            raise invalid(f"outputs of shape {tuple(expected.shape)}", tuple(actual.shape))
        # NaN counts as infinitely far; max() would otherwise drop it.
        errors = _largest(actual - expected).nan_to_num(float("inf"))
        max_error = max(max_error, float(errors.max()))
        max_difference = max(max_difference, float((errors / _largest(expected)).max()))
        num_images += len(x)
        if agreement is not None:
            matches = agreement.count(task, expected, actual)
            num_compared, num_agreeing = num_compared + matches.numel(), num_agreeing + int(matches.sum())
        for batch_results, outputs in zip(results, (expected, actual), strict=True):
            batch_results.append(task.batch_result(outputs, y, keep_predictions=False))
    if not num_images:
        raise invalid("at least one image to compare on", "none")
    metric = task.spec.selection_metric
    evaluations = [with_added_metrics(task.evaluate(one, 0.0), one) for one in results]
    values: list[Any] = [evaluation.metrics[metric.name] for evaluation in evaluations]
    return ExportComparison(
        num_images=num_images,
        max_difference=max_difference,
        max_error=max_error,
        noun=agreement.noun if agreement else "",
        num_compared=num_compared,
        num_agreeing=num_agreeing,
        metric=metric,
        value=values[0],
        exported_value=values[1],
    )


def _largest(outputs: Tensor) -> Tensor:
    """Return the largest absolute value of each image (N,), at least the smallest normal number."""
    return outputs.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny)


def failed_checks(comparison: ExportComparison, precision: str, max_drop: float) -> list[str]:
    """Return messages about the failed checks of an export; empty if it passes.

    float32 requires a difference of at most MAX_DIFFERENCE and equal predictions; other precisions a metric that is
    worse by at most `max_drop` points, or percent of an error.
    """
    if precision != "float32":
        title, unit = comparison.metric.title, "points" if comparison.metric.is_fraction else "percent"
        if comparison.metric_drop is None:
            return [f"{title} is undefined on these images, so that its loss cannot be measured; name others with data"]
        message = f"{comparison.metric_drop:.2f} {unit} of {title} lost, at most {max_drop:g} allowed"
        return [] if comparison.metric_drop <= max_drop else [message]
    failures = []
    if not comparison.max_difference <= MAX_DIFFERENCE:
        difference = f"{comparison.max_difference:.2g} of {comparison.difference_of}"
        failures.append(f"outputs differ by {difference}, at most {MAX_DIFFERENCE:g} allowed")
    num_different = comparison.num_compared - comparison.num_agreeing
    if num_different:
        failures.append(
            f"a different {comparison.same} in {num_different} of {comparison.num_compared} {comparison.noun}"
        )
    return failures


_Found = Mapping[str, Tensor]


def compare_detections(
    original: DetectFn,
    exported: DetectFn,
    batches: Iterable[tuple[Any, Any]],
    task: TaskType,
    arch: DetectionArch,
) -> ExportComparison:
    """Compare both on the images of every batch (images, targets). Raises ValueError without an image.

    A box of the original agrees with the box of its class in the export that overlaps it most, if their sides differ by
    at most `MAX_DIFFERENCE` of the longer side of the image, and their scores by as much. `max_difference` is the
    largest of these differences, `max_error` that of the sides in pixels, over boxes with a partner; a box without one
    does not agree. Boxes that rounding may keep or drop are not compared: of a score within `MAX_DIFFERENCE` of the
    least one, which is `score_threshold` or, in an image with `max_detections` boxes, that of the last box.
    """
    max_difference = max_error = 0.0
    num_compared = num_agreeing = num_images = 0
    results: tuple[list[Any], list[Any]] = ([], [])
    for images, targets in batches:
        outputs: tuple[list[_Found], list[_Found]] = ([], [])
        for image in images:
            expected, actual = (_detect(detect, image) for detect in (original, exported))
            differences, errors = _box_differences(expected, actual, max(image.shape[-2:]))
            compared = expected["scores"] > _least_score(expected["scores"], arch) + MAX_DIFFERENCE
            finite = compared & differences.isfinite()
            max_difference = max(max_difference, *differences[finite].tolist(), 0.0)
            max_error = max(max_error, *errors[finite].tolist(), 0.0)
            num_compared += int(compared.sum())
            num_agreeing += int((differences[compared] <= MAX_DIFFERENCE).sum())
            outputs[0].append(expected)
            outputs[1].append(actual)
            num_images += 1
        for batch_results, found_boxes in zip(results, outputs, strict=True):
            batch_results.append(task.batch_result(found_boxes, targets, keep_predictions=False))
    if not num_images:
        raise invalid("at least one image to compare on", "none")
    metric = task.spec.selection_metric
    value, exported_value = (_metric(task, batch_results, metric.name) for batch_results in results)
    return ExportComparison(
        num_images=num_images,
        max_difference=max_difference,
        max_error=max_error,
        noun="boxes",
        num_compared=num_compared,
        num_agreeing=num_agreeing,
        metric=metric,
        value=value,
        exported_value=exported_value,
        same="box",
        difference_of="the image's longer side, or of a score",
    )


def _metric(task: TaskType, batch_results: Sequence[Any], name: str) -> float:
    return float(getattr(task.evaluate(batch_results, None), name))  # type: ignore[arg-type]


def _detect(detect: DetectFn, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return without_background(detect(image[None])[0])


def _least_score(scores: Tensor, arch: DetectionArch) -> float:
    return float(scores.min()) if len(scores) >= arch.max_detections else arch.score_threshold


def _box_differences(expected: _Found, actual: _Found, side: int) -> tuple[Tensor, Tensor]:
    """Return for each expected box its difference and its error in pixels; infinite without a box of its class."""
    infinite = torch.full((len(expected["scores"]),), float("inf"))
    if not len(infinite) or not len(actual["scores"]):
        return infinite, infinite
    is_same_class = expected["labels"][:, None] == actual["labels"]
    overlaps = box_iou(expected["boxes"].double(), actual["boxes"].double()).nan_to_num()
    overlaps, partners = torch.where(is_same_class, overlaps, -1.0).max(1)
    errors = (expected["boxes"] - actual["boxes"][partners]).abs().amax(1)
    score_errors = (expected["scores"] - actual["scores"][partners]).abs()
    has_partner = overlaps >= 0
    differences = torch.maximum(errors / side, score_errors)
    return torch.where(has_partner, differences, infinite), torch.where(has_partner, errors, infinite)
