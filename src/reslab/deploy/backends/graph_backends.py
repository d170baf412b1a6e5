"""The backends that run a graph, ONNX Runtime and OpenVINO: float32, and int8 with scales measured on images.

OpenVINO also computes in bf16 where the processor supports it. ONNX Runtime runs detectors, too: torchvision's
detector, with its networks replaced by the graphs of an export.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.deploy.backends.backend import BackendOptions, DetectFn, ForwardFn
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.deploy.export.graphs import (
    BOX_GRAPH,
    INPUT_NAME,
    MAIN_GRAPH,
    MASK_GRAPH,
    detector_to_onnx,
    file_name,
    graph_names,
    import_openvino,
    num_levels,
    to_onnx,
    to_openvino,
)
from reslab.deploy.export.quantization import quantize
from reslab.nn.dense import DenseNetwork
from reslab.nn.dense_factory import build_dense_network
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import deterministic_mode, has_fast_bf16
from reslab.runtime.extras import require_extra
from reslab.spec.dense import DetectionArch
from reslab.spec.errors import invalid

_HINTS = {"float32": "f32", "bf16": "bf16"}


def build_onnxruntime_forward(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    """Return the forward function of the network as an ONNX graph in memory."""
    return onnx_forward(build_graph(network, options).SerializeToString(), options)


def build_graph(network: AnyNetwork, options: BackendOptions) -> Any:
    """Return the network with folded batch norms as a ModelProto. ValueError for int8 without calibration images."""
    model = to_onnx(fold_batch_norms(network).cpu())
    if options.precision != "int8":
        return model
    if options.calibration_images is None:
        raise invalid("images to measure the scales of int8 on", "none", next_step="name a dataset: --data NAME|FOLDER")
    return quantize(model, options.calibration_images, network)


def onnx_forward(graph: bytes | Path, options: BackendOptions) -> ForwardFn:
    """Return the forward function of a graph, given as a file or its bytes."""
    session = open_session(graph, options)

    def forward(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT_NAME: x.contiguous().numpy()})
        return torch.from_numpy(logits)

    return forward


def open_session(graph: bytes | Path, options: BackendOptions) -> Any:
    """Return the `onnxruntime.InferenceSession` of a graph, given as a file or its bytes."""
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.num_threads
    session_options.inter_op_num_threads = 1
    session_options.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spin_threads)))
    session_options.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, session_options, providers=["CPUExecutionProvider"])


def build_openvino_forward(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    """Return the forward function of an OpenVINO graph; for int8 of the quantized ONNX graph, run by OpenVINO."""
    if options.precision != "int8":
        return openvino_forward(to_openvino(fold_batch_norms(network).cpu()), options)
    require_extra("onnx", "int8 with openvino")
    graph = build_graph(network, options).SerializeToString()
    return openvino_forward(import_openvino().Core().read_model(graph), options)


def _int8_fallback_hint() -> str:
    """Return the precision of the layers that are not int8: bf16 if the processor supports it, else float32."""
    return _HINTS["bf16" if has_fast_bf16(torch.device("cpu")) else "float32"]


def openvino_forward(model: Any, options: BackendOptions) -> ForwardFn:
    """Return the forward function of a model or model file (.xml, .onnx), compiled for this processor."""
    hints = {
        "INFERENCE_PRECISION_HINT": _HINTS.get(options.precision) or _int8_fallback_hint(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.num_threads,
    }
    source = str(model) if isinstance(model, Path) else model
    compiled_model = import_openvino().Core().compile_model(source, "CPU", hints)
    request = compiled_model.create_infer_request()

    def forward(x: Tensor) -> Tensor:
        outputs = request.infer([x.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0].copy())

    return forward


GraphFn = Callable[[Tensor], list[Tensor]]
_MASK_SIZE = 28  # of the logits of a mask, twice that of a pooled region


class _Levels(nn.Module):
    """In place of backbone and head: runs the graph once, keeps what the head returns, and returns the maps."""

    def __init__(self, graph: GraphFn, levels: int) -> None:
        super().__init__()
        self.graph, self.levels = graph, levels
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.outputs = self.graph(x)
        return OrderedDict((str(level), self.outputs[level]) for level in range(self.levels))


class _Proposals(nn.Module):
    """In place of the proposal head: objectness and box regressions of the maps that `levels` has returned."""

    def __init__(self, levels: _Levels) -> None:
        super().__init__()
        self.source = [levels]  # not registered, because it is a part of the detector already

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (source,) = self.source
        outputs, count = source.outputs, source.levels
        return outputs[count : 2 * count], outputs[2 * count :]


class _AnchorHead(nn.Module):
    """In place of RetinaNet's head: the raw maps of the levels as class logits (N, A, K) and regressions (N, A, 4)."""

    def __init__(self, levels: _Levels, num_classes: int) -> None:
        super().__init__()
        self.source, self.num_classes = [levels], num_classes

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        (source,) = self.source
        outputs, count = source.outputs, source.levels
        return {
            "cls_logits": _to_anchors(outputs[:count], self.num_classes),
            "bbox_regression": _to_anchors(outputs[count:], 4),
        }


