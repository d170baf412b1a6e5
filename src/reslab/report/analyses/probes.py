"""Render `probes`: linear probes on the features of each layer."""

from collections.abc import Sequence
from itertools import pairwise

from reslab.report.analyses.overlay import line_styles, shared_names
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_percent, pluralize
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles


def render_probes(results: Sequence[Result]) -> RenderedResult:
    """Render the accuracy of a linear probe on each layer, for all networks."""
    profiles = [
        DepthProfile(
            style.label,
            [100 * probe["accuracy"] for probe in result["probes"]],
            style.color_index,
            dashed=style.dashed,
            alpha=style.alpha,
        )
        for result, style in zip(results, line_styles(results), strict=True)
    ]
    chance = 100 * max(result["chance_accuracy"] for result in results)
    names = shared_names(results, lambda result: [str(probe["layer"]) for probe in result["probes"]])
    figure = plot_depth_profiles(
        profiles,
        log=False,
        xlabel="layer, from input to output",
        ylabel="probe accuracy, %",
        hline=chance,
        names=names,
    )
    alt_text = "Accuracy of a linear probe on the features of each layer, from input to output."
    caption = "Logistic regression on globally averaged features. The thin line is the majority class."
    return RenderedResult(
        "Linear probes",
        tuple(probes_text(result) for result in results),
        (RenderedFigure(figure, alt_text, "Probe accuracy", caption),),
        tuple(_render_table(result) for result in results),
    )


def probes_text(result: Result) -> str:
    """Return the accuracy at the first, the best and the last layer, and where it rises most."""
    probe_results = result["probes"]
    best = max(reversed(probe_results), key=lambda probe: probe["accuracy"])
    first, last = probe_results[0], probe_results[-1]
    text = f"{result['model']}: a probe on {first['layer']} reaches {format_percent(first['accuracy'], 1)} accuracy"
    if len(probe_results) > 1:
        text += f", one on {last['layer']} {format_percent(last['accuracy'], 1)}"
        rises = [after["accuracy"] - before["accuracy"] for before, after in pairwise(probe_results)]
        step = max(range(len(rises)), key=lambda i: rises[i])
        if rises[step] > 0:
            text += f"; {probe_results[step + 1]['layer']} adds most ({100 * rises[step]:.1f} points)"
    if best["layer"] not in (first["layer"], last["layer"]):
        text += f"; the best is {best['layer']} with {format_percent(best['accuracy'], 1)}"
    return text + f". The network itself reaches {format_percent(result['model_accuracy'], 1)}."


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
        f"fitted on {pluralize(result['num_fit_images'], 'image')}, evaluated on {result['num_images']} others"
    )
    return RenderedTable(
        f"{result['model']}, {samples_text}", ["layer", "features", "accuracy", "accuracy on fitted images"], rows
    )
