"""Render the analyses of the signal: `scaling`, `orders`, `responses` and `telescope`."""

import math
from collections.abc import Sequence

from reslab.report.analyses.result import (
    LineStyle,
    RenderedFigure,
    RenderedResult,
    RenderedTable,
    Result,
    block_labels,
    line_styles,
    number_rows,
    overlay_profiles,
    render_snapshots,
    shared_names,
    title_for_subject,
)
from reslab.report.format import format_number, format_percent, pluralize
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

_PRODUCT_TOLERANCE = 0.01
_IDENTITY_VERDICTS = {
    "holds": "holds",
    "partly holds": "holds in some blocks",
    "fails": "does not hold",
    "not applicable": "does not apply",
}


def render_scaling(results: Sequence[Result]) -> RenderedResult:
    """Render the product of the shortcut factors beside the measured gradient, and the gates."""
    styles = line_styles(results)
    labeled = [(result, style) for result, style in zip(results, styles, strict=True) if style.label]
    figures = [_render_gradient_ratios(labeled), *_render_gates(results, styles), _render_factors(results, styles)]
    figures += render_snapshots(results, lambda result: result["factor_product"], "Product of all factors")
    paragraphs = (*(_scaling_text(result) for result in results), f"Rule: {results[0]['rule']}")
    return RenderedResult(
        "Shortcut scaling",
        paragraphs,
        tuple(figures),
        tuple(_render_scaling_table(result, block_labels(results)) for result in results),
    )


def _scaling_text(result: Result) -> str:
    decades = result["decades"]
    decades_text = "" if decades is None or math.isinf(decades) else f" (D = {decades:.2f})"
    return (
        f"{result['model']}: {result['verdict']}. The product of all shortcut factors, by which the signal and its "
        f"gradient change through the shortcuts alone, is {format_number(result['factor_product'], 3)}{decades_text}. "
        f"{_measured_gradient_text(result)}"
    )


def _measured_gradient_text(result: Result) -> str:
    """Compare the gradient through the shortcuts with the product; operations after the addition change it."""
    ratios = [
        block["shortcut_gradient"] / block["factor_product"]
        for block in result["blocks"]
        if block["shortcut_gradient"] and block["factor_product"]
    ]
    if not ratios:
        return "No block keeps its shape, so there is no gradient to compare with it."
    low, high = min(ratios), max(ratios)
    if low > 1 - _PRODUCT_TOLERANCE and high < 1 + _PRODUCT_TOLERANCE:
        return "The gradient through them matches the product to 1 %."
    return f"The gradient through them is {format_number(low, 2)} to {format_number(high, 2)} times the product."


def _render_gradient_ratios(labeled: Sequence[tuple[Result, LineStyle]]) -> RenderedFigure:
    profiles: list[DepthProfile] = []
    for result, style in labeled:
        blocks = result["blocks"]
        profiles.append(
            DepthProfile(style.label, [block["shortcut_gradient"] for block in blocks], style.color_index, alpha=0.5)
        )
        profiles.append(DepthProfile("", [block["factor_product"] for block in blocks], style.color_index, dashed=True))
        profiles.append(DepthProfile("", [block["total_gradient"] for block in blocks], style.color_index, dotted=True))
    title = "Gradient at each block over that at the end of its stage"
    caption = "The product of the factors predicts the gradient through the shortcuts. Logarithmic; the thin line is 1."
    stroke_labels = ("through shortcuts alone", "product of the factors", "total")
    return RenderedFigure(
        plot_depth_profiles(
            profiles,
            hline=1.0,
            stroke_labels=stroke_labels,
            names=block_labels([result for result, _ in labeled]),
        ),
        f"{title}, on a logarithmic scale.",
        title,
        caption,
    )


def _render_gates(results: Sequence[Result], styles: Sequence[LineStyle]) -> list[RenderedFigure]:
    gated_results = [result for result in results if any(block["gate_value"] is not None for block in result["blocks"])]
    if not gated_results:
        return []
    profiles = overlay_profiles(results, styles, lambda result: [block["gate_value"] for block in result["blocks"]])
    title = title_for_subject("Mean gate value (sigmoid)", results, gated_results)
    figure = plot_depth_profiles(profiles, log=False, ylabel="gate value", names=block_labels(results))
    return [RenderedFigure(figure, f"{title}, by block.", title)]