def _to_anchors(maps: list[Tensor], length: int) -> Tensor:
    """Return maps (N, A * length, H, W) as (N, all H * W * A, length), in the order of the anchors."""
    rows = [one.unflatten(1, (-1, length)).permute(0, 3, 4, 1, 2).flatten(1, 3) for one in maps]
    return torch.cat(rows, 1)


class _Regions(nn.Module):
    """In place of a head of regions: the outputs of its graph, without regions empty ones of these shapes."""

    def __init__(self, graph: GraphFn, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.graph, self.shapes = graph, shapes

    def forward(self, regions: Tensor) -> Any:
        outputs = self.graph(regions) if len(regions) else [torch.zeros(0, *shape) for shape in self.shapes]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def graph_detector(arch: DetectionArch, graphs: Mapping[str, GraphFn]) -> DetectFn:
    """Return the function of a detector whose networks are graphs. Calls wait for each other."""
    detector: Any = build_dense_network(arch).eval()  # of which only what has no weights is kept
    levels = _Levels(graphs[MAIN_GRAPH], num_levels(arch))
    detector.backbone = levels
    if BOX_GRAPH not in graphs:
        detector.head = _AnchorHead(levels, arch.num_classes)
    else:
        shapes = ((arch.num_classes,), (4 * arch.num_classes,))
        detector.rpn.head = _Proposals(levels)
        detector.roi_heads.box_head = _Regions(graphs[BOX_GRAPH], shapes)
        detector.roi_heads.box_predictor = nn.Identity()
    if MASK_GRAPH in graphs:
        shape = (arch.num_classes, _MASK_SIZE, _MASK_SIZE)
        detector.roi_heads.mask_head = _Regions(graphs[MASK_GRAPH], (shape,))
        detector.roi_heads.mask_predictor = nn.Identity()
    lock = threading.Lock()

    def detect(x: Tensor) -> list[dict[str, Tensor]]:
        with lock, torch.inference_mode(), deterministic_mode():
            detections: list[dict[str, Tensor]] = detector(list(x))
            return detections

    return detect


def build_onnx_detector(network: DenseNetwork, num_threads: int) -> DetectFn:
    """Return the function of a detector by ONNX Runtime, from graphs in memory."""
    arch = network.arch
    assert isinstance(arch, DetectionArch)
    models = detector_to_onnx(network)
    graphs = {name: _session(model.SerializeToString(), num_threads) for name, model in models.items()}
    return graph_detector(arch, graphs)


def open_onnx_detector(path: Path, arch: DetectionArch, num_threads: int) -> DetectFn:
    """Return the function of an exported detector. Raises ValueError for a graph that is missing or damaged."""
    graphs = {}
    for name in graph_names(arch):
        file = path.with_name(file_name(path.name, name))
        try:
            graphs[name] = _session(file, num_threads)
        except Exception as error:  # the runtime raises its own classes
            step = "keep the files of the export together, or export the detector again"
            raise invalid(f"the graph {file.name} of the detector", str(error)[:200], next_step=step) from error
    return graph_detector(arch, graphs)


def _session(source: bytes | Path, num_threads: int) -> GraphFn:
    session = open_session(source, BackendOptions(num_threads=num_threads))
    input_name = session.get_inputs()[0].name

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {input_name: x.contiguous().numpy()})]

    return run
