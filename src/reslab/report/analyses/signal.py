"""How the answers to `scaling` are shown.

How the answers to `orders` are shown.

How the answers to `responses` are shown.

How the answers to `telescope` are shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import LineStyle, line_styles, overlay_profiles, render_snapshots, title_for_subject
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_number, format_percent, pluralize
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

Result_2 = Mapping[str, Any]
_PRODUCT_TOLERANCE = 0.01


def render_scaling(results: Sequence[Result_2]) -> RenderedResult:
    """The product of the factors beside the gradient that came back, and how open each gate is."""
    styles = line_styles(results)
    labeled = [(result, style) for result, style in zip(results, styles, strict=True) if style.label]
    figures = [_render_gradient_ratios(labeled), *_render_gates(results, styles), _render_factors(results, styles)]
    figures += render_snapshots(results, lambda result: result["factor_product"], "Product of all factors")
    paragraphs = (*(_scaling_text(result) for result in results), f"The rule. {results[0]['rule']}")
    return RenderedResult(
        "What the shortcuts multiply to",
        paragraphs,
        tuple(figures),
        tuple(_render_scaling_table(result) for result in results),
    )


def _scaling_text(result: Result_2) -> str:
    effects = {"exploding": "the signal grows", "vanishing": "the signal fades", "preserved": "the signal is preserved"}
    return (
        f"{result['model']}: {result['verdict']}. The factors of all shortcuts multiply to "
        f"{format_number(result['factor_product'], 3)}: by the shortcuts alone {effects[result['verdict']]}. {_measured_gradient_text(result)}"
    )


def _measured_gradient_text(result: Result_2) -> str:
    """How far the gradient that came back by the shortcuts is from the product; words after the addition change it."""
    ratios = [
        block["shortcut_gradient"] / block["factor_product"]
        for block in result["blocks"]
        if block["shortcut_gradient"] and block["factor_product"]
    ]
    if not ratios:
        return "No unit keeps its shape, so no gradient is held against that."
    low, high = min(ratios), max(ratios)
    if low > 1 - _PRODUCT_TOLERANCE and high < 1 + _PRODUCT_TOLERANCE:
        return "The gradient that came back by them is what the product says, to 1 %."
    return f"The gradient that came back by them is {format_number(low, 2)} to {format_number(high, 2)} times what the product says."


def _render_gradient_ratios(labeled: Sequence[tuple[Result_2, LineStyle]]) -> RenderedFigure:
    profiles: list[DepthProfile] = []
    for result, style in labeled:
        blocks = result["blocks"]
        profiles.append(
            DepthProfile(style.label, [block["shortcut_gradient"] for block in blocks], style.color_index, alpha=0.5)
        )
        profiles.append(DepthProfile("", [block["factor_product"] for block in blocks], style.color_index, dashed=True))
        profiles.append(DepthProfile("", [block["total_gradient"] for block in blocks], style.color_index, dotted=True))
    title = "The gradient at each unit over that at its stage's end"
    caption = "The product of the factors predicts what came by the shortcuts. Logarithmic; the thin line is 1."
    stroke_labels = ("by the shortcuts alone", "the product predicts", "with the branches")
    return RenderedFigure(
        plot_depth_profiles(profiles, hline=1.0, stroke_labels=stroke_labels),
        f"{title}, on a logarithmic scale.",
        title,
        caption,
    )


def _render_gates(results: Sequence[Result_2], styles: Sequence[LineStyle]) -> list[RenderedFigure]:
    gated_results = [result for result in results if any(block["gate_value"] is not None for block in result["blocks"])]
    if not gated_results:
        return []
    profiles = overlay_profiles(results, styles, lambda result: [block["gate_value"] for block in result["blocks"]])
    title = title_for_subject("Mean openness of each gate, the sigmoid", results, gated_results)
    return [RenderedFigure(plot_depth_profiles(profiles, log=False, ylabel="openness"), f"{title}, by unit.", title)]


def _render_factors(results: Sequence[Result_2], styles: Sequence[LineStyle]) -> RenderedFigure:
    profiles = overlay_profiles(results, styles, lambda result: [unit["branch_factor"] for unit in result["blocks"]])
    title = "What multiplies each branch on its way to the stage's end"
    caption = "The product of the factors of all later units of the stage (He et al. 2016, Eq. 7)."
    return RenderedFigure(plot_depth_profiles(profiles, hline=1.0), f"{title}, on a logarithmic scale.", title, caption)


def _render_scaling_table(result: Result_2) -> RenderedTable:
    columns = {
        "factor": "factor",
        "gate": "gate_value",
        "product": "factor_product",
        "by shortcuts": "shortcut_gradient",
    }
    columns |= {"whole": "total_gradient", "branch carries": "branch_factor"}
    rows = [
        [
            block["label"],
            *(format_number(block[key], 3) for key in columns.values()),
            _format_scaling_error(block["error"]),
        ]
        for block in result["blocks"]
    ]
    return RenderedTable(result["model"], ["unit", *columns, "error of the sum"], rows)


def _format_scaling_error(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


Result = Mapping[str, Any]


def render_orders(results: Sequence[Result]) -> RenderedResult:
    """Sums that do not pass, branches that only add, growth within a stage: every order on each picture."""
    styles = line_styles(results)
    figures = (
        _render_orders_figure(
            results, styles, "superposition_error", "Do sums pass? ||after(a+b) − after(a) − after(b)|| over ||after(a+b)||",
            "a: the shortcut, b: the branch. 0 where nothing comes after the addition.",
        ),
        _render_orders_figure(
            results, styles, "branch_min", "The smallest value of each branch",
            "The thin line is 0. On or above it a branch can only add, never take away.", hline=0.0,
        ),
        _render_orders_figure(
            results, styles, "growth", "The signal's variance over that of its stage's first output",
            "Logarithmic; the thin line is 1: no growth.", log=True, hline=1.0,
        ),
        _render_orders_figure(results, styles, "mean", "The signal's mean", "The thin line is 0.", hline=0.0),
    )  # fmt: skip
    paragraphs = tuple(_orders_text(result) for result in results)
    tables = (*_render_orders_summary(results), *(_render_orders_table(result) for result in results))
    return RenderedResult("What the order of words does to the signal", paragraphs, figures, tables)


def _render_orders_figure(
    results: Sequence[Result],
    styles: Sequence[LineStyle],
    key: str,
    title: str,
    caption: str,
    *,
    log: bool = False,
    hline: float | None = None,
) -> RenderedFigure:
    profiles = overlay_profiles(results, styles, lambda result: [unit[key] for unit in result["blocks"]])
    return RenderedFigure(plot_depth_profiles(profiles, log=log, hline=hline), f"{title}, by unit.", title, caption)


def _orders_text(result: Result) -> str:
    is_additive = result["max_superposition_error"] < 1e-5
    sums_text = (
        "sums pass every unit"
        if is_additive
        else f"sums miss by up to {format_percent(result['max_superposition_error'], 0)}"
    )
    lowest_branch = result["min_branch"]
    branch_text = (
        "its branches only add"
        if lowest_branch >= 0
        else f"its branches reach down to {format_number(lowest_branch, 2)}"
    )
    growth = result["max_growth"]
    growth_text = f"grows up to {format_number(growth, 2)} times" if growth > 1 else "does not grow"
    return f"{result['model']} ({result['sentence']}): {sums_text}, {branch_text}, and the variance {growth_text} within a stage."


def _render_orders_summary(results: Sequence[Result]) -> list[RenderedTable]:
    if len(results) < 2:
        return []
    rows = [
        [
            result["model"],
            format_number(result["max_superposition_error"], 2),
            format_number(result["min_branch"], 2),
            format_number(result["max_growth"], 2),
        ]
        for result in results
    ]
    return [RenderedTable("Together", ["network", "sums miss by", "lowest of a branch", "growth"], rows)]


def _render_orders_table(result: Result) -> RenderedTable:
    columns = {"sums miss by": "superposition_error", "branch min": "branch_min", "branch mean": "branch_mean"}
    columns |= {"below 0": "branch_negative_fraction", "mean": "mean", "variance": "variance", "growth": "growth"}
    rows = [[block["label"], *(format_number(block[key], 3) for key in columns.values())] for block in result["blocks"]]
    return RenderedTable(result["model"], ["unit", *columns], rows)


Result_responses = Mapping[str, Any]


def render_responses(results: Sequence[Result_responses]) -> RenderedResult:
    """The standard deviations in layer order and sorted, as He et al. 2015, Fig. 7, has them."""
    styles = line_styles(results)
    ordered = overlay_profiles(results, styles, lambda result: [layer["std"] for layer in result["layers"]])
    ranked = overlay_profiles(results, styles, lambda result: result["sorted_std"])
    figures = [
        RenderedFigure(
            plot_depth_profiles(
                ordered,
                log=False,
                from_zero=True,
                xlabel="layer, from the input to the output",
                ylabel="standard deviation",
            ),
            "Standard deviation of each layer's response, from the input to the output.",
            "Standard deviation of each layer's response",
            "After normalisation, ahead of the nonlinearity or the addition.",
        ),
        RenderedFigure(
            plot_depth_profiles(
                ranked, log=False, from_zero=True, xlabel="layer, sorted by its response", ylabel="standard deviation"
            ),
            "The same standard deviations, the largest first.",
            "The same, sorted",
            "As in He et al. 2015, Figure 7.",
        ),
        *render_snapshots(results, lambda result: result["mean_std"], "Mean response", log=False),
    ]
    paragraphs = (*(_responses_text(result) for result in results), *_normalized_note(results))
    return RenderedResult(
        "How strongly each layer answers",
        paragraphs,
        tuple(figures),
        tuple(_render_responses_table(result) for result in results),
    )


def _responses_text(result: Result_responses) -> str:
    largest, smallest = result["sorted_std"][0], result["sorted_std"][-1]
    return (
        f"{result['model']}: {pluralize(len(result['layers']), 'layer')}, a standard deviation of "
        f"{format_number(result['mean_std'], 3)} in the mean, from {format_number(smallest, 3)} to {format_number(largest, 3)}."
    )


def _normalized_note(results: Sequence[Result_responses]) -> list[str]:
    """A word of caution where all responses are 1 because a norm has just made them so."""
    normalized_stds = [layer["std"] for result in results for layer in result["layers"] if layer["after_norm"]]
    if not normalized_stds or max(abs(std - 1) for std in normalized_stds) > 0.02:
        return []
    return ["Every response behind a norm is 1: that is what a norm does before training has changed its weights."]


def _render_responses_table(result: Result_responses) -> RenderedTable:
    rows = [
        [layer["label"], format_number(layer["std"]), "yes" if layer["after_norm"] else "no"]
        for layer in result["layers"]
    ]
    return RenderedTable(result["model"], ["layer", "standard deviation of the response", "behind a norm"], rows)


Result_telescope = Mapping[str, Any]


def render_telescope(results: Sequence[Result_telescope]) -> RenderedResult:
    """The error of the sum from every unit to its stage's end, and what each branch adds."""
    styles = line_styles(results)
    error_profiles = overlay_profiles(results, styles, lambda result: [unit["error"] for unit in result["blocks"]])
    share_profiles = overlay_profiles(
        results, styles, lambda result: [unit["branch_ratio"] for unit in result["blocks"]]
    )
    figures = [
        RenderedFigure(
            plot_depth_profiles(error_profiles, hline=1.0),
            "Relative error of x plus the sum of branches, from each unit to its stage's end, on a logarithmic scale.",
            "Error of: signal here + all branches from here on = signal at the stage's end",
            "Relative to the signal's norm, logarithmic. Near 1e-7: rounding. Near 1, the thin line: as large as the "
            "signal. A gap: a unit that changes the shape.",
        ),
        RenderedFigure(
            plot_depth_profiles(share_profiles, log=False, from_zero=True),
            "Norm of each unit's branch over that of its output.",
            "What each branch brings: ||F(x)|| over ||unit's output||",
        ),
        *render_snapshots(results, lambda result: _largest_error(result) or float("nan"), "Largest error"),
    ]
    paragraphs = tuple(_telescope_text(result) for result in results)
    return RenderedResult(
        "Does the signal add up?",
        paragraphs,
        tuple(figures),
        tuple(_render_telescope_table(result) for result in results),
    )


def _largest_error(result: Result_telescope) -> float | None:
    values = [value for value in (result["max_inexact_error"], result["max_exact_error"]) if value is not None]
    return max(values, default=None)


def _telescope_text(result: Result_telescope) -> str:
    verdict_text = f"{result['model']}: {result['verdict']}."
    largest_error = _largest_error(result)
    if largest_error is None:
        return f"{verdict_text} There is nothing to add up."
    if result["verdict"] == "holds":
        return f"{verdict_text} The signal at a stage's end is the one before plus all branches, to {largest_error:.0e} of its norm."
    reason_text = f", because {result['obstacle_text']}" if result["obstacle_text"] else ""
    return (
        f"{verdict_text} The sum misses the signal by up to {format_number(largest_error, 2)} of its norm{reason_text}."
    )


def _render_telescope_table(result: Result_telescope) -> RenderedTable:
    rows = [
        [
            block["label"],
            _format_telescope_error(block["error"]),
            "yes" if block["is_exact"] else "no",
            format_number(block["branch_ratio"], 3),
        ]
        for block in result["blocks"]
    ]
    return RenderedTable(result["model"], ["unit", "error", "should hold", "||F|| / ||output||"], rows)


def _format_telescope_error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