def _render_factors(results: Sequence[Result], styles: Sequence[LineStyle]) -> RenderedFigure:
    profiles = overlay_profiles(results, styles, lambda result: [block["branch_factor"] for block in result["blocks"]])
    title = "Factor of each branch at the end of its stage"
    caption = "The product of the factors of all later blocks of the stage (He et al. 2016, Eq. 7)."
    figure = plot_depth_profiles(profiles, hline=1.0, names=block_labels(results))
    return RenderedFigure(figure, f"{title}, on a logarithmic scale.", title, caption)


def _render_scaling_table(result: Result, names: Sequence[str]) -> RenderedTable:
    columns = {
        "factor": "factor",
        "gate": "gate_value",
        "product": "factor_product",
        "through shortcuts": "shortcut_gradient",
        "total": "total_gradient",
        "branch factor": "branch_factor",
    }
    rows = [
        [
            block["label"],
            *(format_number(block[key], 3) for key in columns.values()),
            _format_error(block["error"]),
        ]
        for block in result["blocks"]
    ]
    return RenderedTable(result["model"], ["block", *columns, "error of the sum"], number_rows(rows, names))


def render_orders(results: Sequence[Result]) -> RenderedResult:
    """Render where sums are not preserved, where branches only add, and growth within a stage, for all networks."""
    styles = line_styles(results)
    figures = (
        _render_orders_figure(
            results, styles, "superposition_error", "Error of the residual sum: ||f(a+b) − f(a) − f(b)|| / ||f(a+b)||",
            "a: shortcut, b: branch, f: operations after the addition. 0 where there are none.",
        ),
        _render_orders_figure(
            results, styles, "branch_min", "Minimum of each branch",
            "The thin line is 0. On or above it a branch can only add to the signal.", hline=0.0,
        ),
        _render_orders_figure(
            results, styles, "growth", "Variance of the signal over that of the first output of its stage",
            "Logarithmic; the thin line is 1, no growth.", log=True, hline=1.0,
        ),
        _render_orders_figure(results, styles, "mean", "Mean of the signal", "The thin line is 0.", hline=0.0),
    )  # fmt: skip
    paragraphs = tuple(_orders_text(result) for result in results)
    tables = (
        *_render_orders_summary(results),
        *(_render_orders_table(result, block_labels(results)) for result in results),
    )
    return RenderedResult("Effect of the layout on the signal", paragraphs, figures, tables)


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
    profiles = overlay_profiles(results, styles, lambda result: [block[key] for block in result["blocks"]])
    figure = plot_depth_profiles(profiles, log=log, hline=hline, names=block_labels(results))
    return RenderedFigure(figure, f"{title}, by block.", title, caption)


def _orders_text(result: Result) -> str:
    is_additive = result["max_superposition_error"] < 1e-5
    sums_text = (
        "the residual sum is preserved"
        if is_additive
        else f"the residual sum is off by up to {format_percent(result['max_superposition_error'], 0)}"
    )
    lowest_branch = result["min_branch"]
    branch_text = (
        "its branches only add" if lowest_branch >= 0 else f"its branches go down to {format_number(lowest_branch, 2)}"
    )
    growth = result["max_growth"]
    growth_text = f"grows up to {format_number(growth, 2)} times" if growth > 1 else "does not grow"
    return (
        f"{result['model']} ({result['layout']}): {sums_text}, {branch_text}, and the variance {growth_text} "
        "within a stage."
    )


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
    return [RenderedTable("Summary", ["network", "error of the sum", "minimum of a branch", "growth"], rows)]


def _render_orders_table(result: Result, names: Sequence[str]) -> RenderedTable:
    columns = {
        "error of the sum": "superposition_error",
        "branch min": "branch_min",
        "branch mean": "branch_mean",
        "branch below 0": "branch_negative_fraction",
        "mean": "mean",
        "variance": "variance",
        "growth": "growth",
    }
    rows = [[block["label"], *(format_number(block[key], 3) for key in columns.values())] for block in result["blocks"]]
    return RenderedTable(result["model"], ["block", *columns], number_rows(rows, names))


def render_responses(results: Sequence[Result]) -> RenderedResult:
    """Render the standard deviations in layer order and sorted, as in He et al. 2015, Fig. 7."""
    styles = line_styles(results)
    ordered = overlay_profiles(results, styles, lambda result: [layer["std"] for layer in result["layers"]])
    ranked = overlay_profiles(results, styles, lambda result: result["sorted_std"])
    figures = [
        RenderedFigure(
            plot_depth_profiles(
                ordered,
                log=False,
                from_zero=True,
                xlabel="layer, from input to output",
                ylabel="standard deviation",
                names=shared_names(results, lambda result: [str(layer["label"]) for layer in result["layers"]]),
            ),
            "Standard deviation of each layer's response, from input to output.",
            "Standard deviation of each layer's response",
            "After normalization, before the activation or the addition.",
        ),
        RenderedFigure(
            plot_depth_profiles(
                ranked, log=False, from_zero=True, xlabel="layer, sorted by response", ylabel="standard deviation"
            ),
            "The same standard deviations, largest first.",
            "Sorted",
            "As in He et al. 2015, Figure 7.",
        ),
        *render_snapshots(results, lambda result: result["mean_std"], "Mean response", log=False),
    ]
    paragraphs = (*(_responses_text(result) for result in results), *_normalized_note(results))
    return RenderedResult(
        "Layer responses (std)",
        paragraphs,
        tuple(figures),
        tuple(_render_responses_table(result) for result in results),
    )


