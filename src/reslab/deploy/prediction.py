"""The prediction for one image: classes, values, a mask or boxes by task, or the error if it could not be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.data.segments import RunLengths

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassScore:
    """The name of a class and its predicted probability; in multi-label tasks also the class's threshold."""

    name: str
    probability: float
    threshold: float | None = None

    @property
    def is_predicted(self) -> bool:
        """True if the probability reaches the threshold, or if there is none."""
        return self.threshold is None or self.probability >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return name, probability and, if there is one, threshold."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        return {"name": self.name, "probability": self.probability, **threshold}


@dataclass(frozen=True)
class DetectedBox:
    """An object in an image: the name of its class, its score, its box and, of Mask R-CNN, its mask.

    `box` is (x1, y1, x2, y2) in pixels of the image, the right and lower ends excluded; `segment` the mask in COCO's
    run-length encoding.
    """

    name: str
    score: float
    box: Box
    segment: RunLengths | None = field(default=None, compare=False, repr=False)

    @property
    def mask(self) -> Tensor | None:
        """The mask (H, W) bool, of the size of the image; None without one."""
        segment = self.segment
        return None if segment is None else torch.from_numpy(segment.decode(segment.height, segment.width).copy())

    def to_dict(self) -> dict[str, Any]:
        """Return name, score, box and, if there is one, the mask as `segmentation`: its size and COCO's counts."""
        segment = self.segment
        mask = {} if segment is None else {"segmentation": segment.to_dict()}
        return {"name": self.name, "score": self.score, "box": list(self.box), **mask}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "DetectedBox":
        """Return the box that `to_dict` wrote."""
        mask = entry.get("segmentation")
        segment = None if mask is None else RunLengths(mask["counts"].encode(), *mask["size"])
        return cls(entry["name"], entry["score"], as_box(entry["box"]), segment)


def as_box(numbers: Sequence[float]) -> Box:
    """Return four numbers as a box."""
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image, or the error if it could not be read.

    By task it has `classes`, the most probable first; `values`, the number of each target in its unit; or `mask`
    (H, W), the class of each pixel in uint8, with `shares`, the fraction of the pixels of each class, and the files
    `mask_path` and `overlay_path` if masks were written; or `boxes`, the highest score first, with the file
    `overlay_path` if they were drawn. What other tasks have is empty or None.

    `warning` is what the decoder of a damaged JPEG said that could still be read. `embedding` and `grad_cam` (the path
    of the heatmap) are empty unless they were requested.
    """

    path: str
    classes: tuple[ClassScore, ...] = ()
    error: str = ""
    embedding: tuple[float, ...] = ()
    grad_cam: str = ""
    warning: str = ""
    values: Mapping[str, float] | None = None
    shares: Mapping[str, float] | None = None
    boxes: tuple[DetectedBox, ...] | None = None
    mask: Tensor | None = field(default=None, compare=False, repr=False)
    mask_path: str = ""
    overlay_path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return path, what was predicted, and what else is not empty; `mask` and `overlay` are paths."""
        results = {"values": self.values, "shares": self.shares}
        given: dict[str, Any] = {name: dict(result) for name, result in results.items() if result is not None}
        if self.boxes is not None:
            given["boxes"] = [box.to_dict() for box in self.boxes]
        classes = {} if given else {"classes": [score.to_dict() for score in self.classes]}
        optional = {
            "mask": self.mask_path,
            "overlay": self.overlay_path,
            "embedding": list(self.embedding),
            "grad_cam": self.grad_cam,
            "warning": self.warning,
            "error": self.error,
        }
        return {"path": self.path, **given, **classes, **{name: value for name, value in optional.items() if value}}


def prediction_from_dict(row: Mapping[str, Any]) -> Prediction:
    """Return the prediction that `to_dict` wrote, without the pixels of a mask."""
    return Prediction(
        path=row["path"],
        classes=tuple(ClassScore(**entry) for entry in row.get("classes", ())),
        error=row.get("error", ""),
        embedding=tuple(row.get("embedding", ())),
        grad_cam=row.get("grad_cam", ""),
        warning=row.get("warning", ""),
        values=row.get("values"),
        shares=row.get("shares"),
        boxes=None if row.get("boxes") is None else tuple(map(DetectedBox.from_dict, row["boxes"])),
        mask_path=row.get("mask", ""),
        overlay_path=row.get("overlay", ""),
    )
