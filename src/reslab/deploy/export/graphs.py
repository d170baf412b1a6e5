"""Conversion of a network to ONNX graphs or an OpenVINO model, with any batch size.

Of detectors the graphs are the networks alone, without the selection of boxes between and after them. A RetinaNet is
one graph: images (N, C, H, W), resized and normalized, to class logits and box regressions of each level. Of a two-
stage detector the first graph returns the maps of the levels, with objectness and box regressions of the anchors; a
second takes pooled regions (R, C, h, w) to class logits and box regressions, and of Mask R-CNN a third to mask logits.
Resizing, anchors, decoding and non-maximum suppression stay with torchvision (`reslab.deploy.backends.graph_backends`).
All sizes are free.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from reslab.nn.dense import DenseNetwork
from reslab.nn.graph_file import export_program, suppress_warnings
from reslab.nn.module_network import AnyNetwork
from reslab.spec.dense import DetectionArch, Detector

INPUT_NAME, OUTPUT_NAME, METADATA_KEY = "images", "logits", "reslab"
_OPSET_VERSION = 18
_AXIS_NAMES = {0: "batch", 2: "height", 3: "width"}


def network_program(network: AnyNetwork) -> ExportedProgram:
    """Return the program of a network for any batch; where it predicts each pixel, for any height and width too."""
    return export_program(network, network.arch.input_size, any_size=isinstance(network, DenseNetwork))


def to_onnx(network: AnyNetwork, metadata: Mapping[str, Any] | None = None) -> Any:
    """Return the network as an `onnx.ModelProto` from `images` to `logits`; `metadata` as JSON under `reslab`."""
    return _program_to_onnx(network_program(network), INPUT_NAME, [OUTPUT_NAME], metadata)


def module_to_onnx(
    module: nn.Module,
    input_size: tuple[int, ...],
    *,
    any_size: bool,
    input_name: str,
    output_names: Sequence[str],
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Return a module in eval mode from (batch, *input_size) as an `onnx.ModelProto`; see `export_program`."""
    program = export_program(module, input_size, any_size=any_size)
    return _program_to_onnx(program, input_name, output_names, metadata)


def _program_to_onnx(
    program: ExportedProgram, input_name: str, output_names: Sequence[str], metadata: Mapping[str, Any] | None
) -> Any:
    import onnx

    with suppress_warnings():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[input_name],
            output_names=list(output_names),
            opset_version=_OPSET_VERSION,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _name_axes(model)
    if metadata is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    return model


def _name_axes(model: Any) -> None:
    """Rename the dynamic axes from torch's generated names, such as `s77`, to `batch`, `height` and `width`."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    axes = model.graph.input[0].type.tensor_type.shape.dim
    names = {axes[i].dim_param: name for i, name in _AXIS_NAMES.items() if axes[i].dim_param}
    for value in values:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def to_openvino(network: AnyNetwork, metadata: Mapping[str, Any] | None = None) -> Any:
    """Return the network as a float32 `openvino.Model` with a dynamic batch; `metadata` as JSON in its `rt_info`."""
    openvino = import_openvino()
    with suppress_warnings():
        model = openvino.convert_model(network_program(network))
    sizes = [-1, -1] if isinstance(network, DenseNetwork) else network.arch.height_width
    model.reshape([-1, network.arch.in_channels, *sizes])
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    model.outputs[0].get_tensor().set_names({OUTPUT_NAME})
    if metadata is not None:
        model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
    return model


def import_openvino() -> Any:
    """Import `openvino` without its telemetry.

    The package sends an event to a web analytics service at every import unless `openvino_telemetry` is missing, so it
    is hidden here.
    """
    if "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


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
