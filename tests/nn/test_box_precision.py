"""Detectors under autocast: boxes keep float32, whatever the type of the maps."""

from typing import Any

import pytest
import torch

from reslab.nn.dense import DenseNetwork
from tests.deploy.detectors import SMALL, build_detector

NAMES = ("retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320", "fasterrcnn_resnet18_c4_320")
SIZE: dict[str, Any] = {"min_size": 320, "max_size": 320, "image_size": (320, 320)}


def build(name: str) -> DenseNetwork:
    axes = {key: value for key, value in SMALL.items() if "c4" not in name or "pyramid" not in key}
    return build_detector(name, **{**axes, **SIZE})


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
