"""`reslab summary`: a network's layers, parameters, multiply-adds and block layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    InputSize,
    JsonFlag,
    ModelOverrides,
    NumClasses,
    complete_model,
    parse_model_overrides,
)
from reslab.cli.output import print_json, print_pairs, print_table
from reslab.report.format import format_int, format_shape, format_si
from reslab.spec.convs import format_convs
from reslab.spec.errors import invalid
from reslab.spec.layout import order_text, receptive_field, stem_ops
from reslab.spec.toml_files import is_toml
from reslab.spec.zoo import ARCHS

if TYPE_CHECKING:
    from reslab.spec.arch import Arch


def summary(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Model (`reslab models`), TOML file, run or weights file.",
            autocompletion=complete_model,
        ),
    ],
    input_size: InputSize = None,
    num_classes: NumClasses = None,
    overrides: ModelOverrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a network's layers, parameters, multiply-adds, receptive field, block layout and reference."""
    arch, input_shape = resolve_arch_and_input(name, input_size, num_classes, overrides)
    info = summarize_arch(arch, input_shape)
    if as_json:
        print_json(info)
        return
    print(f"{arch.name}\n")
    print_table(
        ["layer", "kind", "output", "parameters", "multiply-adds"], [_layer_row(layer) for layer in info["layers"]]
    )
    print()
    print_table(["part", "output", "parameters", "multiply-adds"], _stage_rows(info["layers"]))
    print()
    print_pairs(_summary_rows(info))


def resolve_arch_and_input(
    name: str, input_size: str | None, num_classes: int | None, overrides: list[str] | None
) -> tuple["Arch", tuple[int, ...]]:
    """Return the architecture with its overrides, and the input size: the given one, else the architecture's own."""
    from reslab.spec.zoo.resolve import resolve_arch

    arch_overrides = parse_model_overrides(overrides)
    if num_classes is not None:
        arch_overrides["num_classes"] = str(num_classes)
    input_shape = parse_input_size(input_size) if input_size else None
    if input_shape:
        arch_overrides.setdefault("in_channels", str(input_shape[0]))
        arch_overrides.setdefault("image_size", ",".join(map(str, input_shape[1:])))
        arch_overrides.setdefault("dims", str(len(input_shape) - 1))
    arch = resolve_arch(_load_arch(name) or name, arch_overrides)
    return arch, input_shape or arch.input_size


def _load_arch(name: str) -> "Arch | None":
    """Return the architecture in the header of a run's weights, or None if `name` is no existing path."""
    path = Path(name)
    if name in ARCHS or is_toml(name) or not path.exists():
        return None
    from reslab.training.run import load

    return load(path).arch


def parse_input_size(text: str) -> tuple[int, ...]:
    """Return `3x224x224` as (3, 224, 224).

    Raises ValueError unless it is channels and one to three sides, all positive whole numbers.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) not in (2, 3, 4) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise invalid("--input as channels x height x width", repr(text), "3x224x224")
    return tuple(int(part) for part in parts)


def summarize_arch(arch: "Arch", input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return everything that `reslab summary` prints. The network is built on the meta device, without memory."""
    import torch

    from reslab.nn.cost import layer_table
    from reslab.nn.factory import create_model

    with torch.device("meta"):
        model = create_model(arch)
    layers = layer_table(model, input_shape)
    return {
        "name": arch.name,
        "reference": arch.reference,
        "input_size": list(input_shape),
        "depth": arch.depth,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": sum(layer.macs for layer in layers),
        "receptive_field": receptive_field(arch),
        "num_blocks": arch.num_blocks,
        "block": {
            "order": order_text(arch),
            "convs": format_convs(arch.convs),
            "shortcut": arch.shortcut,
            "merge": arch.merge,
        },
        "stem": " ".join(str(op) for op in stem_ops(arch)),
        "head": arch.head,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "output_shape": list(layer.output_shape),
                "params": layer.params,
                "macs": layer.macs,
            }
            for layer in layers
        ],
    }


def _layer_row(layer: dict[str, Any]) -> tuple[str, ...]:
    counts = (
        format_int(layer["params"]) if layer["params"] else "",
        format_int(layer["macs"]) if layer["macs"] else "",
    )
    return (layer["name"], layer["kind"], format_shape(layer["output_shape"]), *counts)


def _stage_rows(layers: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row per part of the network: stem, stages and head."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        parts.setdefault(layer["name"].partition(".")[0], []).append(layer)
    return [
        (
            name,
            format_shape(part_layers[-1]["output_shape"]),
            format_int(sum(layer["params"] for layer in part_layers)),
            format_int(sum(layer["macs"] for layer in part_layers)),
        )
        for name, part_layers in parts.items()
    ]


def _summary_rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    block = info["block"]
    kernels = ", ".join(str(kernel) for kernel in block["convs"])
    return [
        ("block", f"{block['order']}   (kernels {kernels})"),
        ("shortcut", f"{block['shortcut']}, merge {block['merge']}"),
        ("stem, head", f"{info['stem']} ... {info['head']}"),
        ("depth", f"{info['depth']} weighted layers (projections not counted), {info['num_blocks']} blocks"),
        ("parameters", format_int(info["params"])),
        (
            "multiply-adds",
            f"{format_si(info['macs'])} at {format_shape(info['input_size'])} (convolutions and linear layers)",
        ),
        ("receptive field", f"{info['receptive_field']} pixels"),
        ("reference", info["reference"]),
    ]
