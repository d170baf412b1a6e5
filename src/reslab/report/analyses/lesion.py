"""Render `lesion`: the error with blocks deleted or permuted, and the gradient by path length."""

from collections.abc import Sequence
from statistics import fmean

from reslab.report.analyses.result import (
    LineStyle,
    RenderedFigure,
    RenderedResult,
    RenderedTable,
    Result,
    line_styles,
    number_rows,
    shared_names,
    title_for_subject,
)
from reslab.report.format import format_number, format_percent, format_split, pluralize
from reslab.report.plots.depth import (
    DeletionErrors,
    ErrorAxis,
    ErrorSamples,
    PathLengths,
    error_axis,
    plot_deletion,
    plot_multiple_deletions,
    plot_path_gradients,
    plot_path_lengths,
    plot_permutations,
)

_DELETION_CAPTION = "Dashed: the intact network."
_MISSING_CAPTION = " Crosses: blocks that cannot be deleted, because they change the shape."


def render_lesion(results: Sequence[Result]) -> RenderedResult:
    """Render the error without one block, without several, with blocks permuted, and the paths, for all networks."""
    pairs = list(zip(results, line_styles(results), strict=True))
    chances = [result["chance_error"] for result in results if result["chance_error"] is not None]
    errors, measure = [error for result in results for error in _all_errors(result)], results[0]["measure"]
    axis = error_axis(errors, measure["title"], measure["is_fraction"], max(chances, default=None))
    figures = [
        _render_deletion(pairs, axis),
        _render_multiple_deletions(pairs, axis),
        _render_permutations(pairs, axis),
        *_render_paths(pairs),
    ]
    return RenderedResult(
        "Block ablation",
        tuple(sentence for result in results for sentence in lesion_text(result)),
        tuple(figure for figure in figures if figure is not None),
        tuple(table for result in results for table in _render_tables(result, _deleted_names(results))),
    )


def lesion_text(result: Result) -> list[str]:
    """Return the cost of deleting one block and half of them, and which paths carry the gradient."""
    sentences = [_single_deletion_text(result)]
    half_text = _half_deleted_text(result)
    if half_text:
        sentences.append(half_text)
    if result["paths"]:
        sentences.append(_carrying_paths_text(result))
    return [f"{result['model']}: {sentence}" for sentence in sentences] + [
        str(note).capitalize() + "." for note in result["notes"]
    ]


def _all_errors(result: Result) -> list[float]:
    errors = [result["error"], *(block["error"] for block in result["deletions"] if block["error"] is not None)]
    errors += [error for deletion in result["multi_deletions"] for error in deletion["errors"]]
    return errors + [permutation["error"] for permutation in result["permutations"]]


def _single_deletion_text(result: Result) -> str:
    evaluated = [block for block in result["deletions"] if block["error"] is not None]
    baseline_text = f"{_named_error(result, result['error'])} on {pluralize(result['num_images'], 'image')}"
    if not evaluated:
        return f"{baseline_text}; no block can be deleted."
    mean_increase = fmean(block["error"] for block in evaluated) - result["error"]
    worst = max(evaluated, key=lambda block: block["error"])
    worst_increase = worst["error"] - result["error"]
    return (
        f"{baseline_text}; deleting one block raises it by {_increase_text(result, mean_increase)} on average, at most "
        f"by {_increase_text(result, worst_increase)} ({worst['block']})."
    )


def _increase_text(result: Result, increase: float) -> str:
    if not result["measure"]["is_fraction"]:
        return format_number(increase, 3)
    return f"{format_number(100 * increase, 3) if abs(increase) >= 0.01 else f'{100 * increase:.1f}'} points"


def _error_text(result: Result, error: float | None) -> str:
    return format_percent(error, 1) if result["measure"]["is_fraction"] else format_number(error, 4)


def _named_error(result: Result, error: float) -> str:
    return f"{result['measure']['title']} {_error_text(result, error)}"


def _half_deleted_text(result: Result) -> str:
    num_deletable = sum(block["error"] is not None for block in result["deletions"])
    candidates = [deletion for deletion in result["multi_deletions"] if deletion["num_deleted"] <= num_deletable / 2]
    if len(candidates) < 2:
        return ""
    deletion = candidates[-1]
    error = fmean(deletion["errors"])
    num_deleted = deletion["num_deleted"]
    title = result["measure"]["title"]
    return f"without {num_deleted} of {num_deletable} random blocks the {title} is {_error_text(result, error)}."


