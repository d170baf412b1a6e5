"""`reslab summary`: a network's layers, parameters, multiply-adds and block layout; its drawing; a table of stages."""

import itertools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    InputSize,
    JsonFlag,
    NumClasses,
    complete_model,
    output_option,
)
from reslab.cli.output import echo_err, print_json, print_pairs, print_table, write_page
from reslab.cli.overrides import ModelOverrides, parse_model_overrides
from reslab.report.format import format_int, format_shape, format_si
from reslab.report.stage_table import StageTable, StageTablePage, render_markdown, render_text, stage_table
from reslab.runtime.files import write_atomic
from reslab.spec.arch import format_convs
from reslab.spec.config import is_toml, to_dict
from reslab.spec.errors import invalid
from reslab.spec.layout import order_text, stem_ops
from reslab.spec.shapes import receptive_field
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import find_dense_arch, override_dense_arch, require_model
from reslab.spec.zoo.resolve import resolve_arch

if TYPE_CHECKING:
    from torch import nn

    from reslab.nn.cost import LayerSummary
    from reslab.spec.arch import Arch
    from reslab.spec.dense import DenseArch


def summary(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Model (`reslab models`), TOML file, run or weights file; several with --stages.",
            autocompletion=complete_model,
        ),
    ],
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FILE", help="Draw the network into a file ending in .svg or .png."),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option("--block", metavar="NAME", help="With --draw: the block to draw, such as layer2.0."),
    ] = None,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="Print the stages of the networks side by side, as Table 1 of He et al. 2015."),
    ] = False,
    output: Annotated[
        Path | None,
        output_option("FILE", "With --stages: write the table to a .md, .html or .txt file."),
    ] = None,
    input_size: InputSize = None,
    num_classes: NumClasses = None,
    overrides: ModelOverrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a network's layers, parameters, multiply-adds, receptive field, block layout and reference.

    Or draw it (--draw), or compare stages of several networks (--stages).
    """
    _check_options(names, draw=draw, block=block, stages=stages, output=output)
    for name in names:
        require_model_or_path(name)
        if (dense_arch := find_dense_arch(name)) is not None:
            if draw is not None or stages:
                got = f"{dense_arch.name}, a network for {dense_arch.kind}"
                raise invalid("a classification network for --draw and --stages", got, dense_arch.backbone.name)
            info = summarize_dense_arch(_override_dense(dense_arch, input_size, num_classes, overrides))
            _print_dense(info, as_json)
            return
    resolved = [resolve_arch_and_input(name, input_size, num_classes, overrides) for name in names]
    if draw is not None:
        _draw(resolved[0][0], draw, block or "", as_json)
    elif stages:
        _print_stages([arch for arch, _ in resolved], output, as_json)
    else:
        _print_summary(summarize_arch(*resolved[0]), as_json)


def _check_options(
    names: list[str], *, draw: Path | None, block: str | None, stages: bool, output: Path | None
) -> None:
    """Raise ValueError for options that do not go together."""
    if draw is not None and stages:
        raise invalid("--draw or --stages", "both", next_step="run the command twice")
    if len(names) > 1 and not stages:
        raise invalid("one model, or --stages", " ".join(names), next_step="add --stages to compare them")
    if block is not None and draw is None:
        raise invalid("--draw FILE with --block", f"--block {block}", f"--draw {block}.svg --block {block}")
    if output is not None and not stages:
        raise invalid("--stages with --output", f"--output {output}", next_step="add --stages")
    if output is not None and output.suffix.lower() not in _TABLE_SUFFIXES:
        raise invalid("a file ending in .md, .html or .txt", output, str(output.with_suffix(".md")))


_TABLE_SUFFIXES = (".md", ".html", ".txt")


def _draw(arch: "Arch", path: Path, block: str, as_json: bool) -> None:
    from reslab.report.drawings.network import make_drawing, write_drawing

    drawing = make_drawing(arch, block)
    write_drawing(drawing, path)
    if as_json:
        print_json({"name": arch.name, "block": block or None, "drawing": str(path)})
    else:
        print(f"{path}: {drawing.title}")


def _print_stages(archs: "list[Arch]", output: Path | None, as_json: bool) -> None:
    """Print the stage table, or write it to a file whose ending says how."""
    table = stage_table(archs, [_count_macs(arch) for arch in archs])
    if output is not None:
        _write_stages(table, output)
    if as_json:
        print_json({"networks": table.to_dicts(), "output": None if output is None else str(output)})
    elif output is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        print(render_text(table, width), end="")


def _write_stages(table: StageTable, output: Path) -> None:
    if output.suffix.lower() == ".html":
        write_page(output, StageTablePage(table))
        return
    render = render_markdown if output.suffix.lower() == ".md" else render_text
    write_atomic(output, render(table).encode())
    echo_err(f"table: {output}")


def _count_macs(arch: "Arch") -> int:
    _, layers = _measure(arch, arch.input_size)
    return sum(layer.macs for layer in layers)


def _measure(arch: "Arch | DenseArch", input_shape: tuple[int, ...]) -> "tuple[nn.Module, list[LayerSummary]]":
    """Return the network, built on the meta device without memory, and the costs of its layers."""
    from reslab.nn.cost import layer_table
    from reslab.nn.factory import create_model
    from reslab.nn.init import init_empty_weights

    with init_empty_weights():
        model = create_model(arch)
    return model, layer_table(model, input_shape)


def _print_summary(info: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print(f"{info['name']}\n")
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
    from reslab.training.checkpoint import load_run_network

    return load_run_network(path).arch


def parse_input_size(text: str) -> tuple[int, ...]:
    """Return `3x224x224` as (3, 224, 224).

    Raises ValueError unless it is channels and one to three sides, all positive whole numbers.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) not in (2, 3, 4) or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise invalid("--input as channels x height x width", repr(text), "3x224x224")
    return tuple(int(part) for part in parts)


