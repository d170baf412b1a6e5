"""Grad-CAM of a box, against the same gradient computed step by step; and detectors by part."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, RetinaNet_ResNet50_FPN_Weights

from reslab.analysis.box_attribution import box_grad_cam
from reslab.analysis.shapes import time_parts
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.nn.init import init_empty_weights

sys.path.append(str(Path(__file__).parents[1] / "deploy"))
from detectors import build_detector


def _image(height: int = 50, width: int = 70) -> Tensor:
    return torch.rand((3, height, width), generator=torch.Generator().manual_seed(4))


def _two_stage_scores(network: Any, maps: dict[str, Tensor], batch: Any, boxes: list[Tensor]) -> Tensor:
    """The class probabilities of proposals, from the maps of pyramid or backbone."""
    pooled = network.roi_heads.box_roi_pool(maps, boxes, batch.image_sizes)
    logits, _ = network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))
    return logits.softmax(-1)


def _step_by_step(network: Any, image: Tensor, score: float) -> tuple[Tensor, Any]:
    """The heatmap of the last map of the backbone for the class probability that is this score."""
    batch, _ = network.transform([image])
    if hasattr(network.backbone, "fpn"):
        maps = network.backbone.body(batch.tensors)
        last = list(maps)[-1]
        activations = maps[last] = maps[last].detach().requires_grad_()
        features = network.backbone.fpn(maps)
    else:
        activations = network.backbone(batch.tensors).detach().requires_grad_()
        features = {"0": activations}
    if hasattr(network, "roi_heads"):
        proposals, _ = network.rpn(batch, features)
        scores = _two_stage_scores(network, features, batch, [proposals[0].detach()])
    else:
        scores = network.head(list(features.values()))["cls_logits"].sigmoid()
    chosen = scores.flatten()[(scores - score).abs().argmin()]
    (gradient,) = torch.autograd.grad(chosen, activations)
    return torch.einsum("nkhw,nkhw->nhw", gradient, activations.detach()).clamp_min(0), batch


@pytest.mark.parametrize(
    "name", ["retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320", "fasterrcnn_resnet18_c4_320"]
)
def test_it_is_the_gradient_of_the_score_of_the_box(name: str) -> None:
    network, image = build_detector(name), _image()
    with torch.no_grad():
        [expected_boxes] = network([image])
    index = 1
    last = "backbone.layer3" if name.endswith("c4_320") else "backbone.body.layer4"
    result = box_grad_cam(network, image, index, last)
    assert result.detections["boxes"].equal(expected_boxes["boxes"])
    heatmap, batch = _step_by_step(network, image, result.score)
    padded = F.interpolate(heatmap[None], batch.tensors.shape[-2:], mode="bilinear")
    height, width = batch.image_sizes[0]
    expected = F.interpolate(padded[..., :height, :width], image.shape[-2:], mode="bilinear")[0, 0]
    assert result.heatmap.shape == image.shape[-2:]
    assert float(expected.max()) > 0
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_another_stage_of_the_backbone_may_be_explained() -> None:
    network, image = build_detector("retinanet_resnet18_fpn_320"), _image()
    late, early = (box_grad_cam(network, image, 0, f"backbone.body.layer{stage}") for stage in (4, 2))
    assert late.box.equal(early.box)
    assert not torch.allclose(late.heatmap, early.heatmap)


class _RegionDetector(nn.Module):
    """Two stages of convolutions on the image's own grid, and one detection of `box` whose score is a sum inside it."""

    def __init__(self, box: tuple[int, int, int, int], stride: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"shallow": nn.Conv2d(3, 4, 1), "deep": nn.Conv2d(4, 4, stride, stride)})
        self.box, self.stride = box, stride

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        maps = self.stages["deep"](self.stages["shallow"](images[0][None]).relu()).relu()
        x1, y1, x2, y2 = (side // self.stride for side in self.box)
        score = maps[..., y1:y2, x1:x2].sum()
        return [{"boxes": torch.tensor([self.box]).float(), "scores": score[None], "labels": torch.tensor([1])}]


def test_there_is_heat_only_where_the_score_depends_on_the_maps() -> None:
    torch.manual_seed(0)
    network = _RegionDetector((8, 16, 24, 32), stride=4)
    heatmap = box_grad_cam(network, _image(48, 64), 0, "stages.shallow").heatmap
    inside = torch.zeros(48, 64, dtype=torch.bool)
    inside[16:32, 8:24] = True
    assert float(heatmap[inside].max()) > 0
    assert float(heatmap[~inside].abs().max()) == 0


@pytest.mark.parametrize(("side", "stage"), [(8, "layer1"), (16, "layer1"), (32, "layer2"), (64, "layer3")])
def test_the_default_layer_fits_the_size_of_the_box(side: int, stage: str) -> None:
    network: Any = build_detector("retinanet_resnet18_fpn_320", min_size=320, max_size=320)
    image = _image(320, 320)
    box = torch.tensor([[40.0, 50.0, 40 + side, 50 + 2 * side]])
    network.transform.postprocess = lambda result, *sizes: [
        {**result[0], "boxes": box.repeat(len(result[0]["boxes"]), 1)}
    ]
    assert box_grad_cam(network, image, 0).layer == f"backbone.body.{stage}.0"


def test_wrong_choices_are_named() -> None:
    network, image = build_detector("fasterrcnn_resnet18_c4_320"), _image()
    num_hooks = sum(len(module._forward_hooks) for module in network.modules())
    with pytest.raises(ValueError, match=r"a detection from 0 to \d+; got: number 99"):
        box_grad_cam(network, image, 99)
    with pytest.raises(ValueError, match=r"maps .* of the whole image"):
        box_grad_cam(network, image, 0, "roi_heads.box_head.layer4.0")
    with pytest.raises(ValueError, match="layer"):
        box_grad_cam(network, image, 0, "backbone.layer9")
    assert sum(len(module._forward_hooks) for module in network.modules()) == num_hooks


@pytest.mark.parametrize("size", [(50, 70), (300, 64), (64, 64)])
def test_costs_are_counted_on_the_size_that_the_backbone_gets(size: tuple[int, int]) -> None:
    network: Any = build_detector("retinanet_resnet18_fpn_320")
    batch, _ = network.transform([_image(*size)])
    assert network.arch.padded_size(*size) == batch.tensors.shape[-2:]


def test_the_layers_of_a_detector_are_those_that_run() -> None:
    network: Any = build_detector("maskrcnn_resnet18_fpn_320")
    shapes: dict[str, int] = {}
    for name in ("backbone.body.layer4.0.conv1", "rpn.head.cls_logits", "roi_heads.mask_predictor.mask_fcn_logits"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: output[0].numel()})
        )
    network([_image(64, 64)])
    table = {row.name: row for row in reversed(layer_table(network, (3, 64, 64)))}
    for name, size in shapes.items():
        row = table[name]
        outputs = 1
        for side in row.output_shape:
            outputs *= side
        assert outputs >= size if name == "rpn.head.cls_logits" else outputs == size
    assert table["roi_heads.box_predictor.cls_score"].num_rows == network.arch.proposals[1]
    assert table["roi_heads.mask_predictor.mask_fcn_logits"].num_rows == network.arch.max_detections


