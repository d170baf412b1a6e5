"""How the answers to `probes` are shown."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from reslab.report.analyses.overlay import line_styles
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_percent, pluralize
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

Result = Mapping[str, Any]


def render_probes(results: Sequence[Result]) -> RenderedResult:
    """What a linear rule reads off each layer, every network on one picture."""
    profiles = [
        DepthProfile(style.label, [100 * probe["accuracy"] for probe in result["probes"]], style.color_index, style.dashed,
                alpha=style.alpha)
        for result, style in zip(results, line_styles(results), strict=True)
    ]  # fmt: skip
    xlabel = "layer, from the input to the output"
    chance = 100 * max(result["chance_accuracy"] for result in results)
    figure = plot_depth_profiles(profiles, log=False, xlabel=xlabel, ylabel="held-out accuracy, %", hline=chance)
    alt_text = "The held-out accuracy of a linear rule on the features of each layer, from the input to the output."
    caption = "Logistic regression on each map's mean. The thin line is always naming the commonest class."
    return RenderedResult(
        "What a linear rule reads off each layer",
        tuple(probes_text(result) for result in results),
        (RenderedFigure(figure, alt_text, "Accuracy of linear probes", caption),),
        tuple(_render_table(result) for result in results),
    )


def probes_text(result: Result) -> str:
    """The first, the best and the last layer, and how much of the rise is gained where."""
    probe_results = result["probes"]
    best = max(reversed(probe_results), key=lambda probe: probe["accuracy"])
    text = f"{result['model']}: {format_percent(probe_results[0]['accuracy'], 1)} of the classes can be read off {probe_results[0]['layer']}"
    if len(probe_results) > 1:
        text += f", {format_percent(probe_results[-1]['accuracy'], 1)} off {probe_results[-1]['layer']}"
        rises = [after["accuracy"] - before["accuracy"] for before, after in pairwise(probe_results)]
        step = max(range(len(rises)), key=lambda i: rises[i])
        if rises[step] > 0:
            text += f"; {probe_results[step + 1]['layer']} adds most ({100 * rises[step]:.1f} points)"
    if best["layer"] not in (probe_results[0]["layer"], probe_results[-1]["layer"]):
        text += f"; the best is {best['layer']} with {format_percent(best['accuracy'], 1)}"
    return text + f". The network itself is right on {format_percent(result['model_accuracy'], 1)}."


def _render_table(result: Result) -> RenderedTable:
    rows = [
        [
            probe["layer"],
            str(probe["num_features"]),
            format_percent(probe["accuracy"], 1),
            format_percent(probe["fit_accuracy"], 1),
        ]
        for probe in result["probes"]
    ]
    samples_text = (
        f"fitted to {pluralize(result['num_fit_images'], 'picture')}, judged on {result['num_images']} others"
    )
    return RenderedTable(
        f"{result['model']}, {samples_text}", ["layer", "features", "accuracy", "on those fitted to"], rows
    )
