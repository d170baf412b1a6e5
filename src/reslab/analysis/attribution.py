"""Attribution for any module: Grad-CAM, integrated gradients and occlusion show which pixels support a class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.box_attribution import box_grad_cam
from reslab.analysis.layers import default_layers, get_layer, recording_hook
from reslab.analysis.target import AnalysisTarget, image_data_uri, map_to_rows
from reslab.data.masks import VOID
from reslab.report.format import format_number, pluralize
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.task import TargetKind

TARGET_CLASSES = ("predicted", "label")

HeatMap = tuple[tuple[float, ...], ...]


def grad_cam(model: nn.Module, x: Tensor, target: Tensor, layer: str | nn.Module) -> Tensor:
    """Return relu(sum_k a_k A_k) with a_k the mean over positions of d y_target / d A_k; (N, C, H, W) to (N, h, w).

    A_k are the maps of `layer` (a name or a module), h and w their size. Selvaraju et al. 2017, arXiv:1610.02391, Eqs.
    1 and 2. Of a network with logits for each pixel (N, classes, H, W), y_target is the sum over all pixels of the
    logit of the class (Vinogradova et al. 2020, arXiv:2002.11434, Eq. 2).

    Raises ValueError for an unknown layer and for one without maps.
    """
    module = get_layer(model, layer) if isinstance(layer, str) else layer
    activations: list[Tensor] = []
    handle = module.register_forward_hook(recording_hook(activations))
    try:
        with torch.enable_grad():
            logits = model(x.detach().requires_grad_())
            if not activations or activations[-1].ndim != 4:
                raise invalid(
                    "a layer with maps (N, C, H, W)",
                    tuple(activations[-1].shape) if activations else "a layer that never runs",
                )
            (gradient,) = torch.autograd.grad(_class_scores(logits, target).sum(), activations[-1])
    finally:
        handle.remove()
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activations[-1].detach()).sum(1).relu()


def integrated_gradients(
    model: nn.Module, x: Tensor, target: Tensor, baseline: Tensor | float = 0.0, num_steps: int = 50
) -> Tensor:
    """Return (x - b) times the mean gradient of y_target on the line from the baseline b to x; (N, C, H, W) in and out.

    Sundararajan, Taly and Yan 2017, arXiv:1703.01365, Eq. 1; the integral by Gauss-Legendre quadrature with `num_steps`
    points. Its sum over an image is y_target(x) - y_target(b) (completeness), up to the error of the quadrature.
    """
    if num_steps < 1:
        raise invalid("num_steps of at least 1", num_steps, "50")
    x = x.detach()
    start = torch.full_like(x, baseline) if isinstance(baseline, float | int) else baseline.detach().expand_as(x)
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)
    total = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (start + float(node) * (x - start)).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(_class_scores(model(point), target).sum(), point)
        total += float(weight) * gradient
    return (x - start) * total


@torch.no_grad()
def occlusion(model: nn.Module, x: Tensor, target: Tensor, size: int, stride: int, fill: float = 0.0) -> Tensor:
    """Return how much y_target drops where a patch of `size` is covered with `fill`; (N, C, H, W) to (N, H, W).

    A pixel's value is the mean over the patches that cover it, one every `stride` pixels, the last cut off at the edge.
    Zeiler and Fergus 2014, arXiv:1311.2901, Sec. 4.2. Raises ValueError for a stride that leaves gaps.
    """
    height, width = x.shape[-2:]
    if not 1 <= stride <= size or size > min(height, width):
        got = f"size {size}, stride {stride}"
        raise invalid(f"a stride of 1 to size, and a size up to {min(height, width)}", got)
    baseline_scores = _class_scores(model(x), target)
    drops, coverage = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
    for top in _window_starts(height, size, stride):
        for left in _window_starts(width, size, stride):
            occluded = x.clone()
            occluded[:, :, top : top + size, left : left + size] = fill
            drop = baseline_scores - _class_scores(model(occluded), target)
            drops[:, top : top + size, left : left + size] += drop[:, None, None]
            coverage[top : top + size, left : left + size] += 1
    return drops / coverage


def _window_starts(length: int, size: int, stride: int) -> range:
    return range(0, length - size + stride, stride)


def _class_scores(logits: Tensor, target: Tensor) -> Tensor:
    """Return each sample's score of its class, (N, classes) to (N,); logits of pixels (N, classes, H, W) are summed."""
    logits = logits.sum((2, 3)) if logits.ndim == 4 else logits
    return logits.gather(1, target[:, None])[:, 0]


