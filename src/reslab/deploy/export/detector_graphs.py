"""Detectors as ONNX graphs: the networks alone, without the selection of boxes between and after them.

A RetinaNet is one graph: images (N, C, H, W), resized and normalized, to class logits and box regressions of each
level. Of a two-stage detector the first graph returns the maps of the levels, with objectness and box regressions of
the anchors; a second takes pooled regions (R, C, h, w) to class logits and box regressions, and of Mask R-CNN a third
to mask logits. Resizing, anchors, decoding and non-maximum suppression stay with torchvision
(`reslab.deploy.backends.onnx_detector`). All sizes are free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reslab.deploy.export.graphs import INPUT_NAME, module_to_onnx
from reslab.nn.dense import DenseNetwork
from reslab.spec.detection import DetectionArch, Detector

MAIN_GRAPH, BOX_GRAPH, MASK_GRAPH = "", "box-head", "mask-head"
"""The names of the graphs of a detector; `file_name` has those of their files."""
REGIONS_NAME = "regions"
# Large enough that no level has a side of 1 pixel, which an export would take for fixed.
_TRACE_SIZE = (256, 320)
_MASK_ROI_SIZE = 14


@dataclass(frozen=True)
class DetectorGraph:
    """A part of a detector to export: its module, its input by name and size (C, H, W), and its outputs by name."""

    module: nn.Module
    input_name: str
    input_size: tuple[int, int, int]
    output_names: tuple[str, ...]


class _OneStage(nn.Module):
    """RetinaNet up to its heads: the raw maps of the levels, class logits first."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(x).values())
        classes, boxes = self.head.classification_head, self.head.regression_head
        logits = [classes.cls_logits(classes.conv(level)) for level in maps]
        return (*logits, *(boxes.bbox_reg(boxes.conv(level)) for level in maps))


class _FirstStage(nn.Module):
    """A two-stage detector up to its proposals: maps, objectness and box regressions of the levels."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        objectness, regressions = self.head(maps)
        return (*maps, *objectness, *regressions)


class _RegionHead(nn.Module):
    """A head of the regions and its predictor."""

    def __init__(self, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.head, self.predictor = head, predictor

    def forward(self, regions: Tensor) -> Any:
        return self.predictor(self.head(regions))


def num_levels(arch: DetectionArch) -> int:
    """Return the number of maps that have anchors."""
    return len(arch.level_sizes)


def detector_graphs(network: DenseNetwork) -> dict[str, DetectorGraph]:
    """Return the graphs of a detector by name."""
    arch: Any = network.arch
    levels, size = range(num_levels(arch)), (arch.in_channels, *_TRACE_SIZE)
    if graph_names(arch) == (MAIN_GRAPH,):
        names = [f"{output}_{level}" for output in ("class_logits", "box_regression") for level in levels]
        return {MAIN_GRAPH: DetectorGraph(_OneStage(network), INPUT_NAME, size, tuple(names))}
    names = [f"{output}_{level}" for output in ("features", "objectness", "anchor_regression") for level in levels]
    heads: Any = network
    channels = heads.backbone.out_channels
    pooled = (channels, arch.roi_size, arch.roi_size)
    box_head = _RegionHead(heads.roi_heads.box_head, heads.roi_heads.box_predictor)
    graphs = {
        MAIN_GRAPH: DetectorGraph(_FirstStage(network), INPUT_NAME, size, tuple(names)),
        BOX_GRAPH: DetectorGraph(box_head, REGIONS_NAME, pooled, ("class_logits", "box_regression")),
    }
    if MASK_GRAPH in graph_names(arch):
        mask_head = _RegionHead(heads.roi_heads.mask_head, heads.roi_heads.mask_predictor)
        mask_size = (channels, _MASK_ROI_SIZE, _MASK_ROI_SIZE)
        graphs[MASK_GRAPH] = DetectorGraph(mask_head, REGIONS_NAME, mask_size, ("mask_logits",))
    return graphs


def graph_names(arch: DetectionArch) -> tuple[str, ...]:
    """Return the names of the graphs of a detector."""
    return _GRAPHS[Detector(arch.detector)]


_GRAPHS: dict[Detector, tuple[str, ...]] = {
    Detector.RETINANET: (MAIN_GRAPH,),
    Detector.FASTER_RCNN: (MAIN_GRAPH, BOX_GRAPH),
    Detector.FASTER_RCNN_C4: (MAIN_GRAPH, BOX_GRAPH),
    Detector.MASK_RCNN: (MAIN_GRAPH, BOX_GRAPH, MASK_GRAPH),
}


def detector_to_onnx(network: DenseNetwork, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `onnx.ModelProto` of each graph by name; the first has the `metadata`."""
    network = network.eval()
    return {
        name: module_to_onnx(
            graph.module,
            graph.input_size,
            any_size=name == MAIN_GRAPH,
            input_name=graph.input_name,
            output_names=graph.output_names,
            metadata=metadata if name == MAIN_GRAPH else None,
        )
        for name, graph in detector_graphs(network).items()
    }


def file_name(main_name: str, graph: str) -> str:
    """Return the name of the file of a graph beside that of the first one: `NAME.onnx`, `NAME.box-head.onnx`."""
    return main_name if graph == MAIN_GRAPH else f"{main_name.removesuffix('.onnx')}.{graph}.onnx"
