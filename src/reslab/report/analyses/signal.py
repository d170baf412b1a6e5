"""How the answers to `scaling` are shown.

How the answers to `orders` are shown.

How the answers to `responses` are shown.

How the answers to `telescope` are shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import Tint, along_training, overlaid, tints, titled
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import number, percent, plural
from reslab.report.plots.depth import Profile, depth_figure

Answer = Mapping[str, Any]
_CLOSE = 0.01


def show(answers: Sequence[Answer]) -> Shown:
    """The product of the factors beside the gradient that came back, and how open each gate is."""
    colours = tints(answers)
    named = [(answer, tint) for answer, tint in zip(answers, colours, strict=True) if tint.label]
    figures = [_ratios(named), *_gates(answers, colours), _factors(answers, colours)]
    figures += along_training(answers, lambda answer: answer["product"], "Product of all factors")
    words = (*(_words(answer) for answer in answers), f"The rule. {answers[0]['rule']}")
    return Shown("What the shortcuts multiply to", words, tuple(figures), tuple(_table(each) for each in answers))


def _words(answer: Answer) -> str:
    ends = {"exploding": "the signal grows", "vanishing": "the signal fades", "kept": "the signal is kept"}
    return (
        f"{answer['subject']}: {answer['verdict']}. The factors of all shortcuts multiply to "
        f"{number(answer['product'], 3)}: by the shortcuts alone {ends[answer['verdict']]}. {_measured(answer)}"
    )


def _measured(answer: Answer) -> str:
    """How far the gradient that came back by the shortcuts is from the product; words after the addition change it."""
    ratios = [unit["direct"] / unit["product"] for unit in answer["units"] if unit["direct"] and unit["product"]]
    if not ratios:
        return "No unit keeps its shape, so no gradient is held against that."
    low, high = min(ratios), max(ratios)
    if low > 1 - _CLOSE and high < 1 + _CLOSE:
        return "The gradient that came back by them is what the product says, to 1 %."
    return f"The gradient that came back by them is {number(low, 2)} to {number(high, 2)} times what the product says."


def _ratios(named: Sequence[tuple[Answer, Tint]]) -> ShownFigure:
    profiles: list[Profile] = []
    for answer, tint in named:
        units = answer["units"]
        profiles.append(Profile(tint.label, [unit["direct"] for unit in units], tint.colour, strength=0.5))
        profiles.append(Profile("", [unit["product"] for unit in units], tint.colour, dashed=True))
        profiles.append(Profile("", [unit["total"] for unit in units], tint.colour, dotted=True))
    title = "The gradient at each unit over that at its stage's end"
    words = "The product of the factors predicts what came by the shortcuts. Logarithmic; the thin line is 1."
    strokes = ("by the shortcuts alone", "the product predicts", "with the branches")
    return ShownFigure(
        depth_figure(profiles, level=1.0, strokes=strokes), f"{title}, on a logarithmic scale.", title, words
    )


def _gates(answers: Sequence[Answer], colours: Sequence[Tint]) -> list[ShownFigure]:
    gated = [answer for answer in answers if any(unit["openness"] is not None for unit in answer["units"])]
    if not gated:
        return []
    profiles = overlaid(answers, colours, lambda answer: [unit["openness"] for unit in answer["units"]])
    title = titled("Mean openness of each gate, the sigmoid", answers, gated)
    return [ShownFigure(depth_figure(profiles, log=False, up="openness"), f"{title}, by unit.", title)]


def _factors(answers: Sequence[Answer], colours: Sequence[Tint]) -> ShownFigure:
    profiles = overlaid(answers, colours, lambda answer: [unit["carried"] for unit in answer["units"]])
    title = "What multiplies each branch on its way to the stage's end"
    words = "The product of the factors of all later units of the stage (He et al. 2016, Eq. 7)."
    return ShownFigure(depth_figure(profiles, level=1.0), f"{title}, on a logarithmic scale.", title, words)


def _table(answer: Answer) -> ShownTable:
    names = {"factor": "factor", "openness": "openness", "product": "product", "by shortcuts": "direct"}
    names |= {"whole": "total", "branch carries": "carried"}
    rows = [
        [unit["label"], *(number(unit[key], 3) for key in names.values()), _error(unit["error"])]
        for unit in answer["units"]
    ]
    return ShownTable(answer["subject"], ["unit", *names, "error of the sum"], rows)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


Answer_orders = Mapping[str, Any]


def show_orders(answers: Sequence[Answer_orders]) -> Shown:
    """Sums that do not pass, branches that only add, growth within a stage: every order on each picture."""
    colours = tints(answers)
    figures = (
        _figure(
            answers, colours, "superposition", "Do sums pass? ||after(a+b) − after(a) − after(b)|| over ||after(a+b)||",
            "a: the shortcut, b: the branch. 0 where nothing comes after the addition.",
        ),
        _figure(
            answers, colours, "branch_min", "The smallest value of each branch",
            "The thin line is 0. On or above it a branch can only add, never take away.", level=0.0,
        ),
        _figure(
            answers, colours, "growth", "The signal's variance over that of its stage's first output",
            "Logarithmic; the thin line is 1: no growth.", log=True, level=1.0,
        ),
        _figure(answers, colours, "mean", "The signal's mean", "The thin line is 0.", level=0.0),
    )  # fmt: skip
    words = tuple(_words_orders(answer) for answer in answers)
    tables = (*_together(answers), *(_table_orders(answer) for answer in answers))
    return Shown("What the order of words does to the signal", words, figures, tables)


def _figure(
    answers: Sequence[Answer_orders],
    colours: Sequence[Tint],
    key: str,
    title: str,
    words: str,
    *,
    log: bool = False,
    level: float | None = None,
) -> ShownFigure:
    profiles = overlaid(answers, colours, lambda answer: [unit[key] for unit in answer["units"]])
    return ShownFigure(depth_figure(profiles, log=log, level=level), f"{title}, by unit.", title, words)


def _words_orders(answer: Answer_orders) -> str:
    passing = answer["worst_superposition"] < 1e-5
    sums = "sums pass every unit" if passing else f"sums miss by up to {percent(answer['worst_superposition'], 0)}"
    lowest = answer["lowest_branch"]
    adds = "its branches only add" if lowest >= 0 else f"its branches reach down to {number(lowest, 2)}"
    growth = answer["largest_growth"]
    grows = f"grows up to {number(growth, 2)} times" if growth > 1 else "does not grow"
    return f"{answer['subject']} ({answer['sentence']}): {sums}, {adds}, and the variance {grows} within a stage."


def _together(answers: Sequence[Answer_orders]) -> list[ShownTable]:
    if len(answers) < 2:
        return []
    rows = [
        [
            answer["subject"],
            number(answer["worst_superposition"], 2),
            number(answer["lowest_branch"], 2),
            number(answer["largest_growth"], 2),
        ]
        for answer in answers
    ]
    return [ShownTable("Together", ["network", "sums miss by", "lowest of a branch", "growth"], rows)]


def _table_orders(answer: Answer_orders) -> ShownTable:
    names = {"sums miss by": "superposition", "branch min": "branch_min", "branch mean": "branch_mean"}
    names |= {"below 0": "branch_negative", "mean": "mean", "variance": "variance", "growth": "growth"}
    rows = [[unit["label"], *(number(unit[key], 3) for key in names.values())] for unit in answer["units"]]
    return ShownTable(answer["subject"], ["unit", *names], rows)


Answer_responses = Mapping[str, Any]


def show_responses(answers: Sequence[Answer_responses]) -> Shown:
    """The standard deviations in layer order and sorted, as He et al. 2015, Fig. 7, has them."""
    colours = tints(answers)
    ordered = overlaid(answers, colours, lambda answer: [layer["std"] for layer in answer["layers"]])
    ranked = overlaid(answers, colours, lambda answer: answer["sorted_std"])
    figures = [
        ShownFigure(
            depth_figure(
                ordered,
                log=False,
                from_zero=True,
                across="layer, from the input to the output",
                up="standard deviation",
            ),
            "Standard deviation of each layer's response, from the input to the output.",
            "Standard deviation of each layer's response",
            "After normalisation, ahead of the nonlinearity or the addition.",
        ),
        ShownFigure(
            depth_figure(
                ranked, log=False, from_zero=True, across="layer, sorted by its response", up="standard deviation"
            ),
            "The same standard deviations, the largest first.",
            "The same, sorted",
            "As in He et al. 2015, Figure 7.",
        ),
        *along_training(answers, lambda answer: answer["mean_std"], "Mean response", log=False),
    ]
    words = (*(_words_responses(answer) for answer in answers), *_normed(answers))
    return Shown(
        "How strongly each layer answers", words, tuple(figures), tuple(_table_responses(each) for each in answers)
    )


def _words_responses(answer: Answer_responses) -> str:
    largest, smallest = answer["sorted_std"][0], answer["sorted_std"][-1]
    return (
        f"{answer['subject']}: {plural(len(answer['layers']), 'layer')}, a standard deviation of "
        f"{number(answer['mean_std'], 3)} in the mean, from {number(smallest, 3)} to {number(largest, 3)}."
    )


def _normed(answers: Sequence[Answer_responses]) -> list[str]:
    """A word of caution where all responses are 1 because a norm has just made them so."""
    normed = [layer["std"] for answer in answers for layer in answer["layers"] if layer["after_norm"]]
    if not normed or max(abs(std - 1) for std in normed) > 0.02:
        return []
    return ["Every response behind a norm is 1: that is what a norm does before training has changed its weights."]


def _table_responses(answer: Answer_responses) -> ShownTable:
    rows = [
        [layer["label"], number(layer["std"]), "yes" if layer["after_norm"] else "no"] for layer in answer["layers"]
    ]
    return ShownTable(answer["subject"], ["layer", "standard deviation of the response", "behind a norm"], rows)


Answer_telescope = Mapping[str, Any]


def show_telescope(answers: Sequence[Answer_telescope]) -> Shown:
    """The error of the sum from every unit to its stage's end, and what each branch adds."""
    colours = tints(answers)
    errors = overlaid(answers, colours, lambda answer: [unit["error"] for unit in answer["units"]])
    shares = overlaid(answers, colours, lambda answer: [unit["share"] for unit in answer["units"]])
    figures = [
        ShownFigure(
            depth_figure(errors, level=1.0),
            "Relative error of x plus the sum of branches, from each unit to its stage's end, on a logarithmic scale.",
            "Error of: signal here + all branches from here on = signal at the stage's end",
            "Relative to the signal's norm, logarithmic. Near 1e-7: rounding. Near 1, the thin line: as large as the "
            "signal. A gap: a unit that changes the shape.",
        ),
        ShownFigure(
            depth_figure(shares, log=False, from_zero=True),
            "Norm of each unit's branch over that of its output.",
            "What each branch brings: ||F(x)|| over ||unit's output||",
        ),
        *along_training(answers, lambda answer: _largest(answer) or float("nan"), "Largest error"),
    ]
    words = tuple(_words_telescope(answer) for answer in answers)
    return Shown(
        "Does the signal add up?", words, tuple(figures), tuple(_table_telescope(answer) for answer in answers)
    )


def _largest(answer: Answer_telescope) -> float | None:
    values = [value for value in (answer["worst"], answer["worst_exact"]) if value is not None]
    return max(values, default=None)


def _words_telescope(answer: Answer_telescope) -> str:
    name = f"{answer['subject']}: {answer['verdict']}."
    largest = _largest(answer)
    if largest is None:
        return f"{name} There is nothing to add up."
    if answer["verdict"] == "holds":
        return f"{name} The signal at a stage's end is the one before plus all branches, to {largest:.0e} of its norm."
    why = f", as {answer['obstacle']}" if answer["obstacle"] else ""
    return f"{name} The sum misses the signal by up to {number(largest, 2)} of its norm{why}."


def _table_telescope(answer: Answer_telescope) -> ShownTable:
    rows = [
        [unit["label"], _error_telescope(unit["error"]), "yes" if unit["exact"] else "no", number(unit["share"], 3)]
        for unit in answer["units"]
    ]
    return ShownTable(answer["subject"], ["unit", "error", "should hold", "||F|| / ||output||"], rows)


def _error_telescope(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