def _responses_text(result: Result) -> str:
    largest, smallest = result["sorted_std"][0], result["sorted_std"][-1]
    return (
        f"{result['model']}: {pluralize(len(result['layers']), 'layer')}, mean standard deviation "
        f"{format_number(result['mean_std'], 3)}, from {format_number(smallest, 3)} to {format_number(largest, 3)}."
    )


def _normalized_note(results: Sequence[Result]) -> list[str]:
    """Return a note where all responses after a norm are 1, as before any training."""
    normalized_stds = [layer["std"] for result in results for layer in result["layers"] if layer["after_norm"]]
    if not normalized_stds or max(abs(std - 1) for std in normalized_stds) > 0.02:
        return []
    return ["Every response after a norm is 1, because training has not changed the norm's weights yet."]


def _render_responses_table(result: Result) -> RenderedTable:
    rows = [
        [layer["label"], format_number(layer["std"]), "yes" if layer["after_norm"] else "no"]
        for layer in result["layers"]
    ]
    return RenderedTable(result["model"], ["layer", "standard deviation", "after a norm"], rows)


def render_telescope(results: Sequence[Result]) -> RenderedResult:
    """Render the error of the sum from every block to the end of its stage, and the size of each branch."""
    styles = line_styles(results)
    error_profiles = overlay_profiles(results, styles, lambda result: [block["error"] for block in result["blocks"]])
    share_profiles = overlay_profiles(
        results, styles, lambda result: [block["branch_ratio"] for block in result["blocks"]]
    )
    names = block_labels(results)
    figures = [
        RenderedFigure(
            plot_depth_profiles(error_profiles, hline=1.0, names=names),
            "Relative error of x plus all later branches of the stage, at each block, on a logarithmic scale.",
            "Error of the residual sum: signal + all later branches = signal at the end of the stage",
            "Relative to the norm of the signal, logarithmic. Near 1e-7: rounding. Near 1, the thin line: as large as "
            "the signal. Gaps: blocks that change the shape.",
        ),
        RenderedFigure(
            plot_depth_profiles(share_profiles, log=False, from_zero=True, names=names),
            "Norm of each block's branch over that of its output.",
            "Size of each branch: ||F(x)|| / ||output of the block||",
        ),
        *render_snapshots(results, lambda result: _largest_error(result) or float("nan"), "Largest error"),
    ]
    paragraphs = tuple(_telescope_text(result) for result in results)
    return RenderedResult(
        "Residual identity",
        paragraphs,
        tuple(figures),
        tuple(_render_telescope_table(result, block_labels(results)) for result in results),
    )


def _largest_error(result: Result) -> float | None:
    values = [value for value in (result["max_inexact_error"], result["max_exact_error"]) if value is not None]
    return max(values, default=None)


def _telescope_text(result: Result) -> str:
    verdict_text = f"{result['model']}: the residual identity {_IDENTITY_VERDICTS[result['verdict']]}."
    largest_error = _largest_error(result)
    if largest_error is None:
        return f"{verdict_text} There is no sum to test."
    if result["verdict"] == "holds":
        return (
            f"{verdict_text} The signal at the end of a stage is the one before it plus all branches, to "
            f"{largest_error:.0e} of its norm."
        )
    reason_text = f", because {result['obstacle_text']}" if result["obstacle_text"] else ""
    error = format_number(largest_error, 2)
    return f"{verdict_text} The sum is off by up to {error} of the norm of the signal{reason_text}."


def _render_telescope_table(result: Result, names: Sequence[str]) -> RenderedTable:
    rows = [
        [
            block["label"],
            _format_error(block["error"]),
            "yes" if block["is_exact"] else "no",
            format_number(block["branch_ratio"], 3),
        ]
        for block in result["blocks"]
    ]
    return RenderedTable(
        result["model"], ["block", "error", "should hold", "||F|| / ||output||"], number_rows(rows, names)
    )


def _format_error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
