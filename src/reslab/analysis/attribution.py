"""Attribution for any module: Grad-CAM, integrated gradients and occlusion show which pixels support a class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from reslab.analysis.layers import default_layers, get_layer
from reslab.analysis.target import AnalysisTarget, image_data_uri, map_to_rows
from reslab.spec.errors import invalid, unknown_name

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
    handle = module.register_forward_hook(_recording_hook(activations))
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


def _recording_hook(outputs: list[Tensor]) -> Callable[..., Tensor]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # the next layer may change it in place

    return record


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

    The first `num_images` are shown (`misclassified`: of the wrong predictions only), for the `target_class`
    `predicted` or `label`. `layer` is that of Grad-CAM, by default the last block. The integral has `num_steps` points;
    the occluding patch has `patch_size` pixels (0: a quarter of the side) and moves by half of that.
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

    `completeness_error` is the sum of the integrated gradients minus the increase of the class score over the baseline,
    relative to the increase: 0 where they are complete.
    """

    index: int
    image: str
    label: str
    predicted: str
    target_class: str
    probability: float
    grad_cam: HeatMap
    integrated_gradients: HeatMap
    occlusion: HeatMap
    completeness_error: float


@dataclass(frozen=True)
class AttributionResult:
    """The images with their heatmaps; `layer` is that of Grad-CAM."""

    model: str
    step: int | None
    layer: str
    patch_size: int
    images: tuple[ImageAttribution, ...]


def analyze_attribution(target: AnalysisTarget, options: AttributionOptions = _DEFAULT_OPTIONS) -> AttributionResult:
    """Compute Grad-CAM, integrated gradients from the mean image, and occlusion for the logit of each image's class.

    The functions of this module give the sources. Raises ValueError for an unknown layer or target class.
    """
    if options.target_class not in TARGET_CLASSES:
        raise unknown_name("target class", options.target_class, TARGET_CLASSES)
    if options.num_images < 1 or options.patch_size < 0:
        raise invalid("num_images of at least 1 and patch_size of at least 0", options)
    layer = options.layer or default_layers(target.model)[-1]
    indices, logits = _select_images(target, options)
    x = target.images[indices]
    labels = target.labels[indices].to(x.device)
    class_indices = logits.argmax(1) if options.target_class == "predicted" else labels
    patch_size = options.patch_size or max(1, min(x.shape[-2:]) // 4)
    cam_maps = grad_cam(target.model, x, class_indices, layer)
    ig_maps = integrated_gradients(target.model, x, class_indices, 0.0, options.num_steps)
    occlusion_maps = occlusion(target.model, x, class_indices, patch_size, max(1, patch_size // 2))
    completeness_errors = _completeness_error(target, x, class_indices, ig_maps)
    probabilities = logits.softmax(1)
    attributions = [
        ImageAttribution(
            index=int(indices[row]),
            image=image_data_uri(target, int(indices[row])),
            label=target.class_name(int(labels[row])),
            predicted=target.class_name(int(logits[row].argmax())),
            target_class=target.class_name(int(class_indices[row])),
            probability=float(probabilities[row, class_indices[row]]),
            grad_cam=map_to_rows(cam_maps[row]),
            integrated_gradients=map_to_rows(ig_maps[row].sum(0)),
            occlusion=map_to_rows(occlusion_maps[row]),
            completeness_error=float(completeness_errors[row]),
        )
        for row in range(len(indices))
    ]
    return AttributionResult(target.name, target.step, layer, patch_size, tuple(attributions))


@torch.no_grad()
def _select_images(target: AnalysisTarget, options: AttributionOptions) -> tuple[Tensor, Tensor]:
    """Return the indices of the images to show, and their logits."""
    logits = torch.cat([target.model(x).float() for x in target.images.split(64)])
    indices = torch.arange(len(logits))
    if options.misclassified:
        indices = indices[(logits.argmax(1) != target.labels.to(logits.device)).cpu()]
        if not len(indices):
            raise invalid("a misclassified image", f"none among {len(logits)}", next_step="raise --num-images")
    indices = indices[: options.num_images]
    return indices, logits[indices]


@torch.no_grad()
def _completeness_error(target: AnalysisTarget, x: Tensor, class_indices: Tensor, ig_maps: Tensor) -> Tensor:
    scores = [target.model(inputs).gather(1, class_indices[:, None])[:, 0] for inputs in (x, torch.zeros_like(x))]
    score_change = scores[0] - scores[1]
    return (ig_maps.sum((1, 2, 3)) - score_change) / score_change.abs().clamp_min(1e-6)
