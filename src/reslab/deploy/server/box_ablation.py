"""Ablations of the backbone of a served detector: the boxes with all blocks on, and with some switched off."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import record_block_calls
from reslab.analysis.surgery import BlockSlot, block_slots
from reslab.data.transforms.normalize import Normalize
from reslab.deploy.backends.detection import is_finite
from reslab.deploy.prediction import DetectedBox
from reslab.deploy.predictor import class_names, detected_boxes
from reslab.deploy.server.ablation import (
    AblationRequest,
    AppliedAblation,
    apply_ablation,
    finite_or_none,
    require_finite,
)
from reslab.nn.dense import DenseNetwork
from reslab.runtime.device import choose_device


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


class DetectorAnalysis:
    """A copy of a detector for ablations, in float32 and eval mode; `slots` are the blocks of its backbone by name."""

    def __init__(self, network: DenseNetwork, device: str = "auto") -> None:
        assert network.preprocess is not None
        self.device = choose_device(device)
        self.classes = class_names(network)
        self.is_finite = is_finite(network)
        self._network = copy.deepcopy(network).to(self.device).float().eval().requires_grad_(False)
        self._normalize = Normalize(network.preprocess, self.device)
        self._lock = threading.Lock()
        self.slots: dict[str, BlockSlot] = {slot.name: slot for slot in block_slots(self._network.residual_network)}

    def ablate(self, image: Tensor, ablation: AblationRequest) -> BoxAblationResult:
        """Measure the intact and the ablated detector on a uint8 image (C, H, W).

        Raises HTTPError: 422 for an unknown block, 500 for weights that are not finite.
        """
        require_finite(self.is_finite)
        x = self._normalize(image[None].to(self.device))
        with self._lock:
            baseline = self._measure(x)
            with apply_ablation(self._network.residual_network, ablation) as applied:
                ablated = self._measure(x)
        return BoxAblationResult(baseline, ablated, applied)

    def _measure(self, x: Tensor) -> BoxMeasurement:
        with torch.no_grad(), record_block_calls(self._network.residual_network) as calls:
            (found,) = self._network(list(x))
        boxes = detected_boxes({name: values.cpu() for name, values in found.items()}, self.classes)
        stds = [finite_or_none(float(call.output.double().std(correction=0))) for call in calls]
        return BoxMeasurement(boxes, dict(zip(self.slots, stds, strict=True)))