def test_multiply_adds_of_published_detectors() -> None:
    """torchvision records its own count, of images of about 800x800, with as many regions as one of them has."""
    with init_empty_weights():
        faster, retina = create_model("fasterrcnn_resnet50_fpn"), create_model("retinanet_resnet50_fpn")
    macs = [sum(row.macs for row in layer_table(network, (3, 800, 800))) / 1e9 for network in (faster, retina)]
    published = [FasterRCNN_ResNet50_FPN_Weights.COCO_V1, RetinaNet_ResNet50_FPN_Weights.COCO_V1]
    assert macs == pytest.approx([weights.meta["_ops"] for weights in published], rel=0.05)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("retinanet_resnet18_fpn_320", ["backbone", "pyramid", "class and box heads", "rest"]),
        ("fasterrcnn_resnet18_c4_320", ["backbone", "region proposals", "box head", "rest"]),
    ],
)
def test_the_parts_take_the_time_of_the_whole(name: str, parts: list[str]) -> None:
    network = build_detector(name)
    seconds = time_parts(network, _image(64, 64)[None], 1)
    assert sorted(seconds) == sorted(parts)
    assert all(value > 0 for part, value in seconds.items() if part != "rest")
    assert {network.part_of(layer) for layer, module in network.named_modules() if isinstance(module, nn.Conv2d)} <= {
        *parts
    }
