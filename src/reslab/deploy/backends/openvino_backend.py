"""The OpenVINO backend: float32, bf16 if the processor supports it, int8 with scales measured on images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.backends.onnxruntime_backend import build_graph
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.deploy.export.graphs import import_openvino, to_openvino
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import has_fast_bf16
from reslab.runtime.extras import require_extra

_HINTS = {"float32": "f32", "bf16": "bf16"}


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
