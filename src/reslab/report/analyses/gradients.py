"""Render `gradients`: the norm of the gradient at each block."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    title_for_subject,
)
from reslab.report.format import format_number
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

_SCALE = "Logarithmic scale; the loss is at the right, the image at the left."


def render_gradients(results: Sequence[Result]) -> RenderedResult:
    """Render the gradient norms of all networks against depth, their shortcut and branch terms, and the verdicts."""
    styles = line_styles(results)
    figures = [
        _render_norms(results, styles, "input_norm", "at each block's input, ||dL/dx||"),
        _render_norms(results, styles, "weight_norm", "at each block's weights, ||dL/dW||"),
    ]
    labeled = [index for index, style in enumerate(styles) if style.label]
    labeled_results, labeled_styles = [results[index] for index in labeled], [styles[index] for index in labeled]
    if any(result["is_residual"] for result in results):
        figures.append(_render_two_terms(labeled_results, labeled_styles))
    if any(block["residual_product"] is not None for result in results for block in result["blocks"]):
        figures.append(_render_predictions(labeled_results, labeled_styles))
    figures += render_snapshots(
        results, lambda result: 10 ** result["slope"]["decades"], "Gradient norm, first block over last"
    )
    paragraphs = (
        *(_verdict_text(result) for result in results),
        *_prediction_texts(labeled_results),
        f"Rule: {results[0]['slope']['rule']}",
    )
    return RenderedResult(
        "Gradient flow",
        paragraphs,
        tuple(figures),
        tuple(_render_table(result, block_labels(results)) for result in results),
    )


def _verdict_text(result: Result) -> str:
    slope = result["slope"]
    if slope["decades"] is None or abs(slope["decades"]) == float("inf"):
        return f"{result['model']}: {slope['verdict']}. The gradient is zero or not finite at some block."
    verb = "grows" if slope["decades"] > 0 else "shrinks"
    factor = slope["factor_per_block"] if slope["decades"] > 0 else 1 / slope["factor_per_block"]
    return (
        f"{result['model']}: {slope['verdict']}. Backwards the gradient {verb} {format_number(factor, 3)} times per "
        f"block, {format_number(10 ** abs(slope['decades']), 2)} times from the last of {len(result['blocks'])} "
        f"blocks to the first (D = {slope['decades']:.2f})."
    )


def _prediction_texts(results: Sequence[Result]) -> list[str]:
    """Compare both predictions with the measured norm at the first block of the residual networks."""
    texts = []
    for result in results:
        first_block = result["blocks"][0]
        if not result["is_residual"] or not first_block["input_norm"]:
            continue
        sum_ratio, product_ratio = (
            first_block[key] / first_block["input_norm"] for key in ("residual_product", "plain_product")
        )
        texts.append(
            f"At the first block of {result['model']} the sum of shortcuts and branches predicts "
            f"{format_number(sum_ratio, 2)} times the measured norm; the product of the branches alone, as in a plain "
            f"network, predicts {format_number(product_ratio, 2)} times."
        )
    return texts


def _render_norms(results: Sequence[Result], styles: Sequence[LineStyle], key: str, location: str) -> RenderedFigure:
    profiles = overlay_profiles(results, styles, lambda result: [block[key] for block in result["blocks"]])
    alt_text = f"Norm of the gradient {location}, on a logarithmic scale, from input to output."
    return RenderedFigure(
        plot_depth_profiles(profiles, names=block_labels(results)), alt_text, f"Norm of the gradient {location}", _SCALE
    )


def _render_two_terms(results: Sequence[Result], styles: Sequence[LineStyle]) -> RenderedFigure:
    """Render the two terms of He et al. 2016, Eq. 5."""
    profiles: list[DepthProfile] = []
    for result, style in zip(results, styles, strict=True):
        if result["is_residual"]:
            measure_profiles = _measure_profiles(result, style, ("shortcut_norm", "branch_norm"))
            profiles += [next(measure_profiles), replace(next(measure_profiles), dashed=True)]
    residual = [result for result in results if result["is_residual"]]
    title = title_for_subject("Norm of the gradient through shortcuts and through branches", results, residual)
    caption = "From the end of the stage to each block (He et al. 2016, Eq. 5). Logarithmic scale."
    figure = plot_depth_profiles(
        profiles, stroke_labels=("through shortcuts alone", "through any branch"), names=block_labels(results)
    )
    return RenderedFigure(figure, f"{title}, on a logarithmic scale.", title, caption)


def _render_predictions(results: Sequence[Result], styles: Sequence[LineStyle]) -> RenderedFigure:
    profiles: list[DepthProfile] = []
    for result, style in zip(results, styles, strict=True):
        measure_profiles = _measure_profiles(result, style, ("input_norm", "residual_product", "plain_product"))
        profiles.append(replace(next(measure_profiles), alpha=0.5 * style.alpha))
        if result["is_residual"]:
            profiles += [replace(next(measure_profiles), dashed=True), replace(next(measure_profiles), dotted=True)]
    title = "||dL/dx|| as predicted by the sum and by the product"
    caption = (
        "Predicted from the gains of the blocks: shortcut and branch added as if orthogonal, or the branches "
        "multiplied as if there were no shortcut. In a plain network the product is exact. Logarithmic scale."
    )
    stroke_labels = ("measured", "sum", "product")
    return RenderedFigure(
        plot_depth_profiles(profiles, stroke_labels=stroke_labels, names=block_labels(results)),
        f"{title} at each block.",
        title,
        caption,
    )


def _measure_profiles(result: Result, style: LineStyle, keys: Sequence[str]) -> Iterator[DepthProfile]:
    """Yield a profile for each measure; only the first has a label."""
    for index, key in enumerate(keys):
        values = [block[key] for block in result["blocks"]]
        yield DepthProfile("" if index else style.label, values, style.color_index, alpha=style.alpha)


def _render_table(result: Result, names: Sequence[str]) -> RenderedTable:
    columns = {"||dL/dx||": "input_norm", "||dL/dW||": "weight_norm"}
    if result["is_residual"]:
        columns |= {"through shortcuts": "shortcut_norm", "through branches": "branch_norm", "cosine": "cosine"}
        columns |= {"sum": "residual_product", "product": "plain_product"}
    rows = [[block["label"], *(format_number(block[key], 3) for key in columns.values())] for block in result["blocks"]]
    return RenderedTable(result["model"], ["block", *columns], number_rows(rows, names))
