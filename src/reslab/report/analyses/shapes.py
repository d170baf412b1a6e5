"""Render `shapes` (receptive field, feature-map size, channels) and `cost` (parameters, FLOPs, memory)."""

import re
from collections.abc import Sequence

from reslab.report.analyses.result import (
    RenderedFigure,
    RenderedResult,
    RenderedTable,
    Result,
    line_styles,
    overlay_profiles,
    shared_names,
)
from reslab.report.format import format_int, format_number, format_percent, format_shape, format_si, pluralize
from reslab.report.plots.depth import plot_depth_profiles

_SHORTCUT_PATTERN = re.compile(r"downsample|shortcut|merge\.gate")


def render_shapes(results: Sequence[Result]) -> RenderedResult:
    """Render the receptive field, the feature-map size and the channels of every layer on the main path."""
    styles, xlabel = line_styles(results), "layer on the main path, from input to output"
    names = shared_names(results, lambda result: [str(layer["name"]) for layer in _main_path_layers(result)])
    field_profiles = overlay_profiles(
        results, styles, lambda result: [layer["receptive_field"] for layer in _main_path_layers(result)]
    )
    side_profiles = overlay_profiles(
        results, styles, lambda result: [layer["output_shape"][-1] for layer in _main_path_layers(result)]
    )
    channel_profiles = overlay_profiles(
        results, styles, lambda result: [layer["output_shape"][0] for layer in _main_path_layers(result)]
    )
    image_size = max(results[0]["input_shape"][1:])
    figures = (
        RenderedFigure(
            plot_depth_profiles(
                field_profiles, xlabel=xlabel, ylabel="pixels", hline=image_size, as_steps=True, names=names
            ),
            "Receptive field of every layer, in image pixels a side, on a logarithmic scale.",
            "Receptive field",
            f"In pixels a side. The thin line is the size of the image, {image_size} pixels.",
        ),
        RenderedFigure(
            plot_depth_profiles(side_profiles, xlabel=xlabel, ylabel="pixels", as_steps=True, names=names),
            "Feature-map size of every layer, on a logarithmic scale.",
            "Feature-map size",
        ),
        RenderedFigure(
            plot_depth_profiles(channel_profiles, xlabel=xlabel, ylabel="channels", as_steps=True, names=names),
            "Channels of every layer, on a logarithmic scale.",
            "Channels",
        ),
    )
    paragraphs = tuple(_shapes_text(result) for result in results)
    return RenderedResult(
        "Shapes and receptive fields", paragraphs, figures, tuple(_render_shapes_table(result) for result in results)
    )


def _shapes_text(result: Result) -> str:
    map_layers = _main_path_layers(result)
    input_size = format_shape(result["input_shape"])
    if not map_layers:
        return f"{result['model']}, for {input_size}: {pluralize(len(result['layers']), 'layer')}."
    last_layer = map_layers[-1]
    return (
        f"{result['model']}, for {input_size}: {pluralize(len(result['layers']), 'layer')}. Receptive field: "
        f"{last_layer['receptive_field']} px at the last feature map ({last_layer['name']}, "
        f"{format_shape(last_layer['output_shape'])})."
    )


def _main_path_layers(result: Result) -> list[Result]:
    """Return the layers on the main path with a limited receptive field: no projections, nothing after pooling."""
    return [
        layer
        for layer in result["layers"]
        if len(layer["output_shape"]) == 3 and layer["receptive_field"] and not _SHORTCUT_PATTERN.search(layer["name"])
    ]


def _render_shapes_table(result: Result) -> RenderedTable:
    rows = [
        [layer["name"], layer["kind"], format_shape(layer["output_shape"]), str(layer["receptive_field"] or "all")]
        for layer in result["layers"]
    ]
    return RenderedTable(result["model"], ["layer", "kind", "output", "receptive field, px"], rows)


_COST_COLUMNS = ["parameters", "weights", "multiply-adds", "activations, bytes"]
_COST_KEYS = ("params", "weights", "macs", "activation_bytes")


def render_cost(results: Sequence[Result]) -> RenderedResult:
    """Render the parameters, multiply-adds and memory of every block, for all networks."""
    measures = (
        ("params", "Parameters", "of each block or layer, on a logarithmic scale"),
        ("macs", "Multiply-adds for one image", "convolutions and linear layers, on a logarithmic scale"),
        ("activation_bytes", "Activation memory, bytes per image", "float32, on a logarithmic scale"),
    )
    figures = tuple(_render_cost_figure(results, *measure) for measure in measures)
    paragraphs = tuple(_cost_text(result) for result in results)
    tables = tuple(_render_cost_table(result) for result in results)
    tables = (*(_render_part_table(result) for result in results if result["parts"]), *tables)
    return RenderedResult("Size and cost", paragraphs, figures, (*_render_cost_totals(results), *tables))


def _render_cost_figure(results: Sequence[Result], key: str, title: str, note: str) -> RenderedFigure:
    profiles = overlay_profiles(
        results, line_styles(results), lambda result: [part[key] for part in _cost_parts(result)]
    )
    names = shared_names(results, lambda result: [str(part["name"]) for part in _cost_parts(result)])
    figure = plot_depth_profiles(profiles, xlabel="block or layer, from input to output", names=names)
    return RenderedFigure(figure, f"{title}: {note}.", title, f"{note[0].upper()}{note[1:]}.")


def _cost_parts(result: Result) -> Sequence[Result]:
    """Return the blocks with stem and head, or the layers of a network without blocks."""
    return result["blocks"] if len(result["blocks"]) > 1 else result["layers"]


def _cost_text(result: Result) -> str:
    total = result["total"]
    return (
        f"{result['model']}, for {format_shape(result['input_shape'])}: {format_int(total['params'])} parameters, "
        f"{format_int(total['weights'])} of them weights; {format_si(total['macs'])} multiply-adds and "
        f"{format_si(total['activation_bytes'])}B of activations per image."
    )


def _render_cost_totals(results: Sequence[Result]) -> list[RenderedTable]:
    if len(results) < 2:
        return []
    rows = [[result["model"], *(format_int(result["total"][key]) for key in _COST_KEYS)] for result in results]
    return [RenderedTable("Totals", ["network", *_COST_COLUMNS], rows)]


def _render_part_table(result: Result) -> RenderedTable:
    """Render the parts of a network for segmentation or detection, with their times where they were measured."""
    parts = result["parts"]
    seconds = [part["seconds"] for part in parts if part["seconds"] is not None]
    columns = ["part", "parameters", "multiply-adds", "activations, bytes", "time, ms", "time, %"]
    rows = [
        [
            part["name"],
            *(format_int(part[key]) for key in ("params", "macs", "activation_bytes")),
            format_number(None if part["seconds"] is None else 1000 * part["seconds"], 3),
            format_percent(None if part["seconds"] is None else part["seconds"] / sum(seconds), 0),
        ]
        for part in parts
    ]
    end = None if seconds else 4
    return RenderedTable(f"{result['model']}, by part", columns[:end], [row[:end] for row in rows])


def _render_cost_table(result: Result) -> RenderedTable:
    rows = [
        [part["name"], *(format_int(part[key]) for key in _COST_KEYS)]
        for part in [*_cost_parts(result), result["total"]]
    ]
    return RenderedTable(result["model"], ["part", *_COST_COLUMNS], rows)
