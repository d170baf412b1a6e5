"""The ONNX Runtime backend: float32, or int8 with scales measured on images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.deploy.export.graphs import INPUT_NAME, to_onnx
from reslab.deploy.export.quantization import quantize
from reslab.nn.module_network import AnyNetwork
from reslab.spec.errors import invalid


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
    # Waiting threads that spin would take the processor from the threads that decode images.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session_options.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, session_options, providers=["CPUExecutionProvider"])