def summarize_arch(arch: "Arch", input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return everything that `reslab summary` prints."""
    model, layers = _measure(arch, input_shape)
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


def require_model_or_path(name: str) -> None:
    """Raise ValueError for a text that is no path and names no network of any kind, with the nearest names."""
    if not Path(name).exists():
        require_model(name)


def _override_dense(
    arch: "DenseArch", input_size: str | None, num_classes: int | None, overrides: list[str] | None
) -> "DenseArch":
    axes: dict[str, Any] = dict(parse_model_overrides(overrides))
    axes |= {} if num_classes is None else {"num_classes": num_classes}
    if input_size:
        channels, *sides = parse_input_size(input_size)
        axes |= {"in_channels": channels, "image_size": tuple(sides)}
    return override_dense_arch(arch, axes)


def summarize_dense_arch(arch: "DenseArch") -> dict[str, Any]:
    """Return what `reslab summary` prints of a network for segmentation or detection, by part.

    A detector is counted with as many regions as it evaluates at most.
    """
    model, layers = _measure(arch, arch.input_size)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.numel()
    macs: dict[str, int] = {}
    for layer in layers:
        macs[_part(layer.name)] = macs.get(_part(layer.name), 0) + layer.macs
    return {
        "name": arch.name,
        "kind": arch.kind.value,
        "reference": arch.reference,
        "backbone": arch.backbone.name,
        "input_size": list(arch.input_size),
        "num_classes": arch.num_classes,
        "depth": arch.depth,
        "params": sum(parts.values()),
        "macs": sum(macs.values()),
        "layers": [to_dict(layer) for layer in layers],
        "parts": [{"name": name, "params": params, "macs": macs.get(name)} for name, params in parts.items()],
    }


def _part(name: str) -> str:
    """Return the part of a layer: `backbone.layer1` of `backbone.layer1.0.conv1`, `classifier` of `classifier.0`."""
    return ".".join(itertools.takewhile(lambda word: not word.isdigit(), name.split(".")[:2]))


def _print_dense(info: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print(f"{info['name']}\n")
    rows = [(part["name"], format_int(part["params"]), format_int(part["macs"] or 0)) for part in info["parts"]]
    columns = ["part", "parameters", "multiply-adds"]
    print_table(columns, rows)
    print()
    size = format_shape(info["input_size"])
    macs = f"{format_si(info['macs'])} at {size} (convolutions and linear layers)"
    print_pairs(
        [
            ("kind", f"{info['kind']}, {info['num_classes']} classes"),
            ("backbone", f"{info['backbone']}, {info['depth']} weighted layers"),
            ("input", size),
            ("parameters", format_int(info["params"])),
            ("multiply-adds", macs),
            ("reference", info["reference"]),
        ]
    )


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
