"""How the answers to `compare` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import count, number, percent, plural
from reslab.report.pages.compare import ComparedRun, run_curve
from reslab.report.plots.curves import accuracy_figure, loss_figure
from reslab.report.plots.depth import Profile, depth_figure
from reslab.report.plots.images import Row, grid_figure, pixels_of

Answer = Mapping[str, Any]
_ABREAST = 7
_DECIDED = 0.05


def show(answers: Sequence[Answer]) -> Shown:
    """The verdict of the paired test in words; curves, flipped pictures, distances between the weights."""
    (answer,) = answers
    figures = [*_curves(answer), _flips(answer), _distances(answer)]
    first, second = _names(answer)
    return Shown(
        f"{first} and {second}",
        tuple(words for words in (verdict(answer), _meaning(answer), _agreement(answer), _weights(answer)) if words),
        tuple(figure for figure in figures if figure is not None),
        (_numbers(answer), _square(answer), *([_layers(answer)] if answer["weights"] else [])),
    )


def _names(answer: Answer) -> tuple[str, str]:
    first, second = answer["networks"]
    return first["name"], second["name"]


def verdict(answer: Answer) -> str:
    """Which is more accurate, by how much, and whether that is more than chance."""
    first, second = answer["networks"]
    test = answer["paired"]
    on = f"{plural(answer['num_images'], 'picture')}{' of ' + answer['split'] if answer['split'] else ''}"
    accuracies = f"{percent(first['accuracy'])} and {percent(second['accuracy'])} on {on}"
    if not test["only_first"] + test["only_second"]:
        return f"{first['name']} and {second['name']} are right on the same pictures: {accuracies}."
    better, worse = (second, first) if test["difference"] > 0 else (first, second)
    if test["difference"] == 0:
        words = f"{first['name']} and {second['name']} are equally accurate"
    else:
        words = f"{better['name']} is {100 * abs(test['difference']):.2f} points more accurate than {worse['name']}"
    sure = "more than chance would give" if test["p_value"] < _DECIDED else "which chance alone may give"
    return f"{words} ({accuracies}), {sure}: p = {_p(test['p_value'])} by McNemar's exact test."


def _p(value: float) -> str:
    return "less than 0.0001" if value < 1e-4 else f"{value:.2g}"


def _meaning(answer: Answer) -> str:
    """What the p-value is about."""
    first, second = _names(answer)
    test = answer["paired"]
    flips = test["only_first"] + test["only_second"]
    if not flips:
        return ""
    low, high = (100 * test[end] for end in ("low", "high"))
    return (
        f"They differ on {plural(flips, 'picture')}: {count(test['only_first'])} only {first} calls right, "
        f"{count(test['only_second'])} only {second}. If both were equally good, a split at least as uneven would come "
        f"up with probability {_p(test['p_value'])}. With 95 % confidence {second} is {low:+.2f} to {high:+.2f} points "
        f"from {first}; this tells of these two sets of weights, not of other seeds."
    )


def _agreement(answer: Answer) -> str:
    return f"They call {percent(answer['paired']['agree'], 1)} of the pictures the same, right or wrong."


def _weights(answer: Answer) -> str:
    if not answer["weights"]:
        return "They have no weights of the same name and shape."
    nearest, furthest = (pick(answer["weights"], key=lambda layer: layer["distance"]) for pick in (min, max))
    if furthest["distance"] == 0:
        words = "The weights of the same name are equal, as after one start and no training"
    else:
        words = _ends(nearest, furthest)
    other = answer["num_other"]
    return words + (f"; {plural(other, 'parameter')} are not in both." if other else ".")


def _ends(nearest: Answer, furthest: Answer) -> str:
    return (
        f"Of their weights {nearest['name']} is nearest (distance {number(nearest['distance'], 2)} of its norm) and "
        f"{furthest['name']} furthest ({number(furthest['distance'], 2)}; two unrelated ones: about 1.41)"
    )


def _curves(answer: Answer) -> list[ShownFigure]:
    runs = [
        ComparedRun(one["name"], one["model"], one["data"], one["recipe"], one["log"], one["seed"])
        for one in answer["networks"]
    ]
    found = []
    for title, value, held_out, draw in (
        ("Accuracy", "top1", True, accuracy_figure),
        ("Training loss", "loss", False, loss_figure),
    ):
        curves = [run_curve(run, place, value, held_out) for place, run in enumerate(runs)]
        if any(curve.line for curve in curves):
            words = "On images held out from training." if held_out else "On the images each learns from."
            found.append(ShownFigure(draw(curves), f"{title} against epochs. {words}", title, words))
    return found


def _flips(answer: Answer) -> ShownFigure | None:
    found = answer["flipped"]
    if not found:
        return None
    first, second = _names(answer)
    rows = []
    for start in range(0, len(found), _ABREAST):
        part = found[start : start + _ABREAST]
        captions = [f"{one['label']}: {_call(one, 'first')} | {_call(one, 'second')}" for one in part]
        free = [None] * (_ABREAST - len(part))  # so that a few pictures are not drawn large
        rows.append(Row("", [*(pixels_of(one["picture"]) for one in part), *free], captions))
    label = f"Pictures that only one of {first} and {second} calls right."
    caption = f"Below each: its class, then what {first} | {second} call it. Those that were surest of the wrong first."
    return ShownFigure(grid_figure(rows, cell_inches=1.25), label, "Predictions that flipped", caption)


def _call(one: Answer, which: str) -> str:
    return f"{one[which]}{'' if one[which] == one['label'] else ' ✕'}"


def _distances(answer: Answer) -> ShownFigure | None:
    found = answer["weights"]
    if len(found) < 2:
        return None
    profile = Profile("distance", [layer["distance"] for layer in found], 0)
    figure = depth_figure([profile], log=False, across="weight, from the input to the output", up="", from_zero=True)
    label = "The distance between the weights of each layer, as a share of their norm, from the input to the output."
    return ShownFigure(figure, label, "Distance between the weights", f"{label} Two unrelated ones: about 1.41.")


def _numbers(answer: Answer) -> ShownTable:
    rows = [
        [
            one["name"],
            one["model"] or "–",
            one["recipe"] or "–",
            count(one["num_parameters"]),
            percent(one["accuracy"]),
            number(one["loss"], 4),
        ]
        for one in answer["networks"]
    ]
    return ShownTable("The two", ["network", "model", "recipe", "parameters", "accuracy", "loss"], rows)


def _square(answer: Answer) -> ShownTable:
    first, second = _names(answer)
    test = answer["paired"]
    rows = [
        [f"{first} right", count(test["both"]), count(test["only_first"])],
        [f"{first} wrong", count(test["only_second"]), count(test["neither"])],
    ]
    return ShownTable("Pictures called right and wrong", ["", f"{second} right", f"{second} wrong"], rows)


def _layers(answer: Answer) -> ShownTable:
    rows = [
        [
            layer["name"],
            number(layer["norms"][0], 3),
            number(layer["norms"][1], 3),
            number(layer["distance"], 3),
            number(layer["cosine"], 3),
        ]
        for layer in answer["weights"]
    ]
    first, second = _names(answer)
    columns = ["weight", f"norm in {first}", f"norm in {second}", "distance", "cosine"]
    return ShownTable("Weights that both have", columns, rows)
