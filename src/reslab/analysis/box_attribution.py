"""Grad-CAM of a box: the parts of an image that raise the class score of one detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.layers import block_names, get_layer
from reslab.spec.errors import invalid


@dataclass(frozen=True, eq=False)
class BoxGradCam:
    """The detections of an image as the network returns them, and the heatmap (H, W) of number `index` of them."""

    detections: Mapping[str, Tensor]
    index: int
    heatmap: Tensor

    @property
    def box(self) -> Tensor:
        """The box (4,) as x1, y1, x2, y2 in pixels of the image."""
        return self.detections["boxes"][self.index]

    @property
    def score(self) -> float:
        """The class score of the box."""
        return float(self.detections["scores"][self.index])


def box_grad_cam(network: nn.Module, image: Tensor, index: int = 0, layer: str | nn.Module | None = None) -> BoxGradCam:
    """Return relu(sum_k a_k A_k) with a_k the mean over positions of d s / d A_k, of the size of the image.

    s is the score of detection number `index` (from 0, highest score first) of an image (C, H, W) as the network takes
    it, A_k are the maps of `layer` (a name or a module; a stage is its last block; by default the last block of the
    backbone). Selvaraju et al. 2017, arXiv:1610.02391, Eqs. 1 and 2, with the score of the box in place of that of the
    image; the box itself is held fixed, as torchvision's detectors pass no gradient through the coordinates of a
    region.

    Raises ValueError for a detection that there is not, an unknown layer, and one without maps of the whole image.
    """
    layer = block_names(network)[-1] if layer is None else layer
    module = get_layer(network, layer) if isinstance(layer, str) else layer
    if isinstance(module, nn.Sequential):
        module = module[-1]  # the backbone calls the blocks of a stage one by one
    activations: list[Tensor] = []
    sizes: list[tuple[Any, Any]] = []
    handles = [module.register_forward_hook(lambda module, inputs, output: _record(activations, output))]
    transform = getattr(network, "transform", None)
    if isinstance(transform, nn.Module):  # torchvision's: it resizes and pads the images
        handles.append(transform.register_forward_hook(lambda module, inputs, output: sizes.append(_sizes(output))))
    try:
        with torch.enable_grad():
            [detections] = network([image.detach().requires_grad_()])
            scores = detections["scores"]
            _check_choice(activations, len(scores), index)
            (gradient,) = torch.autograd.grad(scores[index], activations[0])
    finally:
        for handle in handles:
            handle.remove()
    heatmap = (gradient.mean((2, 3), keepdim=True) * activations[0].detach()).sum(1, keepdim=True).relu()
    resized = _to_image(heatmap, tuple(image.shape[-2:]), sizes[0] if sizes else None)
    return BoxGradCam({name: values.detach() for name, values in detections.items()}, index, resized)


def _record(activations: list[Tensor], output: Any) -> Any:
    activations.append(output)
    return output.clone()  # the next layer may change it in place


def _sizes(output: Any) -> tuple[Any, Any]:
    """Return height and width of the padded batch, and of the image in it, of what torchvision's transform returns."""
    images = output[0]
    return tuple(images.tensors.shape[-2:]), tuple(images.image_sizes[0])


def _check_choice(activations: list[Tensor], num_boxes: int, index: int) -> None:
    if not 0 <= index < num_boxes:
        required = f"a detection from 0 to {num_boxes - 1}" if num_boxes else "an image with a detection"
        raise invalid(required, f"number {index}" if num_boxes else "none", next_step="lower score_threshold")
    if len(activations) != 1 or activations[0].ndim != 4 or len(activations[0]) != 1:
        got = f"one that runs {len(activations)} times" if len(activations) != 1 else tuple(activations[0].shape)
        raise invalid("a layer with maps (1, C, H, W) of the whole image, as of the backbone", got)


def _to_image(heatmap: Tensor, size: tuple[int, ...], sizes: tuple[Any, Any] | None) -> Tensor:
    """Return a map (1, 1, h, w) as (H, W) of the image, without the part that belongs to padding."""
    if sizes is not None:
        padded, inner = sizes
        heatmap = functional.interpolate(heatmap, padded, mode="bilinear", align_corners=False)
        heatmap = heatmap[..., : inner[0], : inner[1]]
    return functional.interpolate(heatmap, size, mode="bilinear", align_corners=False)[0, 0]