@dataclass(frozen=True)
class AttributionOptions:
    """The images and the parameters of the methods.

    The first `num_images` are shown (`misclassified`: of the wrong predictions only, in a classification), for the
    `target_class` `predicted` or `label`, or a class or value by name. `layer` is that of Grad-CAM, by default the last
    block (of a box: `box_grad_cam`). The integral has `num_steps` points; the occluding patch has `patch_size` pixels
    (0: a quarter of the side) and moves by half of that.
    """

    num_images: int = 5
    misclassified: bool = False
    target_class: str = "predicted"
    layer: str = ""
    num_steps: int = 64
    patch_size: int = 0


_DEFAULT_OPTIONS = AttributionOptions()


@dataclass(frozen=True)
class ImageAttribution:
    """One image (`index` in the target, `image` a data URI) with its heatmaps, pooled where they are large.

    `label` and `predicted` are the true and the predicted target in words. `probability` is that of the target class;
    in a segmentation the share of its pixels, in detection the score of the box, None in regression.
    `completeness_error` is the sum of the integrated gradients minus the increase of the class score over the baseline,
    relative to the increase: 0 where they are complete. In detection there is Grad-CAM alone, of the box (`box`, x1,
    y1, x2, y2 as fractions of the image) with the highest score.
    """

    index: int
    image: str
    label: str
    predicted: str
    target_class: str
    probability: float | None
    grad_cam: HeatMap
    integrated_gradients: HeatMap | None = None
    occlusion: HeatMap | None = None
    completeness_error: float | None = None
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class AttributionResult:
    """The images with their heatmaps; `layer` is that of Grad-CAM, `has_classes` is True in a classification."""

    model: str
    step: int | None
    layer: str
    patch_size: int
    has_classes: bool
    images: tuple[ImageAttribution, ...]


@dataclass(frozen=True, eq=False)
class _Choices:
    """Predictions for N images: the number of the main class (N,), its text, and the values (N, K).

    `labels` (N,) are the numbers of the true main classes.
    """

    predicted: Tensor
    texts: tuple[str, ...]
    values: Tensor | None
    labels: Tensor


def _class_choices(target: AnalysisTarget, outputs: Tensor, labels: Tensor) -> _Choices:
    predicted = outputs.argmax(1)
    return _Choices(predicted, tuple(map(target.class_name, predicted.tolist())), outputs.softmax(1), labels)


def _multi_label_choices(target: AnalysisTarget, outputs: Tensor, labels: Tensor) -> _Choices:
    """The main class is the one of the highest probability, or the first that the image shows."""
    predicted = outputs.argmax(1)
    texts = tuple(map(target.class_name, predicted.tolist()))
    return _Choices(predicted, texts, outputs.sigmoid(), labels.argmax(1))


def _value_choices(target: AnalysisTarget, outputs: Tensor, labels: Tensor) -> _Choices:
    """The main value is the first."""
    decoded = target.task.decode(outputs)
    texts = tuple(", ".join(format_number(value, 3) for value in row) for row in decoded.tolist())
    first = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
    return _Choices(first, texts, None, first)


def _mask_choices(target: AnalysisTarget, outputs: Tensor, labels: Tensor) -> _Choices:
    """The main class is the one of the most pixels."""
    num_classes, masks = outputs.shape[1], outputs.argmax(1)
    shares = functional.one_hot(masks, num_classes).float().mean((1, 2))
    counts = functional.one_hot(labels.masked_fill(labels == VOID, num_classes).long(), num_classes + 1).sum((1, 2))
    predicted = shares.argmax(1)
    texts = tuple(map(target.class_name, predicted.tolist()))
    return _Choices(predicted, texts, shares, counts[:, :num_classes].argmax(1))


_CHOICES: dict[TargetKind, Callable[[AnalysisTarget, Tensor, Tensor], _Choices]] = {
    TargetKind.CLASS: _class_choices,
    TargetKind.MULTI_HOT: _multi_label_choices,
    TargetKind.VALUES: _value_choices,
    TargetKind.MASK: _mask_choices,
}


