"""How the answers to `lesion` are shown."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reslab.report.analyses.overlay import Tint, tints, titled
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import number, percent, plural
from reslab.report.plots.lesion import (
    Lengths,
    Spread,
    Struck,
    deleted_figure,
    lengths_figure,
    path_gradients_figure,
    permuted_figure,
    several_figure,
)

Answer = Mapping[str, Any]
_DASHED = "Dashed: the whole network. Crosses: units that cannot be deleted, as nothing else has their shape."


def show(answers: Sequence[Answer]) -> Shown:
    """The error without each unit, without several, with units permuted, and the paths; all networks together."""
    pairs = list(zip(answers, tints(answers), strict=True))
    chance = max(answer["chance"] for answer in answers)
    figures = [_deleted(pairs, chance), _several(pairs, chance), _permuted(pairs, chance), *_paths(pairs)]
    return Shown(
        "Units deleted and permuted",
        tuple(words for answer in answers for words in lesion_words(answer)),
        tuple(figure for figure in figures if figure is not None),
        tuple(table for answer in answers for table in _tables(answer)),
    )


def lesion_words(answer: Answer) -> list[str]:
    """What a reader should take away: the price of one unit, of half of them, and which paths carry the gradient."""
    found = [_one_unit(answer)]
    half = _half(answer)
    if half:
        found.append(half)
    if answer["paths"]:
        found.append(_carrying(answer))
    return [f"{answer['subject']}: {words}" for words in found] + [
        str(note).capitalize() + "." for note in answer["notes"]
    ]


def _one_unit(answer: Answer) -> str:
    judged = [unit for unit in answer["units"] if unit["error"] is not None]
    whole = f"{percent(answer['error'], 1)} of {answer['num_images']} pictures wrong"
    if not judged:
        return f"{whole}; no unit can be deleted."
    mean = fmean(unit["error"] for unit in judged) - answer["error"]
    worst = max(judged, key=lambda unit: unit["error"])
    price = f"deleting one unit costs {_points(mean)} on average, at most {_points(worst['error'] - answer['error'])}"
    return f"{whole}; {price} ({worst['unit']})."


def _points(fraction: float) -> str:
    return f"{number(100 * fraction, 3) if abs(fraction) >= 0.01 else f'{100 * fraction:.1f}'} points"


def _half(answer: Answer) -> str:
    offered = sum(unit["error"] is not None for unit in answer["units"])
    near = [one for one in answer["several"] if one["num_deleted"] <= offered / 2]
    if len(near) < 2:
        return ""
    several = near[-1]
    error = fmean(several["errors"])
    return f"without {several['num_deleted']} of {offered} units, drawn at random, {percent(error, 1)} are wrong."


def _carrying(answer: Answer) -> str:
    """The lengths around the middle that hold nine tenths of the gradient, and their share of the paths."""
    low, high = carrying_lengths([path["contribution"] for path in answer["paths"]])
    inside = answer["paths"][low : high + 1]
    total, paths = sum(path["contribution"] for path in inside), sum(path["share"] for path in inside)
    middle = sum(path["length"] * path["share"] for path in answer["paths"])
    return (
        f"{percent(total, 0)} of the gradient comes along paths of {low} to {high} branches, which are "
        f"{percent(paths, 1)} of the paths; the mean path has {number(middle, 3)} of {len(answer['paths']) - 1}."
    )


def carrying_lengths(contributions: Sequence[float], least: float = 0.9) -> tuple[int, int]:
    """The shortest range of lengths that holds at least `least` of the whole."""
    total, ends = sum(contributions), range(len(contributions))
    enough = [(j - i, i, j) for i in ends for j in ends[i:] if sum(contributions[i : j + 1]) >= least * total - 1e-12]
    _, low, high = min(enough)
    return low, high


def _deleted(pairs: Sequence[tuple[Answer, Tint]], chance: float) -> ShownFigure:
    networks = [
        Struck(tint.label, answer["error"], [unit["error"] for unit in answer["units"]], tint.colour)
        for answer, tint in pairs
    ]
    label = "The error with each unit deleted, from the input to the output, against that of the whole network."
    absent = any(error is None for one in networks for error in one.without)
    caption = _DASHED if absent else _DASHED.split(" Crosses")[0]
    return ShownFigure(deleted_figure(networks, chance), label, "Error with one unit deleted", caption)


def _several(pairs: Sequence[tuple[Answer, Tint]], chance: float) -> ShownFigure | None:
    networks = [
        Spread(
            tint.label,
            [(0, [answer["error"]])] + [(o["num_deleted"], o["errors"]) for o in answer["several"]],
            tint.colour,
        )
        for answer, tint in pairs
        if answer["several"]
    ]
    if not networks:
        return None
    label = "The error against the number of units deleted at random."
    caption = "The mean of the draws, in a band from the least to the most."
    return ShownFigure(several_figure(networks, chance), label, "Error with several units deleted", caption)


def _permuted(pairs: Sequence[tuple[Answer, Tint]], chance: float) -> ShownFigure | None:
    networks = [
        Spread(
            tint.label, [(1.0, [answer["error"]])] + [(o["tau"], [o["error"]]) for o in answer["permuted"]], tint.colour
        )
        for answer, tint in pairs
        if answer["permuted"]
    ]
    if not networks:
        return None
    label = "The error with pairs of units swapped, against Kendall's tau of the order."
    caption = "One dot for each random permutation of units of equal shape."
    return ShownFigure(permuted_figure(networks, chance), label, "Error with units permuted", caption)


def _paths(pairs: Sequence[tuple[Answer, Tint]]) -> list[ShownFigure]:
    networks = [_lengths(answer["paths"], tint) for answer, tint in pairs if answer["paths"]]
    if not networks:
        return []
    answers = [answer for answer, _ in pairs]
    having = [answer for answer in answers if answer["paths"]]
    shares = "Share of the paths of each length (dashed), and of the gradient that they carry (solid)."
    return [
        ShownFigure(
            lengths_figure(networks), shares, titled("Which paths carry the gradient", answers, having), shares
        ),
        ShownFigure(
            path_gradients_figure(networks),
            "The norm of the gradient along one path, against its length, on a logarithmic scale.",
            titled("Gradient along one path", answers, having),
            "The mean of sampled paths, at the first unit's input. Logarithmic scale.",
        ),
    ]


def _lengths(paths: Sequence[Answer], tint: Tint) -> Lengths:
    shares, gradients, contributions = ([path[key] for path in paths] for key in ("share", "gradient", "contribution"))
    return Lengths(tint.label, shares, gradients, contributions, tint.colour)


def _tables(answer: Answer) -> list[ShownTable]:
    units = [
        [unit["unit"], percent(unit["error"], 1), number(unit["loss"], 3), unit["reason"]] for unit in answer["units"]
    ]
    reasons = any(unit["reason"] for unit in answer["units"])
    columns = ["deleted unit", "error", "loss", "why not"][: 4 if reasons else 3]
    of = f"{plural(answer['num_images'], 'picture')}{' of ' + answer['split'] if answer['split'] else ''}"
    whole = f"whole: error {percent(answer['error'], 1)}, loss {number(answer['loss'], 3)}, {of}"
    return [ShownTable(f"{answer['subject']} ({whole})", columns, [row[: len(columns)] for row in units])]
