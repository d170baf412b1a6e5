"""The backends that run a graph, ONNX Runtime and OpenVINO: float32, and int8 with scales measured on images.

OpenVINO also computes in bf16 where the processor supports it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.deploy.export.graphs import INPUT_NAME, import_openvino, to_onnx, to_openvino
from reslab.deploy.export.quantization import quantize
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import has_fast_bf16
from reslab.runtime.extras import require_extra
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