def _carrying_paths_text(result: Result) -> str:
    """Return the range of lengths that carries nine tenths of the gradient, and its fraction of the paths."""
    low, high = shortest_carrying_range([path["contribution"] for path in result["paths"]])
    carrying = result["paths"][low : high + 1]
    gradient_fraction, path_fraction = (
        sum(path["contribution"] for path in carrying),
        sum(path["fraction"] for path in carrying),
    )
    mean_length = sum(path["length"] * path["fraction"] for path in result["paths"])
    return (
        f"paths of {low} to {high} branches carry {format_percent(gradient_fraction, 0)} of the gradient and are "
        f"{format_percent(path_fraction, 1)} of all paths; the mean length is {format_number(mean_length, 3)} of "
        f"{len(result['paths']) - 1}."
    )


def shortest_carrying_range(contributions: Sequence[float], min_fraction: float = 0.9) -> tuple[int, int]:
    """Return the shortest range of lengths that carries at least `min_fraction` of the total."""
    total, indices = sum(contributions), range(len(contributions))
    candidates = [
        (j - i, i, j)
        for i in indices
        for j in indices[i:]
        if sum(contributions[i : j + 1]) >= min_fraction * total - 1e-12
    ]
    _, low, high = min(candidates)
    return low, high


def _render_deletion(pairs: Sequence[tuple[Result, LineStyle]], axis: ErrorAxis) -> RenderedFigure:
    networks = [
        DeletionErrors(
            style.label,
            result["error"],
            [block["error"] for block in result["deletions"]],
            color_index=style.color_index,
        )
        for result, style in pairs
    ]
    alt_text = "Error with each block deleted, from input to output, beside that of the intact network."
    has_missing = any(error is None for network in networks for error in network.errors_without)
    caption = _DELETION_CAPTION + (_MISSING_CAPTION if has_missing else "")
    names = _deleted_names([result for result, _ in pairs])
    return RenderedFigure(plot_deletion(networks, axis, names), alt_text, "Error with one block deleted", caption)


def _deleted_names(results: Sequence[Result]) -> Sequence[str]:
    return shared_names(results, lambda result: [str(block["block"]) for block in result["deletions"]])


def _render_multiple_deletions(pairs: Sequence[tuple[Result, LineStyle]], axis: ErrorAxis) -> RenderedFigure | None:
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
    alt_text = "Error against the number of randomly deleted blocks."
    caption = "Mean over the draws, in a band from minimum to maximum."
    return RenderedFigure(
        plot_multiple_deletions(networks, axis), alt_text, "Error with several blocks deleted", caption
    )


def _render_permutations(pairs: Sequence[tuple[Result, LineStyle]], axis: ErrorAxis) -> RenderedFigure | None:
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
    alt_text = "Error with pairs of blocks swapped, against Kendall's tau of the order."
    caption = "One dot for each random permutation of blocks of equal shape."
    return RenderedFigure(plot_permutations(networks, axis), alt_text, "Error with blocks permuted", caption)


def _render_paths(pairs: Sequence[tuple[Result, LineStyle]]) -> list[RenderedFigure]:
    networks = [_path_lengths(result["paths"], style) for result, style in pairs if result["paths"]]
    if not networks:
        return []
    results = [result for result, _ in pairs]
    results_with_paths = [result for result in results if result["paths"]]
    caption = "Fraction of the paths by length (dashed), and of the gradient they carry (solid)."
    return [
        RenderedFigure(
            plot_path_lengths(networks),
            caption,
            title_for_subject("Gradient by path length", results, results_with_paths),
            caption,
        ),
        RenderedFigure(
            plot_path_gradients(networks),
            "Norm of the gradient along one path, against its length, on a logarithmic scale.",
            title_for_subject("Gradient norm along one path", results, results_with_paths),
            "Mean over sampled paths, at the first block's input. Logarithmic scale.",
        ),
    ]


def _path_lengths(paths: Sequence[Result], style: LineStyle) -> PathLengths:
    path_fractions, gradient_norms, gradient_fractions = (
        [path[key] for path in paths] for key in ("fraction", "gradient_norm", "contribution")
    )
    return PathLengths(style.label, path_fractions, gradient_norms, gradient_fractions, style.color_index)


def _render_tables(result: Result, names: Sequence[str]) -> list[RenderedTable]:
    rows = [
        [block["block"], _error_text(result, block["error"]), format_number(block["loss"], 3), block["reason"]]
        for block in result["deletions"]
    ]
    has_reasons = any(block["reason"] for block in result["deletions"])
    columns = ["deleted block", result["measure"]["title"], "loss", "reason"][: 4 if has_reasons else 3]
    images_text = pluralize(
        result["num_images"], f"{format_split(result['split'])} image" if result["split"] else "image"
    )
    baseline_text = (
        f"intact: {_named_error(result, result['error'])}, loss {format_number(result['loss'], 3)}, {images_text}"
    )
    return [
        RenderedTable(
            f"{result['model']} ({baseline_text})", columns, number_rows([row[: len(columns)] for row in rows], names)
        )
    ]
