"""How the answers to `lesion` are shown."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reslab.report.analyses.overlay import LineStyle, line_styles, title_for_subject
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_number, format_percent, pluralize
from reslab.report.plots.lesion import (
    DeletionErrors,
    ErrorSamples,
    PathLengths,
    plot_deletion,
    plot_multiple_deletions,
    plot_path_gradients,
    plot_path_lengths,
    plot_permutations,
)

Result = Mapping[str, Any]
_DELETION_CAPTION = "Dashed: the whole network. Crosses: units that cannot be deleted, as nothing else has their shape."


def render_lesion(results: Sequence[Result]) -> RenderedResult:
    """The error without each unit, without several, with units permuted, and the paths; all networks together."""
    pairs = list(zip(results, line_styles(results), strict=True))
    chance = max(result["chance_error"] for result in results)
    figures = [
        _render_deletion(pairs, chance),
        _render_multiple_deletions(pairs, chance),
        _render_permutations(pairs, chance),
        *_render_paths(pairs),
    ]
    return RenderedResult(
        "Units deleted and permuted",
        tuple(sentence for result in results for sentence in lesion_text(result)),
        tuple(figure for figure in figures if figure is not None),
        tuple(table for result in results for table in _render_tables(result)),
    )


def lesion_text(result: Result) -> list[str]:
    """What a reader should take away: the price of one unit, of half of them, and which paths carry the gradient."""
    sentences = [_single_deletion_text(result)]
    half_text = _half_deleted_text(result)
    if half_text:
        sentences.append(half_text)
    if result["paths"]:
        sentences.append(_carrying_paths_text(result))
    return [f"{result['model']}: {sentence}" for sentence in sentences] + [
        str(note).capitalize() + "." for note in result["notes"]
    ]


def _single_deletion_text(result: Result) -> str:
    evaluated = [block for block in result["deletions"] if block["error"] is not None]
    baseline_text = f"{format_percent(result['error'], 1)} of {result['num_images']} pictures wrong"
    if not evaluated:
        return f"{baseline_text}; no unit can be deleted."
    mean_increase = fmean(block["error"] for block in evaluated) - result["error"]
    worst = max(evaluated, key=lambda block: block["error"])
    increase_text = f"deleting one unit costs {_points_text(mean_increase)} on average, at most {_points_text(worst['error'] - result['error'])}"
    return f"{baseline_text}; {increase_text} ({worst['block']})."


def _points_text(fraction: float) -> str:
    return f"{format_number(100 * fraction, 3) if abs(fraction) >= 0.01 else f'{100 * fraction:.1f}'} points"


def _half_deleted_text(result: Result) -> str:
    num_deletable = sum(block["error"] is not None for block in result["deletions"])
    candidates = [deletion for deletion in result["multi_deletions"] if deletion["num_deleted"] <= num_deletable / 2]
    if len(candidates) < 2:
        return ""
    deletion = candidates[-1]
    error = fmean(deletion["errors"])
    return f"without {deletion['num_deleted']} of {num_deletable} units, drawn at random, {format_percent(error, 1)} are wrong."


def _carrying_paths_text(result: Result) -> str:
    """The lengths around the middle that hold nine tenths of the gradient, and their share of the paths."""
    low, high = shortest_carrying_range([path["contribution"] for path in result["paths"]])
    carrying = result["paths"][low : high + 1]
    gradient_fraction, path_fraction = (
        sum(path["contribution"] for path in carrying),
        sum(path["fraction"] for path in carrying),
    )
    mean_length = sum(path["length"] * path["fraction"] for path in result["paths"])
    return (
        f"{format_percent(gradient_fraction, 0)} of the gradient comes along paths of {low} to {high} branches, which are "
        f"{format_percent(path_fraction, 1)} of the paths; the mean path has {format_number(mean_length, 3)} of {len(result['paths']) - 1}."
    )


def shortest_carrying_range(contributions: Sequence[float], min_fraction: float = 0.9) -> tuple[int, int]:
    """The shortest range of lengths that holds at least `least` of the whole."""
    total, indices = sum(contributions), range(len(contributions))
    candidates = [
        (j - i, i, j)
        for i in indices
        for j in indices[i:]
        if sum(contributions[i : j + 1]) >= min_fraction * total - 1e-12
    ]
    _, low, high = min(candidates)
    return low, high


def _render_deletion(pairs: Sequence[tuple[Result, LineStyle]], chance: float) -> RenderedFigure:
    networks = [
        DeletionErrors(
            style.label, result["error"], [block["error"] for block in result["deletions"]], style.color_index
        )
        for result, style in pairs
    ]
    alt_text = "The error with each unit deleted, from the input to the output, against that of the whole network."
    has_missing = any(error is None for network in networks for error in network.errors_without)
    caption = _DELETION_CAPTION if has_missing else _DELETION_CAPTION.split(" Crosses")[0]
    return RenderedFigure(plot_deletion(networks, chance), alt_text, "Error with one unit deleted", caption)


def _render_multiple_deletions(pairs: Sequence[tuple[Result, LineStyle]], chance: float) -> RenderedFigure | None:
    networks = [
        ErrorSamples(
            style.label,
            [(0, [result["error"]])]
            + [(deletion["num_deleted"], deletion["errors"]) for deletion in result["multi_deletions"]],
            style.color_index,
        )
        for result, style in pairs
        if result["multi_deletions"]
    ]
    if not networks:
        return None
    alt_text = "The error against the number of units deleted at random."
    caption = "The mean of the draws, in a band from the least to the most."
    return RenderedFigure(
        plot_multiple_deletions(networks, chance), alt_text, "Error with several units deleted", caption
    )


def _render_permutations(pairs: Sequence[tuple[Result, LineStyle]], chance: float) -> RenderedFigure | None:
    networks = [
        ErrorSamples(
            style.label,
            [(1.0, [result["error"]])]
            + [(permutation["kendall_tau"], [permutation["error"]]) for permutation in result["permutations"]],
            style.color_index,
        )
        for result, style in pairs
        if result["permutations"]
    ]
    if not networks:
        return None
    alt_text = "The error with pairs of units swapped, against Kendall's tau of the order."
    caption = "One dot for each random permutation of units of equal shape."
    return RenderedFigure(plot_permutations(networks, chance), alt_text, "Error with units permuted", caption)


def _render_paths(pairs: Sequence[tuple[Result, LineStyle]]) -> list[RenderedFigure]:
    networks = [_path_lengths(result["paths"], style) for result, style in pairs if result["paths"]]
    if not networks:
        return []
    results = [result for result, _ in pairs]
    results_with_paths = [result for result in results if result["paths"]]
    caption = "Share of the paths of each length (dashed), and of the gradient that they carry (solid)."
    return [
        RenderedFigure(
            plot_path_lengths(networks),
            caption,
            title_for_subject("Which paths carry the gradient", results, results_with_paths),
            caption,
        ),
        RenderedFigure(
            plot_path_gradients(networks),
            "The norm of the gradient along one path, against its length, on a logarithmic scale.",
            title_for_subject("Gradient along one path", results, results_with_paths),
            "The mean of sampled paths, at the first unit's input. Logarithmic scale.",
        ),
    ]


def _path_lengths(paths: Sequence[Result], style: LineStyle) -> PathLengths:
    path_fractions, gradient_norms, gradient_fractions = (
        [path[key] for path in paths] for key in ("fraction", "gradient_norm", "contribution")
    )
    return PathLengths(style.label, path_fractions, gradient_norms, gradient_fractions, style.color_index)


def _render_tables(result: Result) -> list[RenderedTable]:
    rows = [
        [block["block"], format_percent(block["error"], 1), format_number(block["loss"], 3), block["reason"]]
        for block in result["deletions"]
    ]
    has_reasons = any(block["reason"] for block in result["deletions"])
    columns = ["deleted unit", "error", "loss", "why not"][: 4 if has_reasons else 3]
    images_text = f"{pluralize(result['num_images'], 'picture')}{' of ' + result['split'] if result['split'] else ''}"
    baseline_text = (
        f"whole: error {format_percent(result['error'], 1)}, loss {format_number(result['loss'], 3)}, {images_text}"
    )
    return [RenderedTable(f"{result['model']} ({baseline_text})", columns, [row[: len(columns)] for row in rows])]
