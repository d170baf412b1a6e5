"""Ablations of a served network: blocks switched off, scaled or swapped in a copy, and what it then predicts.

For a detector the blocks are those of its backbone, and the predictions are its boxes.
"""

import copy
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from reslab.analysis.box_attribution import BoxGradCam, box_grad_cam
from reslab.analysis.layers import record_block_calls
from reslab.analysis.surgery import (
    BlockSlot,
    block_slots,
    deletion_obstacle,
    disabled_blocks,
    find_slots,
    reordered_blocks,
    scale_obstacle,
    scaled_branches,
)
from reslab.data.boxes import select_objects
from reslab.data.transforms.normalize import Normalize
from reslab.deploy.backends.detection import is_finite
from reslab.deploy.prediction import DetectedBox, result_rules
from reslab.deploy.predictor import class_names, detected_boxes, model_task, saved_temperature
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.schemas import RejectedBlock
from reslab.nn.dense import DenseNetwork
from reslab.nn.module_network import Network
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.spec.preprocess import Preprocess


def require_finite(is_finite: bool) -> None:
    """Raise HTTPError (500) unless all outputs are finite, which they are not after divergence."""
    if not is_finite:
        step = "enable the blocks again, or serve weights that have not diverged"
        raise http_error(500, "a network with finite outputs", "nan", step)


NetworkT = TypeVar("NetworkT", bound=nn.Module)


class NetworkCopy(Generic[NetworkT]):
    """A copy of a network in float32 and eval mode with fixed weights.

    Predictions use another copy, so ablations never affect them. `slots` are the blocks' positions by name, in order.
    """

    slots: Mapping[str, BlockSlot]

    def __init__(self, network: NetworkT, preprocess: Preprocess | None, device: str) -> None:
        assert preprocess is not None
        self.device = choose_device(device)
        self._network = copy.deepcopy(network).to(self.device).float().eval().requires_grad_(False)
        self._normalize = Normalize(preprocess, self.device)
        self._lock = threading.Lock()

    def normalize_images(self, images: Tensor) -> Tensor:
        """Normalize uint8 images (N, C, H, W)."""
        return self._normalize(images.to(self.device))


class AnalysisModel(NetworkCopy[Network]):
    """A copy of a network with one vector of outputs an image; `exclusive` gives access to it."""

    def __init__(self, network: Network, device: str = "auto") -> None:
        super().__init__(network, network.preprocess, device)
        self.task = model_task(network)
        self.temperature = saved_temperature(network) or 1.0
        # Of other modules neither the layout of a block nor its paths are known.
        slots = block_slots(self._network) if isinstance(network, ResidualNetwork) else []
        self.slots = {slot.name: slot for slot in slots}

    @contextmanager
    def exclusive(self) -> Iterator[Network]:
        """Lock the network for one caller."""
        with self._lock:
            yield self._network

    def top_score(self, x: Tensor) -> Tensor | None:
        """Return the largest logit of one normalized image (1, C, H, W). Only within `exclusive`."""
        return self._network(x)[0].max()

    def decode(self, network: Network, x: Tensor) -> Tensor:
        """Return what the outputs say, as the task decodes them. Raises HTTPError unless all are finite."""
        with torch.no_grad():
            outputs = network(x).float()
        require_finite(bool(outputs.isfinite().all()))
        return self.task.decode(outputs / self.temperature).cpu()

    def probabilities(self, network: Network, x: Tensor) -> Tensor:
        """Return the probabilities (N, classes). Raises HTTPError (422) for a task without, and like `decode`."""
        if not result_rules(self.task).has_probabilities:
            raise http_error(422, "a network that predicts probabilities of classes", f"one for {self.task.spec.name}")
        return self.decode(network, x)


ABLATION_FIELDS = ("off", "swap", "scale")
_MAX_BLOCKS = 1000
_MAX_FACTOR = 10.0


@dataclass(frozen=True)
class AblationRequest:
    """An ablation: first the pairs of blocks to `swap`, in order; then the positions whose branch is `off`, and the
    factors that `scale` the branches of others."""

    off: tuple[str, ...] = ()
    swap: tuple[tuple[str, str], ...] = ()
    scale: Mapping[str, float] = field(default_factory=dict)


def parse_ablation(fields: Mapping[str, Any]) -> AblationRequest:
    """Parse the ablation from a request's fields. Raises HTTPError (422) for other values."""
    return AblationRequest(
        off=_parse_names(fields.get("off", [])),
        swap=_parse_pairs(fields.get("swap", [])),
        scale=_parse_factors(fields.get("scale", {})),
    )


def _parse_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise http_error(422, 'off as a list of blocks such as ["layer2.1"]', repr(value)[:80])
    return tuple(_check_length("off", value))


def _parse_pairs(value: Any) -> tuple[tuple[str, str], ...]:
    pairs: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise http_error(422, 'swap as a list of pairs such as [["layer1.1", "layer1.2"]]', repr(value)[:80])
    return tuple((first, second) for first, second in map(_parse_names, _check_length("swap", pairs)))


def _parse_factors(value: Any) -> dict[str, float]:
    is_valid = isinstance(value, dict) and all(
        type(factor) in (int, float) and abs(factor) <= _MAX_FACTOR for factor in value.values()
    )
    if not is_valid:
        required = f'scale as a factor from -{_MAX_FACTOR:g} to {_MAX_FACTOR:g} by block, such as {{"layer2.1": 0.5}}'
        raise http_error(422, required, repr(value)[:80])
    _check_length("scale", list(value))
    return {str(name): float(factor) for name, factor in value.items()}