def analyze_attribution(target: AnalysisTarget, options: AttributionOptions = _DEFAULT_OPTIONS) -> AttributionResult:
    """Compute Grad-CAM, integrated gradients from the mean image, and occlusion for the score of each image's class.

    The score is the logit of the class, in a segmentation its sum over all pixels, or a value; in detection it is the
    class score of the best box, for Grad-CAM alone.
    The functions of this module give the sources. Raises ValueError for an unknown layer or target class.
    """
    if options.target_class not in (*TARGET_CLASSES, *target.classes):
        raise unknown_name("target class", options.target_class, (*TARGET_CLASSES, *target.classes))
    if options.num_images < 1 or options.patch_size < 0:
        raise invalid("num_images of at least 1 and patch_size of at least 0", options)
    if target.task.spec.target is TargetKind.BOXES:
        return _attribute_boxes(target, options)
    layer = options.layer or default_layers(target.model)[-1]
    indices, choices = _select_images(target, options)
    x = target.images[indices]
    class_indices = _target_classes(target, choices, options).to(x.device)
    patch_size = options.patch_size or max(1, min(x.shape[-2:]) // 4)
    cam_maps = grad_cam(target.model, x, class_indices, layer)
    ig_maps = integrated_gradients(target.model, x, class_indices, 0.0, options.num_steps)
    occlusion_maps = occlusion(target.model, x, class_indices, patch_size, max(1, patch_size // 2))
    completeness_errors = _completeness_error(target, x, class_indices, ig_maps)
    attributions = [
        ImageAttribution(
            index=int(indices[row]),
            image=image_data_uri(target, int(indices[row])),
            label=target.label_text(int(indices[row])),
            predicted=choices.texts[row],
            target_class=target.class_name(int(class_indices[row])),
            probability=None if choices.values is None else float(choices.values[row, class_indices[row]]),
            grad_cam=map_to_rows(cam_maps[row]),
            integrated_gradients=map_to_rows(ig_maps[row].sum(0)),
            occlusion=map_to_rows(occlusion_maps[row]),
            completeness_error=float(completeness_errors[row]),
        )
        for row in range(len(indices))
    ]
    has_classes = target.task.spec.target is TargetKind.CLASS
    return AttributionResult(target.name, target.step, layer, patch_size, has_classes, tuple(attributions))


def _target_classes(target: AnalysisTarget, choices: _Choices, options: AttributionOptions) -> Tensor:
    if options.target_class in target.classes and options.target_class not in TARGET_CLASSES:
        return torch.full_like(choices.predicted, target.classes.index(options.target_class))
    return choices.predicted if options.target_class == "predicted" else choices.labels


def _attribute_boxes(target: AnalysisTarget, options: AttributionOptions) -> AttributionResult:
    """Compute Grad-CAM of the box with the highest score, of a class if one is named, in each image that has one."""
    layers: list[str] = []
    attributions: list[ImageAttribution] = []
    for index, image in enumerate(target.images):
        if len(attributions) == options.num_images:
            break
        box = _best_box(target, image, options.target_class)
        if box is None:
            continue
        box_map = box_grad_cam(target.model, image, box, options.layer or None)
        layers.append(box_map.layer)
        name = target.class_name(int(box_map.detections["labels"][box]) - 1)
        height, width = image.shape[-2:]
        attributions.append(
            ImageAttribution(
                index=index,
                image=image_data_uri(target, index),
                label=target.label_text(index),
                predicted=f"{pluralize(len(box_map.detections['labels']), 'box', 'boxes')}",
                target_class=name,
                probability=box_map.score,
                grad_cam=map_to_rows(box_map.heatmap),
                box=tuple(float(side) for side in box_map.box.cpu() / torch.tensor([width, height, width, height])),
            )
        )
    if not attributions:
        raise invalid("an image with a box", f"none among {len(target.images)}", next_step="raise --num-images")
    layer_names = ", ".join(sorted(set(layers)))
    return AttributionResult(target.name, target.step, layer_names, 0, False, tuple(attributions))


@torch.no_grad()
def _best_box(target: AnalysisTarget, image: Tensor, target_class: str) -> int | None:
    """Return the number of the box with the highest score, of a class if one is named; None without any."""
    [detections] = target.model([image])
    labels = detections["labels"].tolist()
    label_index = target.classes.index(target_class) + 1 if target_class in target.classes else None
    return next((i for i, label in enumerate(labels) if label > 0 and label_index in (None, label)), None)


@torch.no_grad()
def _select_images(target: AnalysisTarget, options: AttributionOptions) -> tuple[Tensor, _Choices]:
    """Return the indices of the images to show, and what the network predicts for them."""
    indices = torch.arange(len(target.images))
    if options.misclassified:
        logits = torch.cat([target.task.predict(target.model, x) for x in target.images.split(64)])
        indices = indices[(logits.argmax(1) != target.class_labels.to(logits.device)).cpu()]
        if not len(indices):
            raise invalid("a misclassified image", f"none among {len(logits)}", next_step="raise --num-images")
    indices = indices[: options.num_images]
    outputs = target.task.predict(target.model, target.images[indices])
    return indices, _CHOICES[target.task.spec.target](target, outputs, target.labels[indices].to(outputs.device))


@torch.no_grad()
def _completeness_error(target: AnalysisTarget, x: Tensor, class_indices: Tensor, ig_maps: Tensor) -> Tensor:
    scores = [_class_scores(target.model(inputs), class_indices) for inputs in (x, torch.zeros_like(x))]
    score_change = scores[0] - scores[1]
    return (ig_maps.sum((1, 2, 3)) - score_change) / score_change.abs().clamp_min(1e-6)
