"""Grad-CAM of a box, position by position: the parts of an image that raise the class score of one detection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.layers import block_names, get_layer, recording_hook
from reslab.spec.errors import invalid

MIN_POSITIONS = 4
"""A box is explained by default on the deepest maps on which its shorter side spans so many positions."""


@dataclass(frozen=True, eq=False)
class BoxGradCam:
    """The detections of an image as the network returns them, and the heatmap (H, W) of number `index` of them.

    `layer` is the name of the layer whose maps explain it, or "" for one that was given as a module.
    """

    detections: Mapping[str, Tensor]
    index: int
    layer: str
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
    """Return relu(sum_k G_k A_k), G_k = d s / d A_k, multiplied position by position, of the size of the image.

    s is the score of detection number `index` (from 0, highest score first) of an image (C, H, W) as the network takes
    it, A_k are the maps of `layer` (a name or a module; a stage is its last block). By default that is the last block
    of the deepest stage on whose maps the shorter side of the box spans `MIN_POSITIONS` positions. The box itself is
    held fixed, as torchvision's detectors pass no gradient through the coordinates of a region.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) averages G_k over all positions first. The score of a box
    depends on few of them, so that the average shows the same channels wherever they are active; without it the
    heatmap is zero where the score does not depend on the maps (HiResCAM, Draelos and Carin 2020, arXiv:2011.08891).

    Raises ValueError for a detection that there is not, an unknown layer, and one without maps of the whole image.
    """
    modules = _candidate_layers(network, layer)
    maps: dict[str, list[Tensor]] = {name: [] for name in modules}
    handles = [module.register_forward_hook(recording_hook(maps[name])) for name, module in modules.items()]
    sizes: list[tuple[Any, Any]] = []
    transform = getattr(network, "transform", None)
    if isinstance(transform, nn.Module):  # torchvision's: it resizes and pads the images
        handles.append(transform.register_forward_hook(lambda module, inputs, output: sizes.append(_sizes(output))))
    try:
        with torch.enable_grad():
            [detections] = network([image.detach().requires_grad_()])
            scores = detections["scores"]
            _check_choice(maps, len(scores), index)
            padded, inner = sizes[0] if sizes else (tuple(image.shape[-2:]), tuple(image.shape[-2:]))
            box_side = _shorter_side(detections["boxes"][index], image, inner)
            name = _select_layer({name: outputs[0] for name, outputs in maps.items()}, box_side, padded)
            (gradient,) = torch.autograd.grad(scores[index], maps[name][0])
    finally:
        for handle in handles:
            handle.remove()
    heatmap = (gradient * maps[name][0].detach()).sum(1, keepdim=True).relu()
    resized = _to_image(heatmap, tuple(image.shape[-2:]), sizes[0] if sizes else None)
    detached = {key: values.detach() for key, values in detections.items()}
    return BoxGradCam(detached, index, name if layer is None or isinstance(layer, str) else "", resized)


def _candidate_layers(network: nn.Module, layer: str | nn.Module | None) -> dict[str, nn.Module]:
    """Return the layer, or the last block of each stage, first to last."""
    if layer is None:
        last_blocks = {name.rpartition(".")[0]: name for name in block_names(network)}
        return {name: get_layer(network, name) for name in last_blocks.values()}
    module = get_layer(network, layer) if isinstance(layer, str) else layer
    if isinstance(module, nn.Sequential):
        module = module[-1]  # the backbone calls the blocks of a stage one by one
    return {layer if isinstance(layer, str) else "": module}


def _shorter_side(box: Tensor, image: Tensor, inner: Sequence[int]) -> float:
    """Return the shorter side of a box (4,) of an image that the network resizes to `inner`, in its pixels."""
    x1, y1, x2, y2 = box.tolist()
    return min((x2 - x1) * inner[1] / image.shape[-1], (y2 - y1) * inner[0] / image.shape[-2])


def _select_layer(maps: Mapping[str, Tensor], box_side: float, padded: Sequence[int]) -> str:
    names = list(maps)
    spans = [box_side * maps[name].shape[-2] / padded[0] for name in names]
    return next(
        (name for name, span in reversed(list(zip(names, spans, strict=True))) if span >= MIN_POSITIONS), names[0]
    )


def _sizes(output: Any) -> tuple[Any, Any]:
    """Return height and width of the padded batch, and of the image in it, of what torchvision's transform returns."""
    images = output[0]
    return tuple(images.tensors.shape[-2:]), tuple(images.image_sizes[0])


def _check_choice(maps: Mapping[str, list[Tensor]], num_boxes: int, index: int) -> None:
    if not 0 <= index < num_boxes:
        required = f"a detection from 0 to {num_boxes - 1}" if num_boxes else "an image with a detection"
        raise invalid(required, f"number {index}" if num_boxes else "none", next_step="lower score_threshold")
    for outputs in maps.values():
        if len(outputs) != 1 or outputs[0].ndim != 4 or len(outputs[0]) != 1:
            got = f"one that runs {len(outputs)} times" if len(outputs) != 1 else tuple(outputs[0].shape)
            raise invalid("a layer with maps (1, C, H, W) of the whole image, as of the backbone", got)


def _to_image(heatmap: Tensor, size: tuple[int, ...], sizes: tuple[Any, Any] | None) -> Tensor:
    """Return a map (1, 1, h, w) as (H, W) of the image, without the part that belongs to padding."""
    if sizes is not None:
        padded, inner = sizes
        heatmap = functional.interpolate(heatmap, padded, mode="bilinear", align_corners=False)
        heatmap = heatmap[..., : inner[0], : inner[1]]
    return functional.interpolate(heatmap, size, mode="bilinear", align_corners=False)[0, 0]
