"""Ablations of a served detector: its boxes with blocks of the backbone switched off, scaled or swapped in a copy."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from reslab.analysis.box_attribution import BoxGradCam, box_grad_cam
from reslab.analysis.layers import record_block_calls
from reslab.analysis.surgery import block_slots, deletion_obstacle, disabled_blocks
from reslab.data.boxes import select_objects
from reslab.deploy.backends.detection import is_finite
from reslab.deploy.prediction import DetectedBox
from reslab.deploy.predictor import class_names, detected_boxes
from reslab.deploy.server.ablation import (
    AblationRequest,
    AppliedAblation,
    NetworkCopy,
    SingleAblation,
    apply_ablation,
    finite_or_none,
    require_finite,
)
from reslab.deploy.server.errors import http_error
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork

_SAME_BOX_IOU = 0.5


@dataclass(frozen=True)
class BoxMeasurement:
    """The boxes in an image, and the standard deviation of each block's output by name."""

    boxes: tuple[DetectedBox, ...]
    responses: Mapping[str, float | None]


@dataclass(frozen=True)
class BoxAblationResult:
    """The measurements of the intact and the ablated detector for one image, and the ablation that was applied."""

    baseline: BoxMeasurement
    ablated: BoxMeasurement
    applied: AppliedAblation


class DetectorAnalysis(NetworkCopy[DenseNetwork]):
    """A copy of a detector; `slots` are the blocks of its backbone by name, and `exclusive` gives access to that."""

    def __init__(self, network: DenseNetwork, device: str = "auto") -> None:
        super().__init__(network, network.preprocess, device)
        self.classes = class_names(network)
        self.is_finite = is_finite(network)
        self.slots = {slot.name: slot for slot in block_slots(self._network.residual_network)}

    @contextmanager
    def exclusive(self) -> Iterator[ResidualNetwork]:
        """Lock the detector for one caller. Raises HTTPError (500) for weights that are not finite."""
        require_finite(self.is_finite)
        with self._lock:
            yield self._network.residual_network

    def top_score(self, x: Tensor) -> Tensor | None:
        """Return the highest score of a box in an image (1, C, H, W), None without a box. Only within `exclusive`."""
        (found,) = self._network(list(x))
        return found["scores"][0] if len(found["scores"]) else None

    def ablate(self, image: Tensor, ablation: AblationRequest) -> BoxAblationResult:
        """Measure the intact and the ablated detector on a uint8 image (C, H, W).

        Raises HTTPError: 422 for an unknown block, 500 for weights that are not finite.
        """
        x = self.normalize_images(image[None])
        with self.exclusive() as backbone:
            baseline = self._measure(x)
            with apply_ablation(backbone, ablation) as applied:
                ablated = self._measure(x)
        return BoxAblationResult(baseline, ablated, applied)

    def curve(self, images: Sequence[Tensor], min_score: float) -> list[SingleAblation]:
        """Disable each block alone, and follow the boxes of at least `min_score` in normalized images (C, H, W).

        A box of the ablated network is the same if it has the class and an intersection over union of at least 0.5; the
        score of a box that is gone is 0, and one below `min_score` is not found. Raises HTTPError like `exclusive`.
        """
        results = []
        with self.exclusive() as backbone, torch.no_grad():
            baseline = [self._detect(x, min_score) for x in images]
            scores = torch.cat([found["scores"] for found in baseline])
            no_boxes = "" if len(scores) else f"no box has a score of at least {min_score:g}"
            for name, slot in self.slots.items():
                reason = no_boxes or deletion_obstacle(slot.block)
                if reason:
                    results.append(SingleAblation(name, None, None, reason))
                    continue
                with disabled_blocks(backbone, [name]):
                    kept = [_kept_scores(found, self._detect(x)) for found, x in zip(baseline, images, strict=True)]
                ablated = torch.cat(kept)
                still_found = (ablated >= min_score) & (ablated > 0)
                drop, agreement = (scores - ablated).mean(), still_found.float().mean()
                results.append(SingleAblation(name, float(drop), float(agreement)))
        return results

    def explain(self, image: Tensor, index: int, ablation: AblationRequest) -> tuple[BoxGradCam, AppliedAblation]:
        """Return Grad-CAM of box number `index` of a uint8 image (C, H, W), as `ablate` counts them.

        Raises HTTPError: 422 for an unknown block, and a box that there is not.
        """
        (x,) = self.normalize_images(image[None])
        with self.exclusive() as backbone, apply_ablation(backbone, ablation) as applied:
            with torch.no_grad():
                (detections,) = self._network([x])
            kept = detections["labels"].nonzero().flatten().tolist()
            if not 0 <= index < len(kept):
                required = f"a box from 0 to {len(kept) - 1}" if kept else "an image with a box"
                raise http_error(422, required, f"box {index}", "ask /v1/lesion for the boxes")
            return box_grad_cam(self._network, x, kept[index]), applied

    def _measure(self, x: Tensor) -> BoxMeasurement:
        with torch.no_grad(), record_block_calls(self._network.residual_network) as calls:
            (detections,) = self._network(list(x))
        boxes = detected_boxes({name: values.cpu() for name, values in detections.items()}, self.classes)
        stds = [finite_or_none(float(call.output.double().std(correction=0))) for call in calls]
        return BoxMeasurement(boxes, dict(zip(self.slots, stds, strict=True)))

    def _detect(self, image: Tensor, min_score: float = 0.0) -> dict[str, Tensor]:
        (detections,) = self._network([image])
        return select_objects(detections, (detections["labels"] > 0) & (detections["scores"] >= min_score))


def _kept_scores(baseline: Mapping[str, Tensor], ablated: Mapping[str, Tensor]) -> Tensor:
    """Return the score that each box of the intact network has in the ablated one, 0 for one that is gone."""
    if not len(ablated["scores"]):
        return torch.zeros_like(baseline["scores"])
    is_same = box_iou(baseline["boxes"], ablated["boxes"]) >= _SAME_BOX_IOU
    is_same &= baseline["labels"][:, None] == ablated["labels"]
    return (is_same * ablated["scores"]).amax(1)
