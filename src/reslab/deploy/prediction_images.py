"""Predictions as images: masks in the palette of PASCAL VOC; masks, boxes and Grad-CAM over the image; their files."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.attribution import grad_cam
from reslab.analysis.box_attribution import BoxGradCam, box_grad_cam
from reslab.analysis.layers import default_layers
from reslab.data.transforms.normalize import Normalize
from reslab.deploy.prediction import DetectedBox
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import Network
from reslab.report.images import box_color, draw_boxes, draw_mask, mask_image, unique_stems

MIN_OVERLAY_SIDE = 224
_OVERLAY_ALPHA = 0.55
_BOX_COLOR = "#ffffff"
# From low to high, dark to bright; distinguishable for color-blind readers (anchors of matplotlib's inferno).
_COLORMAP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32)


class GradCam:
    """Grad-CAM at the output of the last block (Selvaraju et al. 2017), computed by torch in float32.

    Of a segmentation, it is the last block of the backbone, for the sum over the pixels of the class's logit
    (Vinogradova et al. 2020).
    """

    def __init__(self, network: Network | DenseNetwork, device: torch.device) -> None:
        assert network.preprocess is not None
        self.network = copy.deepcopy(network).to(device).eval()  # the caller's network keeps its device and mode
        self.normalize = Normalize(network.preprocess, device)
        self.layer = _last_block(self.network)

    def __call__(self, images: Tensor, target_classes: Tensor) -> Tensor:
        """Return heatmaps (N, H, W) of uint8 images (N, C, H, W) for classes (N,), scaled so that each maximum is 1."""
        x = self.normalize(images.to(self.normalize.device))
        maps = grad_cam(self.network, x, target_classes.to(x.device), self.layer)[:, None]
        scaled = functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        max_values = scaled.amax((1, 2), keepdim=True)
        return (scaled / max_values.clamp_min(torch.finfo(scaled.dtype).tiny)).clamp(0, 1).cpu()


class DetectorGradCam:
    """Grad-CAM of a box, for its class score, on the maps of the backbone that fit its size; see `box_grad_cam`."""

    def __init__(self, network: DenseNetwork, device: torch.device) -> None:
        assert network.preprocess is not None
        self.network = copy.deepcopy(network).to(device).float().eval()
        self.normalize = Normalize(network.preprocess, device)

    def best_box(self, image: Tensor, label: int | None = None) -> BoxGradCam | None:
        """Return the heatmap of the box with the highest score, of a label from 1 if it is given; None without any."""
        x = self.normalize(image[None].to(self.normalize.device))[0]
        with torch.no_grad():
            [detections] = self.network([x])
        labels = detections["labels"].tolist()
        index = next((i for i, predicted in enumerate(labels) if predicted > 0 and label in (None, predicted)), None)
        return None if index is None else box_grad_cam(self.network, x, index)


def draw_box_grad_cam(image: Tensor, heatmap: Tensor, box: Tensor) -> Image.Image:
    """Draw a heatmap as `draw_grad_cam` does, with the outline of the box (4,) in pixels of the image."""
    scaled = heatmap / heatmap.amax().clamp_min(torch.finfo(heatmap.dtype).tiny)
    drawn = draw_grad_cam(image, scaled.clamp(0, 1).cpu())
    factor = drawn.width / image.shape[-1]
    sides = [float(side) * factor for side in box]
    ImageDraw.Draw(drawn).rectangle(sides, outline=_BOX_COLOR, width=max(2, drawn.width // 150))
    return drawn


def _last_block(network: Network | DenseNetwork) -> str | nn.Module:
    if isinstance(network, DenseNetwork):
        return list(network.residual_network.blocks())[-1][1]
    return default_layers(network)[-1]


def draw_grad_cam(image: Tensor, heatmap: Tensor) -> Image.Image:
    """Draw a heatmap (H, W) over the gray uint8 image (1 or 3, H, W), enlarged to at least MIN_OVERLAY_SIDE pixels."""
    colors = np.array([[np.interp(heatmap.numpy(), np.linspace(0, 1, 5), channel)] for channel in _COLORMAP.T])[:, 0]
    gray = image.float().mean(0).numpy()[None]
    alpha = _OVERLAY_ALPHA * (0.25 + 0.75 * heatmap.numpy())
    blended = (1 - alpha) * gray + alpha * colors
    overlay_image = Image.fromarray(blended.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    height, width = image.shape[1:]
    factor = max(1, -(-MIN_OVERLAY_SIDE // min(height, width)))
    return overlay_image.resize((factor * width, factor * height), Image.Resampling.BICUBIC)


def grad_cam_path(folder: Path, path: str) -> Path:
    """Return a unique path per image: `FOLDER/photos_cat_1.jpg.png` for `photos/cat/1.jpg`."""
    return folder / f"{path.strip('./').replace('/', '_').replace(chr(92), '_') or 'image'}.png"


def overlay_image(pixels: Tensor, mask: Tensor) -> Image.Image:
    """Return the uint8 image (1 or 3, H, W) with its mask over it."""
    channels = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(draw_mask(np.ascontiguousarray(channels), mask.numpy()))


class MaskWriter:
    """Writes masks into a folder: `NAME.png` and `NAME_overlay.png` for an image `NAME.jpg`.

    Where several of the `paths` have one name, theirs are the whole paths: `photos_cat_1.jpg.png`.
    """

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stems = unique_stems(paths)

    def __call__(self, path: str, pixels: Tensor, mask: Tensor) -> dict[str, str]:
        """Write the mask of the image that `path` names, and its overlay; return their paths as in `Prediction`."""
        name = self.stems[path]
        mask_path, overlay_path = self.folder / f"{name}.png", self.folder / f"{name}_overlay.png"
        mask_image(mask.numpy()).save(mask_path)
        overlay_image(pixels, mask).save(overlay_path)
        return {"mask_path": str(mask_path), "overlay_path": str(overlay_path)}


_MASK_OPACITY = 0.45


def draw_detections(pixels: Tensor, boxes: Sequence[DetectedBox], classes: Sequence[str]) -> Image.Image:
    """Return the uint8 image (1 or 3, H, W) with boxes, class names and scores, and under them their masks."""
    image = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    labels = [classes.index(box.name) for box in boxes]
    for box, label in zip(reversed(boxes), reversed(labels), strict=True):  # the highest score is painted last
        if box.mask is not None:
            image = _paint(image, box.mask.numpy(), box_color(label))
    return draw_boxes(image, [box.box for box in boxes], labels, [box.score for box in boxes], classes)


def _paint(image: np.ndarray, mask: np.ndarray, color: Sequence[int]) -> np.ndarray:
    painted = image.copy()
    mixed = (1 - _MASK_OPACITY) * image[mask] + _MASK_OPACITY * np.array(color)
    painted[mask] = mixed.round().astype(np.uint8)
    return painted


class BoxWriter:
    """Writes images with the boxes from `min_score` into a folder: `NAME_boxes.png` (see `unique_stems`)."""

    def __init__(self, folder: Path, paths: Sequence[str], classes: Sequence[str], min_score: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.stems = folder, unique_stems(paths)
        self.classes, self.min_score = classes, min_score

    def __call__(self, path: str, pixels: Tensor, boxes: Sequence[DetectedBox]) -> dict[str, str]:
        """Write the image that `path` names with its boxes; return the path as in `Prediction`."""
        file = self.folder / f"{self.stems[path]}_boxes.png"
        shown = [box for box in boxes if box.score >= self.min_score]
        draw_detections(pixels, shown, self.classes).save(file)
        return {"overlay_path": str(file)}
