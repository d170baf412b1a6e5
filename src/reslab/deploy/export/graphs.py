"""Conversion of a network to an ONNX graph or an OpenVINO model, with any batch size."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from reslab.nn.dense import DenseNetwork
from reslab.nn.graph_file import export_program, suppress_warnings
from reslab.nn.module_network import AnyNetwork

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
