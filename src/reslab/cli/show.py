"""`reslab show NAME`: what a network is, and its layers as tutorials print them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Json, Settings, read_settings
from reslab.cli.output import print_json, print_pairs, print_table
from reslab.report.format import format_int, format_shape, format_si
from reslab.spec.errors import invalid
from reslab.spec.layout import receptive_field
from reslab.spec.zoo import ARCHS

if TYPE_CHECKING:
    from reslab.spec.arch import Arch


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network (`reslab models`), a run, or its weights.")],
    input_size: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="The input, such as 3x224x224. [default: its own]")
    ] = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="Outputs. [default: its own]")] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Show a network: its unit as a sentence, its layers, parameters and multiply-adds, and where it comes from."""
    arch, sizes = describe(name, input_size, num_classes, settings)
    facts = examine(arch, sizes)
    if json:
        print_json(facts)
        return
    print(f"{arch.name}: {arch.reference}\n")
    print_table(["layer", "kind", "output", "parameters", "multiply-adds"], [_row(layer) for layer in facts["layers"]])
    print()
    print_table(["part", "output", "parameters", "multiply-adds"], _parts(facts["layers"]))
    print()
    print_pairs(_summary(facts))


def describe(
    name: str, input_size: str | None, num_classes: int | None, settings: list[str] | None
) -> tuple["Arch", tuple[int, int, int]]:
    """The architecture with what was overridden, and the input it is shown for: the one given, else its own."""
    from reslab.nn.factory import resolve_arch

    axes = {}
    for key, value in read_settings(settings).items():
        if not key.startswith("model."):
            raise invalid("keys of the network in `reslab show`", f"--set {key}={value}", f"--set model.{key}={value}")
        axes[key.removeprefix("model.")] = value
    if num_classes is not None:
        axes["num_classes"] = str(num_classes)
    sizes = parse_input(input_size) if input_size else None
    if sizes:
        axes.setdefault("in_channels", str(sizes[0]))
        axes.setdefault("image_size", f"{sizes[1]},{sizes[2]}")
    arch = resolve_arch(_saved_arch(name) or name, axes)
    return arch, sizes or arch.input_size


def _saved_arch(name: str) -> "Arch | None":
    """The architecture in the header of a run's weights, where `name` is a path that is there."""
    path = Path(name)
    if name in ARCHS or not path.exists():
        return None
    from reslab.training.run import load

    return load(path).arch


def parse_input(text: str) -> tuple[int, int, int]:
    """`3x224x224` as (3, 224, 224); ValueError for anything that is not three whole numbers from 1."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise invalid("--input as channels x height x width", repr(text), "3x224x224")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def examine(arch: "Arch", sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Everything `reslab show` tells, as plain data; built on the meta device, so that size costs nothing."""
    import torch

    from reslab.nn.cost import layer_table
    from reslab.nn.factory import create_model

    with torch.device("meta"):
        model = create_model(arch)
    layers = layer_table(model, sizes)
    return {
        "name": arch.name,
        "source": arch.reference,
        "input": list(sizes),
        "depth": arch.depth,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": sum(layer.macs for layer in layers),
        "receptive_field": receptive_field(arch),
        "num_units": arch.num_blocks,
        "unit": {"order": arch.order_spec.layout, "branch": arch.convs, "match": arch.shortcut, "mix": arch.merge},
        "stem": " ".join(str(word) for word in arch.stem_ops),
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


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    counts = (
        format_int(layer["params"]) if layer["params"] else "",
        format_int(layer["macs"]) if layer["macs"] else "",
    )
    return (layer["name"], layer["kind"], format_shape(layer["output_shape"]), *counts)


def _parts(layers: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The network stage by stage: what comes out of each part, and what is in it."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        parts.setdefault(layer["name"].partition(".")[0], []).append(layer)
    return [
        (
            name,
            format_shape(inside[-1]["output_shape"]),
            format_int(sum(layer["params"] for layer in inside)),
            format_int(sum(layer["macs"] for layer in inside)),
        )
        for name, inside in parts.items()
    ]


def _summary(facts: dict[str, Any]) -> list[tuple[str, str]]:
    unit = facts["unit"]
    kernels = ", ".join(str(kernel) for kernel in unit["branch"])
    return [
        ("unit", f"{unit['order']}   (kernels {kernels})"),
        ("shortcut", f"match {unit['match']}, mix {unit['mix']}"),
        ("stem, head", f"{facts['stem']} ... {facts['head']}"),
        ("depth", f"{facts['depth']} weighted layers (projections not counted), {facts['num_units']} units"),
        ("parameters", format_int(facts["params"])),
        (
            "multiply-adds",
            f"{format_si(facts['macs'])} at {format_shape(facts['input'])} (convolutions and linear layers)",
        ),
        ("receptive field", f"{facts['receptive_field']} pixels"),
        ("source", facts["source"]),
    ]
