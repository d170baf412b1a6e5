"""The prediction for one image: classes, values or a mask by task, or the error if it could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ClassScore:
    """The name of a class and its predicted probability; in multi-label tasks also the class's threshold."""

    name: str
    probability: float
    threshold: float | None = None

    @property
    def is_predicted(self) -> bool:
        """Whether the probability reaches the threshold; true without one."""
        return self.threshold is None or self.probability >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return name, probability and, if there is one, threshold."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        return {"name": self.name, "probability": self.probability, **threshold}


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image, or the error if it could not be read.

    By task it has `classes`, the most probable first; `values`, the number of each target in its unit; or `mask`
    (H, W), the class of each pixel in uint8, with `shares`, the fraction of the pixels of each class, and the files
    `mask_path` and `overlay_path` if masks were written. What other tasks have is empty or None.

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
    mask: Tensor | None = field(default=None, compare=False, repr=False)
    mask_path: str = ""
    overlay_path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return path, what was predicted, and what else is not empty; `mask` and `overlay` are paths."""
        results = {"values": self.values, "shares": self.shares}
        given = {name: dict(result) for name, result in results.items() if result is not None}
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
        mask_path=row.get("mask", ""),
        overlay_path=row.get("overlay", ""),
    )