def _check_length(field_name: str, values: list[Any]) -> list[Any]:
    if len(values) > _MAX_BLOCKS:
        raise http_error(422, f"{field_name} of at most {_MAX_BLOCKS} blocks", f"{len(values)}", "name each block once")
    return values


@dataclass(frozen=True)
class AblationMeasurement:
    """The `probabilities` (classes,) for an image, and the standard deviation of each block's output by name."""

    probabilities: Tensor
    responses: Mapping[str, float | None]


@dataclass(frozen=True)
class AppliedAblation:
    """The blocks that are `off`, the factors that `scale` branches, and the parts of the request that were `rejected`,
    (block, reason)."""

    off: set[str] = field(default_factory=set)
    scale: dict[str, float] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def describe_rejected(self) -> list[RejectedBlock]:
        """Return the rejected blocks as the routes send them."""
        return [RejectedBlock(block=block, reason=reason) for block, reason in self.rejected]


@dataclass(frozen=True)
class AblationResult:
    """The measurements of the intact and the ablated network for one image, and the ablation that was applied."""

    baseline: AblationMeasurement
    ablated: AblationMeasurement
    applied: AppliedAblation


def run_ablation(analysis_model: AnalysisModel, image: Tensor, ablation: AblationRequest) -> AblationResult:
    """Measure the intact and the ablated network on a uint8 image (C, H, W).

    Raises HTTPError (422) for an unknown block.
    """
    x = analysis_model.normalize_images(image[None])
    with analysis_model.exclusive() as network:
        baseline = _measure_model(analysis_model, network, x)
        with apply_ablation(network, ablation) as applied:
            ablated = _measure_model(analysis_model, network, x)
    return AblationResult(baseline, ablated, applied)


@contextmanager
def apply_ablation(network: Network, ablation: AblationRequest) -> Iterator[AppliedAblation]:
    """Apply an ablation to `network` within a `with` block (Veit et al. 2016, arXiv:1605.06431, Secs. 4.1 and 4.3).

    Blocks that cannot be ablated are left as they are, with the reason. Raises HTTPError (422) for an unknown block.
    """
    try:
        find_slots(network, [*ablation.off, *(name for pair in ablation.swap for name in pair), *ablation.scale])
    except ValueError as error:
        raise HTTPError(422, str(error)) from None
    applied = AppliedAblation()
    with ExitStack() as stack:
        for first, second in ablation.swap:
            try:
                stack.enter_context(reordered_blocks(network, {first: second, second: first}))
            except ValueError as error:
                applied.rejected.append((f"{first}, {second}", str(error)))
        blocks = {slot.name: slot.block for slot in block_slots(network)}
        reasons = {name: deletion_obstacle(blocks[name]) for name in dict.fromkeys(ablation.off)}
        applied.rejected.extend((name, reason) for name, reason in reasons.items() if reason)
        applied.off.update(name for name, reason in reasons.items() if not reason)
        for name, factor in ablation.scale.items():
            reason = scale_obstacle(blocks[name])
            if reason:
                applied.rejected.append((name, reason))
            else:
                applied.scale[name] = factor
        stack.enter_context(scaled_branches(network, applied.scale))
        stack.enter_context(disabled_blocks(network, sorted(applied.off)))
        yield applied


def _measure_model(analysis_model: AnalysisModel, network: Network, x: Tensor) -> AblationMeasurement:
    if not analysis_model.slots:  # a network without blocks, whose layers would be recorded instead
        return AblationMeasurement(analysis_model.probabilities(network, x)[0], {})
    with record_block_calls(network) as calls:
        probabilities = analysis_model.probabilities(network, x)[0]
    stds = [finite_or_none(float(call.output.double().std(correction=0))) for call in calls]
    return AblationMeasurement(probabilities, dict(zip(analysis_model.slots, stds, strict=True)))


def finite_or_none(value: float) -> float | None:
    """Return the value, or None unless it is finite: JSON has no infinity."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class SingleAblation:
    """The effect of one block's ablation: the mean drop of the top class's probability, and the fraction of images that
    keep their top class; of a detector, of the score of a box, and the fraction of the boxes that are still found.

    Both are None, with the reason, for a block that cannot be disabled, and for a detector without a box.
    """

    block: str
    confidence_drop: float | None
    agreement: float | None
    reason: str = ""


def ablation_curve(analysis_model: AnalysisModel, x: Tensor) -> list[SingleAblation]:
    """Disable each block alone and average over the normalized images x (N, C, H, W)."""
    results = []
    with analysis_model.exclusive() as network:
        baseline, predicted = analysis_model.probabilities(network, x).max(1)
        for name, slot in analysis_model.slots.items():
            reason = deletion_obstacle(slot.block)
            if reason:
                results.append(SingleAblation(name, None, None, reason))
                continue
            with disabled_blocks(network, [name]):
                ablated = analysis_model.probabilities(network, x)
            drop = baseline - ablated.gather(1, predicted[:, None])[:, 0]
            results.append(
                SingleAblation(name, float(drop.mean()), float((ablated.argmax(1) == predicted).float().mean()))
            )
    return results


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
