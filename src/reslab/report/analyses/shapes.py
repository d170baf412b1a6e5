"""How the answers to `shapes` are shown.

How the answers to `cost` are shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import line_styles, overlay_profiles
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_int, format_shape, format_si, pluralize
from reslab.report.plots.depth import plot_depth_profiles

Result_2 = Mapping[str, Any]
_SHORTCUT_PATTERN = re.compile(r"downsample|shortcut|merge\.gate")


def render_shapes(results: Sequence[Result_2]) -> RenderedResult:
    """What every layer sees and gives: receptive field, side of the maps, channels."""
    styles, xlabel = line_styles(results), "layer of the main way, from the input to the output"
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
            plot_depth_profiles(field_profiles, xlabel=xlabel, ylabel="pixels", hline=image_size, as_steps=True),
            "Receptive field of every layer, in pixels of the image along a side, on a logarithmic scale.",
            "What one place sees",
            f"Pixels along a side. The thin line is the image of {image_size} pixels.",
        ),
        RenderedFigure(
            plot_depth_profiles(side_profiles, xlabel=xlabel, ylabel="places", as_steps=True),
            "Side of every layer's maps, on a logarithmic scale.",
            "Side of the maps",
        ),
        RenderedFigure(
            plot_depth_profiles(channel_profiles, xlabel=xlabel, ylabel="channels", as_steps=True),
            "Channels of every layer, on a logarithmic scale.",
            "Channels",
        ),
    )
    paragraphs = tuple(_shapes_text(result) for result in results)
    return RenderedResult(
        "Shapes on the way through", paragraphs, figures, tuple(_render_shapes_table(result) for result in results)
    )


def _shapes_text(result: Result_2) -> str:
    map_layers = _main_path_layers(result)
    input_size = format_shape(result["input_shape"])
    if not map_layers:
        return f"{result['model']}, for {input_size}: {pluralize(len(result['layers']), 'layer')}."
    last_layer = map_layers[-1]
    return (
        f"{result['model']}, for {input_size}: {pluralize(len(result['layers']), 'layer')}. One place of its last map "
        f"({last_layer['name']}, {format_shape(last_layer['output_shape'])}) sees {pluralize(last_layer['receptive_field'], 'pixel')} along a side."
    )


def _main_path_layers(result: Result_2) -> list[Mapping[str, Any]]:
    """The layers on the main way whose places still see a part of the image: no projections, nothing after pooling."""
    return [
        layer
        for layer in result["layers"]
        if len(layer["output_shape"]) == 3 and layer["receptive_field"] and not _SHORTCUT_PATTERN.search(layer["name"])
    ]


def _render_shapes_table(result: Result_2) -> RenderedTable:
    rows = [
        [layer["name"], layer["kind"], format_shape(layer["output_shape"]), str(layer["receptive_field"] or "all")]
        for layer in result["layers"]
    ]
    return RenderedTable(result["model"], ["layer", "kind", "output", "sees pixels"], rows)


Result = Mapping[str, Any]
_COST_COLUMNS = ["parameters", "weights", "multiply-adds", "activations, bytes"]
_COST_KEYS = ("params", "weights", "macs", "activation_bytes")


def render_cost(results: Sequence[Result]) -> RenderedResult:
    """Parameters, multiply-adds and memory of every unit, several networks over each other."""
    measures = (
        ("params", "Parameters", "of each unit or layer, on a logarithmic scale"),
        ("macs", "Multiply-adds for one image", "convolutions and linear layers, on a logarithmic scale"),
        ("activation_bytes", "Memory of the outputs, bytes an image", "float32, on a logarithmic scale"),
    )
    figures = tuple(_render_cost_figure(results, *measure) for measure in measures)
    paragraphs = tuple(_cost_text(result) for result in results)
    tables = tuple(_render_cost_table(result) for result in results)
    return RenderedResult("What the parts cost", paragraphs, figures, (*_render_cost_totals(results), *tables))


def _render_cost_figure(results: Sequence[Result], key: str, title: str, note: str) -> RenderedFigure:
    profiles = overlay_profiles(
        results, line_styles(results), lambda result: [part[key] for part in _cost_parts(result)]
    )
    figure = plot_depth_profiles(profiles, xlabel="unit or layer, from the input to the output")
    return RenderedFigure(figure, f"{title}: {note}.", title, f"{note[0].upper()}{note[1:]}.")


def _cost_parts(result: Result) -> Sequence[Mapping[str, Any]]:
    """The parts; of a single unit its layers."""
    return result["blocks"] if len(result["blocks"]) > 1 else result["layers"]


def _cost_text(result: Result) -> str:
    total = result["total"]
    return (
        f"{result['model']}, for {format_shape(result['input_shape'])}: {format_int(total['params'])} parameters, of them "
        f"{format_int(total['weights'])} weights; {format_si(total['macs'])} multiply-adds and "
        f"{format_si(total['activation_bytes'])}B of outputs an image."
    )


def _render_cost_totals(results: Sequence[Result]) -> list[RenderedTable]:
    if len(results) < 2:
        return []
    rows = [[result["model"], *(format_int(result["total"][key]) for key in _COST_KEYS)] for result in results]
    return [RenderedTable("Together", ["network", *_COST_COLUMNS], rows)]


def _render_cost_table(result: Result) -> RenderedTable:
    rows = [
        [part["name"], *(format_int(part[key]) for key in _COST_KEYS)]
        for part in [*_cost_parts(result), result["total"]]
    ]
    return RenderedTable(result["model"], ["part", *_COST_COLUMNS], rows)
