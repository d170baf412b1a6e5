"""Predictions as images: masks in the palette of PASCAL VOC, masks and boxes over the image, and their files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from reslab.data.mask_images import mask_image, unique_stems
from reslab.deploy.prediction import DetectedBox
from reslab.report.boxes import box_color, draw_boxes
from reslab.report.masks import draw_mask


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
