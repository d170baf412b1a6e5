"""OpenVINO as an engine: float32, bf16 where the processor has it, int8 with scales measured on pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Answer, Wish
from reslab.deploy.backends.onnxruntime_backend import graph_of
from reslab.deploy.export.bn_folding import fold
from reslab.deploy.export.graphs import import_openvino, openvino_model
from reslab.deploy.extras import need_extra
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import quick_bf16

_HINTS = {"float32": "f32", "bf16": "bf16"}


def prepare(network: ResidualNetwork, wish: Wish) -> Answer:
    """The network as OpenVINO's graph; int8 as the quantised ONNX graph, which OpenVINO runs in int8 too."""
    if wish.precision != "int8":
        return run_model(openvino_model(fold(network).cpu()), wish)
    need_extra("onnx", "int8 with openvino")
    graph = graph_of(network, wish).SerializeToString()
    return run_model(import_openvino().Core().read_model(graph), wish)


def _around_int8() -> str:
    """What is not in int8: bf16 where the processor has it, for speed; else float32."""
    return _HINTS["bf16" if quick_bf16(torch.device("cpu")) else "float32"]


def run_model(model: Any, wish: Wish) -> Answer:
    """A model, or the file of one (.xml, .onnx), compiled for this processor."""
    hints = {
        "INFERENCE_PRECISION_HINT": _HINTS.get(wish.precision) or _around_int8(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": wish.num_threads,
    }
    source = str(model) if isinstance(model, Path) else model
    compiled = import_openvino().Core().compile_model(source, "CPU", hints)
    request = compiled.create_infer_request()

    def answer(x: Tensor) -> Tensor:
        found = request.infer([x.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(found[0].copy())

    return answer
