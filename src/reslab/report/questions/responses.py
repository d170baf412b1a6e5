"""How the answers to `responses` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import along_training, overlaid, tints
from reslab.report.format import number, plural
from reslab.report.plots.depth import depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
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
    words = (*(_words(answer) for answer in answers), *_normed(answers))
    return Shown("How strongly each layer answers", words, tuple(figures), tuple(_table(each) for each in answers))


def _words(answer: Answer) -> str:
    largest, smallest = answer["sorted_std"][0], answer["sorted_std"][-1]
    return (
        f"{answer['subject']}: {plural(len(answer['layers']), 'layer')}, a standard deviation of "
        f"{number(answer['mean_std'], 3)} in the mean, from {number(smallest, 3)} to {number(largest, 3)}."
    )


def _normed(answers: Sequence[Answer]) -> list[str]:
    """A word of caution where all responses are 1 because a norm has just made them so."""
    normed = [layer["std"] for answer in answers for layer in answer["layers"] if layer["after_norm"]]
    if not normed or max(abs(std - 1) for std in normed) > 0.02:
        return []
    return ["Every response behind a norm is 1: that is what a norm does before training has changed its weights."]


def _table(answer: Answer) -> ShownTable:
    rows = [
        [layer["label"], number(layer["std"]), "yes" if layer["after_norm"] else "no"] for layer in answer["layers"]
    ]
    return ShownTable(answer["subject"], ["layer", "standard deviation of the response", "behind a norm"], rows)
