"""Detectors under autocast: boxes keep float32, whatever the type of the maps."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from reslab.nn.box_precision import keep_boxes_precise
from reslab.nn.dense import DenseNetwork
from tests.deploy.detectors import SMALL, build_detector

NAMES = ("retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320", "fasterrcnn_resnet18_c4_320")
SIZE: dict[str, Any] = {"min_size": 320, "max_size": 320, "image_size": (320, 320)}
HEADS = {
    RetinaNet: ("head",),
    FCOS: ("head",),
    SSD: ("head",),
    FasterRCNN: ("rpn.head", "roi_heads.box_predictor"),
}


def build(name: str) -> DenseNetwork:
    axes = {key: value for key, value in SMALL.items() if "c4" not in name or "pyramid" not in key}
    return build_detector(name, **{**axes, **SIZE})


class Pyramid(nn.Module):
    """Two maps of 32 channels, with strides 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels: Any = 32
        self.stem, self.down = nn.Conv2d(3, 32, 16, 16), nn.Conv2d(32, 32, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return OrderedDict({"0": x, "1": self.down(x)})


def build_foreign(kind: type[nn.Module]) -> nn.Module:
    """A detector as a user builds it from torchvision's classes, inside a module of his own."""
    torch.manual_seed(0)
    backbone, size = Pyramid(), {"min_size": 320, "max_size": 320}
    anchors = AnchorGenerator(((21, 47), (63, 91)), ((0.6, 1.0),) * 2)
    detector: nn.Module
    if kind is RetinaNet:
        detector = RetinaNet(backbone, 3, anchor_generator=anchors, score_thresh=0.0, **size)
    elif kind is FCOS:
        points = AnchorGenerator(((16,), (32,)), ((1.0,),) * 2)
        detector = FCOS(backbone, 3, anchor_generator=points, score_thresh=0.0, **size)
    elif kind is SSD:
        backbone.out_channels = [32, 32]
        detector = SSD(backbone, DefaultBoxGenerator([[2], [2]]), (320, 320), 3, score_thresh=0.0)
    else:
        detector = FasterRCNN(backbone, 3, rpn_anchor_generator=anchors, box_score_thresh=0.0, **size)
    return nn.Sequential(OrderedDict(detector=detector))


class HeadOutputs:
    """Records what heads return, and then has them return the same in float32."""

    def __init__(self, heads: list[nn.Module]) -> None:
        self.outputs: list[Any] = []
        self.is_replay = False
        for head in heads:
            head.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.is_replay:
            return to_float32(self.outputs.pop(0))
        self.outputs.append(output)
        return output


def to_float32(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one.float() for key, one in value.items()}
    return tuple([one.float() for one in part] if isinstance(part, list) else part.float() for part in value)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_boxes_and_losses_of_a_users_detector_are_those_of_float32_for_what_its_heads_return(
    kind: type[nn.Module], training: bool
) -> None:
    """Only the heads round: with their outputs, in bf16, a detector in float32 has the same boxes bit for bit."""
    module: Any = build_foreign(kind)
    keep_boxes_precise(module)
    keep_boxes_precise(module)
    detector = module.detector.train(training)
    heads = HeadOutputs([detector.get_submodule(name) for name in HEADS[kind]])
    images = list(torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(1)))
    boxes = torch.tensor([[130.3, 201.7, 180.9, 271.2], [250.1, 10.6, 311.4, 99.5]])
    targets = [{"boxes": boxes + i, "labels": torch.tensor([1, 2])} for i in range(2)] if training else None
    with torch.no_grad():
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            found = detector(images, targets)
        heads.is_replay = True
        torch.manual_seed(2)
        expected = detector(images, targets)
    assert not heads.outputs
    if training:
        assert found == expected
        assert all(bool(loss.isfinite()) for loss in found.values())
        return
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 20
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_anchors_and_detections_are_in_float32(name: str, dtype: torch.dtype) -> None:
    network: Any = build(name)
    generator = network.anchor_generator if hasattr(network, "anchor_generator") else network.rpn.anchor_generator
    anchors: list[torch.Tensor] = []
    generator.register_forward_hook(lambda module, inputs, output: anchors.append(output[0]))
    image = torch.rand(3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = network([image])
        with torch.autocast("cpu", dtype):
            (found,) = network([image])
    assert torch.equal(*anchors)
    assert anchors[0].dtype == torch.float32
    assert (anchors[0] % 2 != 0).any(), "coordinates that bf16 would round"
    assert {key: value.dtype for key, value in found.items()} == {key: value.dtype for key, value in expected.items()}
    assert len(found["boxes"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_box_smaller_than_the_steps_of_bf16_is_finite(name: str) -> None:
    network = build(name).train()
    boxes = torch.tensor([[300.4, 280.3, 300.9, 280.8]])
    assert torch.equal(boxes.bfloat16()[:, :2], boxes.bfloat16()[:, 2:])
    targets = [{"boxes": boxes, "labels": torch.tensor([1])}]
    with torch.autocast("cpu", torch.bfloat16):
        losses = network([torch.rand(3, 320, 320)], targets)
    assert all(bool(loss.isfinite()) for loss in losses.values()), losses
