"""How the answers to `probes` are shown."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from reslab.report.analyses.overlay import tints
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import percent, plural
from reslab.report.plots.depth import Profile, depth_figure

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
    """What a linear rule reads off each layer, every network on one picture."""
    profiles = [
        Profile(tint.label, [100 * probe["accuracy"] for probe in answer["probes"]], tint.colour, tint.dashed,
                strength=tint.strength)
        for answer, tint in zip(answers, tints(answers), strict=True)
    ]  # fmt: skip
    across = "layer, from the input to the output"
    chance = 100 * max(answer["chance"] for answer in answers)
    figure = depth_figure(profiles, log=False, across=across, up="held-out accuracy, %", level=chance)
    label = "The held-out accuracy of a linear rule on the features of each layer, from the input to the output."
    caption = "Logistic regression on each map's mean. The thin line is always naming the commonest class."
    return Shown(
        "What a linear rule reads off each layer",
        tuple(probes_words(answer) for answer in answers),
        (ShownFigure(figure, label, "Accuracy of linear probes", caption),),
        tuple(_table(answer) for answer in answers),
    )


def probes_words(answer: Answer) -> str:
    """The first, the best and the last layer, and how much of the rise is gained where."""
    found = answer["probes"]
    best = max(reversed(found), key=lambda probe: probe["accuracy"])
    words = (
        f"{answer['subject']}: {percent(found[0]['accuracy'], 1)} of the classes can be read off {found[0]['layer']}"
    )
    if len(found) > 1:
        words += f", {percent(found[-1]['accuracy'], 1)} off {found[-1]['layer']}"
        rises = [after["accuracy"] - before["accuracy"] for before, after in pairwise(found)]
        step = max(range(len(rises)), key=lambda i: rises[i])
        if rises[step] > 0:
            words += f"; {found[step + 1]['layer']} adds most ({100 * rises[step]:.1f} points)"
    if best["layer"] not in (found[0]["layer"], found[-1]["layer"]):
        words += f"; the best is {best['layer']} with {percent(best['accuracy'], 1)}"
    return words + f". The network itself is right on {percent(answer['own'], 1)}."


def _table(answer: Answer) -> ShownTable:
    rows = [
        [probe["layer"], str(probe["num_features"]), percent(probe["accuracy"], 1), percent(probe["fitted"], 1)]
        for probe in answer["probes"]
    ]
    of = f"fitted to {plural(answer['num_fitted'], 'picture')}, judged on {answer['num_images']} others"
    return ShownTable(f"{answer['subject']}, {of}", ["layer", "features", "accuracy", "on those fitted to"], rows)
