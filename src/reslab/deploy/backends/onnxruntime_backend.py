"""ONNX Runtime as an engine: float32, or int8 with scales measured on pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Answer, Wish
from reslab.deploy.export.bn_folding import fold
from reslab.deploy.export.graphs import IMAGES, onnx_model
from reslab.deploy.export.quantization import quantise
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid


def prepare(network: ResidualNetwork, wish: Wish) -> Answer:
    """The network as an ONNX graph in memory, run by a session of its own."""
    return run_graph(graph_of(network, wish).SerializeToString(), wish)


def graph_of(network: ResidualNetwork, wish: Wish) -> Any:
    """The folded network as a ModelProto in the precision asked for. ValueError for int8 without pictures."""
    model = onnx_model(fold(network).cpu())
    if wish.precision != "int8":
        return model
    if wish.images is None:
        raise invalid(
            "images to measure the scales of int8 on", "none", next_step="name a data set: --data NAME|FOLDER"
        )
    return quantise(model, wish.images, network)


def run_graph(graph: bytes | Path, wish: Wish) -> Answer:
    """The graph of a file, or of its bytes, as a session of ONNX Runtime runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wish.num_threads
    options.inter_op_num_threads = 1
    # While they wait, threads that spin take the processor from those that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def answer(x: Tensor) -> Tensor:
        (found,) = session.run(None, {IMAGES: x.contiguous().numpy()})
        return torch.from_numpy(found)

    return answer
