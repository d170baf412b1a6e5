"""How the answers to `nearest` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import count, number, percent, plural
from reslab.report.plots.images import Row, grid_figure, pixels_of

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
    """Some pictures with their neighbours, and how often a neighbour is of the same class."""
    return Shown(
        "Pictures that the network takes for alike",
        tuple(nearest_words(answer) for answer in answers),
        tuple(_figure(answer) for answer in answers),
        (_table(answers),),
    )


def nearest_words(answer: Answer) -> str:
    """The share of neighbours of the same class, and what it is by chance."""
    where = f"the {answer['split']} split" if answer["split"] else "the other pictures"
    number_of = len(answer["queries"][0]["neighbours"])
    return (
        f"{answer['subject']}: of the {plural(number_of, 'nearest picture')} in {where} "
        f"{percent(answer['same_class'], 1)} are of the same class; a vote among them is right for "
        f"{percent(answer['voted'], 1)} of {plural(answer['num_images'], 'picture')} "
        f"(always the commonest class: {percent(answer['chance'], 1)})."
    )


def _figure(answer: Answer) -> ShownFigure:
    rows = []
    for query in answer["queries"]:
        found = query["neighbours"]
        captions = [
            f"{one['label']}{'' if one['label'] == query['label'] else ' ✕'} {one['cosine']:.2f}" for one in found
        ]
        pictures = [pixels_of(query["picture"]), None, *(pixels_of(one["picture"]) for one in found)]
        rows.append(Row("", pictures, [query["label"], "", *captions]))
    label = f"{answer['subject']}: pictures, and beside each those nearest to it in the features of {answer['layer']}."
    caption = "Below each its class and the cosine; ✕ where the class is another."
    title = f"Nearest in {answer['layer']} of {answer['subject']}"
    return ShownFigure(grid_figure(rows, ["asked", "", "nearest"], 0.92), label, title, caption)


def _table(answers: Sequence[Answer]) -> ShownTable:
    rows = [
        [
            answer["subject"],
            answer["layer"],
            count(answer["num_searched"]),
            percent(answer["same_class"], 1),
            percent(answer["voted"], 1),
            number(sum(query["neighbours"][0]["cosine"] for query in answer["queries"]) / len(answer["queries"]), 3),
        ]
        for answer in answers
    ]
    columns = ["network", "layer", "searched", "same class", "vote right", "nearest cosine"]
    return ShownTable("Neighbours by the cosine of features", columns, rows)
