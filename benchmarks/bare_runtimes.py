"""The same network in ONNX Runtime and OpenVINO alone, without reslab, with the settings of their own benchmark tools.

Both get the ONNX graph that reslab exports. OpenVINO is compiled for the shape and tuned for latency
(`benchmark_app -hint latency`); ONNX Runtime has all its graph optimizations, and its threads spin while they wait.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions
from reslab.deploy.backends.graph_backends import build_graph
from reslab.nn.network import ResidualNetwork

Step = Callable[[], object]
_OPENVINO_PRECISIONS = {"float32": "f32", "bf16": "bf16"}


def bare_onnxruntime(graph: bytes, precision: str, x: Tensor) -> Step:
    """Return a step that runs a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feeds)


def bare_openvino(graph: bytes, precision: str, x: Tensor) -> Step:
    """Return a step that runs a graph in OpenVINO; what is not int8 in an int8 graph is float32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape(list(x.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS.get(precision, "f32"),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    pixels = x.numpy()
    return lambda: request.infer([pixels], share_inputs=True, share_outputs=True)


RUNTIMES: Mapping[str, Callable[[bytes, str, Tensor], Step]] = {
    "onnxruntime": bare_onnxruntime,
    "openvino": bare_openvino,
}


def bare_step(network: ResidualNetwork, name: str, precision: str, x: Tensor, calibration_images: Tensor) -> Step:
    """Return a step that runs the network's ONNX graph in a runtime of RUNTIMES."""
    graph_precision = "int8" if precision == "int8" else "float32"  # of bf16 the runtime converts the weights
    options = BackendOptions(graph_precision, calibration_images=calibration_images)
    graph: Any = build_graph(network, options)
    return RUNTIMES[name](graph.SerializeToString(), precision, x)
