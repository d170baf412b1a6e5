"""A network as a graph that other programs run: of torch.export, of ONNX, of OpenVINO. The batch stays open."""

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from reslab.nn.network import ResidualNetwork

IMAGES, LOGITS, FACTS = "images", "logits", "reslab"
_OPSET = 18


def trace(network: ResidualNetwork) -> ExportedProgram:
    """The network in eval mode as torch.export sees it: float32 (batch, C, H, W) to logits, any batch from 1 on."""
    device = next(network.parameters()).device
    x = torch.zeros(2, *network.arch.input_size, device=device)
    with torch.no_grad(), _quiet():
        return torch.export.export(network.eval(), (x,), dynamic_shapes=({0: Dim("batch", min=1)},))


def onnx_model(network: ResidualNetwork, facts: Mapping[str, Any] | None = None) -> Any:
    """The network as an `onnx.ModelProto`, input `images`, output `logits`; `facts` as JSON under the key `reslab`."""
    import onnx

    with _quiet():
        program = torch.onnx.export(
            trace(network),
            dynamo=True,
            input_names=[IMAGES],
            output_names=[LOGITS],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_batch(model)
    if facts is not None:
        onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    return model


def _name_batch(model: Any) -> None:
    """torch calls the open side `s77` or the like; a person reads `batch`."""
    shapes = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    given = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in shapes:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param == given:
                side.dim_param = "batch"


def openvino_model(network: ResidualNetwork, facts: Mapping[str, Any] | None = None) -> Any:
    """The network as an `openvino.Model` of float32, only its batch open; `facts` as JSON in its `rt_info`."""
    openvino = import_openvino()
    with _quiet():
        model = openvino.convert_model(trace(network))
    model.reshape([-1, *network.arch.input_size])
    model.inputs[0].get_tensor().set_names({IMAGES})
    model.outputs[0].get_tensor().set_names({LOGITS})
    if facts is not None:
        model.set_rt_info(json.dumps(facts), [FACTS])
    return model


def import_openvino() -> Any:
    """The package `openvino`, kept from telling its maker of its use.

    Its Python part sends an event to a web analytics service at every import. Where the module that sends is absent it
    goes on without, and so it finds it here.
    """
    if "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters say of their own insides is nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
