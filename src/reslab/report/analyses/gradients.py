"""How the answers to `gradients` are shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reslab.report.analyses.overlay import LineStyle, line_styles, overlay_profiles, render_snapshots, title_for_subject
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_number
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

_SCALE = "Logarithmic scale; the loss sits at the right, the image at the left."


def render_gradients(results: Sequence[Mapping[str, Any]]) -> RenderedResult:
    """Norms of the gradient against depth, every network on one picture, the two ways it came, and the verdicts."""
    styles = line_styles(results)
    figures = [
        _render_norms(results, styles, "input_norm", "at each unit's input, ||dL/dx||"),
        _render_norms(results, styles, "weight_norm", "at each unit's weights, ||dL/dW||"),
    ]
    labeled = [index for index, style in enumerate(styles) if style.label]
    labeled_results, labeled_styles = [results[index] for index in labeled], [styles[index] for index in labeled]
    if any(result["is_residual"] for result in results):
        figures.append(_render_two_terms(labeled_results, labeled_styles))
    if any(block["residual_product"] is not None for result in results for block in result["blocks"]):
        figures.append(_render_predictions(labeled_results, labeled_styles))
    figures += render_snapshots(
        results, lambda result: 10 ** result["slope"]["decades"], "Gradient, first unit over last"
    )
    paragraphs = (
        *(_verdict_text(result) for result in results),
        *_prediction_texts(labeled_results),
        f"The rule. {results[0]['slope']['rule']}",
    )
    return RenderedResult(
        "The loss's gradient at each unit",
        paragraphs,
        tuple(figures),
        tuple(_render_table(result) for result in results),
    )


def _verdict_text(result: Mapping[str, Any]) -> str:
    slope = result["slope"]
    if slope["decades"] is None or abs(slope["decades"]) == float("inf"):
        return f"{result['model']}: {slope['verdict']}. The gradient is zero or no finite number at some unit."
    verb = "grows" if slope["decades"] > 0 else "shrinks"
    factor = slope["factor_per_block"] if slope["decades"] > 0 else 1 / slope["factor_per_block"]
    return (
        f"{result['model']}: {slope['verdict']}. On the way back the gradient {verb} {format_number(factor, 3)} times a "
        f"unit, {format_number(10 ** abs(slope['decades']), 2)} times from the last of {len(result['blocks'])} units to the "
        f"first (D = {slope['decades']:.2f})."
    )


def _prediction_texts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well either prediction meets what was measured at the first unit of the residual networks."""
    texts = []
    for result in results:
        first_block = result["blocks"][0]
        if not result["is_residual"] or not first_block["input_norm"]:
            continue
        sum_ratio, product_ratio = (
            first_block[key] / first_block["input_norm"] for key in ("residual_product", "plain_product")
        )
        texts.append(
            f"At the first unit of {result['model']} the sum over shortcuts and branches predicts "
            f"{format_number(sum_ratio, 2)} times the measured norm; the product of the branches alone, as in a plain network, "
            f"{format_number(product_ratio, 2)} times."
        )
    return texts


def _render_norms(
    results: Sequence[Mapping[str, Any]], styles: Sequence[LineStyle], key: str, location: str
) -> RenderedFigure:
    profiles = overlay_profiles(results, styles, lambda result: [unit[key] for unit in result["blocks"]])
    alt_text = f"Norm of the gradient {location}, on a logarithmic scale, from the input to the output."
    return RenderedFigure(plot_depth_profiles(profiles), alt_text, f"Norm of the gradient {location}", _SCALE)


def _render_two_terms(results: Sequence[Mapping[str, Any]], styles: Sequence[LineStyle]) -> RenderedFigure:
    """The two terms of Eq. 5."""
    profiles: list[DepthProfile] = []
    for result, style in zip(results, styles, strict=True):
        if result["is_residual"]:
            measure_profiles = _measure_profiles(result, style, ("shortcut_norm", "branch_norm"))
            profiles += [next(measure_profiles), replace(next(measure_profiles), dashed=True)]
    residual = [result for result in results if result["is_residual"]]
    title = title_for_subject("Norm of the gradient by the two ways back", results, residual)
    caption = "From the stage's end to each unit (He et al. 2016, Eq. 5). Logarithmic scale."
    figure = plot_depth_profiles(profiles, stroke_labels=("by the shortcuts alone", "through any branch"))
    return RenderedFigure(figure, f"{title}, on a logarithmic scale.", title, caption)


def _render_predictions(results: Sequence[Mapping[str, Any]], styles: Sequence[LineStyle]) -> RenderedFigure:
    profiles: list[DepthProfile] = []
    for result, style in zip(results, styles, strict=True):
        measure_profiles = _measure_profiles(result, style, ("input_norm", "residual_product", "plain_product"))
        profiles.append(replace(next(measure_profiles), alpha=0.5 * style.alpha))
        if result["is_residual"]:
            profiles += [replace(next(measure_profiles), dashed=True), replace(next(measure_profiles), dotted=True)]
    title = "What a sum and what a product predict of ||dL/dx||"
    caption = (
        "From the gains of each unit alone: shortcut and branch added at right angles, or the branches multiplied, as "
        "if there were no shortcut. In a plain network the product is exact. Logarithmic scale."
    )
    stroke_labels = ("measured", "the sum predicts", "the product predicts")
    return RenderedFigure(
        plot_depth_profiles(profiles, stroke_labels=stroke_labels), f"{title} at each unit.", title, caption
    )


def _measure_profiles(result: Mapping[str, Any], style: LineStyle, keys: Sequence[str]) -> Iterator[DepthProfile]:
    """A line for each measure, the first of them named."""
    for index, key in enumerate(keys):
        values = [block[key] for block in result["blocks"]]
        yield DepthProfile("" if index else style.label, values, style.color_index, alpha=style.alpha)


def _render_table(result: Mapping[str, Any]) -> RenderedTable:
    columns = {"||dL/dx||": "input_norm", "||dL/dW||": "weight_norm"}
    if result["is_residual"]:
        columns |= {"by shortcuts": "shortcut_norm", "by branches": "branch_norm", "cosine": "cosine"}
        columns |= {"sum predicts": "residual_product", "product predicts": "plain_product"}
    rows = [[block["label"], *(format_number(block[key], 3) for key in columns.values())] for block in result["blocks"]]
    return RenderedTable(result["model"], ["unit", *columns], rows)
