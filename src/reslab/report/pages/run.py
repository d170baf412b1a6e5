"""The curves of a run, each with the sentence that says what it shows.

What a network costs, added up: by stage for the eye, by unit where the layers are too many to list.

The large figures at the head of a page.

What the network of a run costs: its depth, its parameters, its multiply-adds, and where they lie.

Everything that the template of a run's page names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from reslab.report.format import amount, count, number, percent, plural, seconds, shape
from reslab.report.pages.classification import calibration_parts, class_parts, confusion_parts, mistake_parts
from reslab.report.pages.run_text import (
    RunPage,
    accuracy_words,
    interval_words,
    loss_words,
    lost_words,
    rate_words,
    run_summary,
    split_words,
)
from reslab.report.plots.curves import Curve, accuracy_figure, loss_figure, rate_figure
from reslab.report.plots.export import svg
from reslab.report.series import Log, eval_series, splits, train_series

_STAGE = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+")
_UNIT = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+\.\d+")
MOST_LAYERS = 600


@dataclass(frozen=True)
class Cost:
    """Some layers together: parameters, multiply-adds of one input, the shape that leaves the last of them."""

    name: str
    output_shape: Any
    num_layers: int
    params: int
    macs: int


def by_stage(layers: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """The layers added up by stage; those before the first stage are the stem, those after the last the head."""
    names = [_found(_STAGE, layer["name"]) for layer in layers]
    staged = [index for index, name in enumerate(names) if name]
    if staged:
        names[: staged[0]] = ["stem"] * staged[0]
        names[staged[-1] + 1 :] = ["head"] * (len(names) - staged[-1] - 1)
    plain = [name or layer["name"].split(".")[0] for name, layer in zip(names, layers, strict=True)]
    return _added(layers, plain)


def by_layer(layers: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """One row a layer; above MOST_LAYERS of them, one a unit."""
    names = [str(layer["name"]) for layer in layers]
    if len(layers) > MOST_LAYERS:
        names = [_found(_UNIT, name) or name for name in names]
    return _added(layers, names)


def _found(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.match(name)
    return found[0] if found else ""


def _added(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Cost]:
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for name, layer in zip(names, layers, strict=True):
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    return [_sum(name, group) for name, group in groups]


def _sum(name: str, group: Sequence[Mapping[str, Any]]) -> Cost:
    params = sum(int(layer.get("params") or 0) for layer in group)
    macs = sum(int(layer.get("macs") or 0) for layer in group)
    return Cost(name, group[-1]["output_shape"], len(group), params, macs)


def tile(name: str, value: str, *notes: str, colour: str = "") -> dict[str, Any]:
    """A large figure with its name above and small print below."""
    return {"name": name, "value": value, "notes": [note for note in notes if note], "colour": colour}


def score_parts(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, the number of images behind them, and how the weights were chosen."""
    return {"tiles": _tiles(scores), "chosen": str(scores.get("chosen") or "").strip().rstrip(".")}


def _tiles(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_samples = int(scores.get("num_samples") or 0)
    if not num_samples:
        return []
    num_correct = int(scores["num_correct"])
    num_wrong = num_samples - num_correct
    of = f"{count(num_correct)} of {count(num_samples)} {split_words(scores.get('split'))} images"
    tiles = [tile("accuracy", percent(num_correct / num_samples), of, interval_words(scores))]
    if scores.get("top5") is not None:
        tiles.append(tile("top-5 accuracy", percent(scores["top5"]), "the true class among the first five"))
    tiles.append(tile("mistakes", count(num_wrong), _rate(num_wrong, num_samples)))
    if "loss" in scores:
        tiles.append(tile("loss", number(scores["loss"]), "mean over the images"))
    return [*tiles, *_on_training(scores)]


def _on_training(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the training images were judged: the finished weights on them, and the averages along the last epoch."""
    kinds = (("train", "the finished weights"), ("train_average", "along the last epoch"))
    return [
        tile("on training images", percent(scores[f"{kind}_top1"]), words, f"loss {number(scores[f'{kind}_loss'])}")
        for kind, words in kinds
        if "train_top1" in scores and f"{kind}_top1" in scores
    ]


def _rate(num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "every image right"
    if 3 * num_wrong > num_samples:
        return f"{percent(num_wrong / num_samples, 1)} of the images"
    return f"one image in {count(round(num_samples / num_wrong))}"


def training_parts(log: Log) -> dict[str, Any]:
    """Loss, accuracy and learning rate against epochs, where the log has them, and warnings of what diverged."""
    panels = []
    losses, accuracies, rate = _curves(log, "loss"), _curves(log, "top1"), train_series(log, "lr")
    if losses:
        panels.append(panel("Loss", loss_figure(losses), loss_words(log), "loss"))
    if accuracies:
        panels.append(panel("Accuracy", accuracy_figure(accuracies), accuracy_words(log), "accuracy"))
    if rate:
        panels.append(panel("Learning rate", rate_figure(rate), rate_words(rate), "rate"))
    return {"curves": panels, "pace": _pace(log), "warnings": lost_words(log)}


def _pace(log: Log) -> list[dict[str, Any]]:
    """How long and how fast the training went, as far as its last line and the median of its speeds tell."""
    lines = [line for line in log if line.get("kind") == "train"]
    if not lines:
        return []
    last, speeds = lines[-1], train_series(log, "images_per_second").y
    figures = [("epochs", "epoch", lambda value: f"{value:.4g}"), ("steps", "step", lambda value: count(round(value)))]
    tiles = [tile(name, write(float(last[key]))) for name, key, write in figures if last.get(key) is not None]
    if last.get("seconds") is not None:
        tiles.append(tile("training time", seconds(float(last["seconds"]))))
    if speeds:
        tiles.append(tile("images per second", count(round(median(speeds))), "median"))
    return tiles


def panel(title: str, figure: Figure, words: str, anchor: str) -> dict[str, Any]:
    """A figure with its title and its sentence; the sentence is its text for those who cannot see it, too."""
    return {"title": title, "words": words, "svg": Markup(svg(figure, anchor, f"{title} against epochs. {words}"))}


def _curves(log: Log, value: str) -> list[Curve]:
    """What was held out in solid lines, the training in a dashed one where there is both."""
    held_out = [
        Curve(eval_series(log, split, value), split_words(split), place) for place, split in enumerate(splits(log))
    ]
    held_out = [curve for curve in held_out if curve.line]
    training = train_series(log, value)
    if not training:
        return held_out
    return [*held_out, Curve(training, "training", len(held_out) if held_out else 0, dashed=bool(held_out))]


def cost_parts(page: RunPage) -> dict[str, Any]:
    """The three large figures, one row a stage, and one a layer (a unit, where the layers are very many)."""
    tiles = []
    if page.depth:
        tiles.append(tile("depth", count(page.depth), "layers with weights, projections not counted"))
    if page.params:
        tiles.append(
            tile("parameters", amount(page.params), f"{count(page.params)}: {_megabytes(page.params)} in float32")
        )
    if page.macs:
        tiles.append(tile("multiply-adds", amount(page.macs), "for one image, forward"))
    return {
        "cost_tiles": tiles,
        "stage_rows": _rows(by_stage(page.layers)),
        "layer_rows": _rows(by_layer(page.layers)),
        "layers_words": _words(len(page.layers)),
    }


def _megabytes(params: int) -> str:
    return f"{4 * params / 1e6:,.1f} MB" if params >= 25_000 else f"{4 * params / 1e3:,.1f} kB"


def _words(num_layers: int) -> str:
    if num_layers > MOST_LAYERS:
        return f"All {count(num_layers)} layers, added up by unit"
    return f"The table of {plural(num_layers, 'layer')}"


def _rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    most, total = max((cost.macs for cost in costs), default=0), sum(cost.macs for cost in costs)
    return [
        {
            "name": cost.name,
            "shape": shape(cost.output_shape),
            "num_layers": count(cost.num_layers),
            "params": count(cost.params),
            "macs": count(cost.macs),
            "width": round(100 * cost.macs / most, 1) if most else 0,
            "share": percent(cost.macs / total, 1) if total and cost.macs else "–",
        }
        for cost in costs
    ]


_SECTIONS = (
    ("training", "curves", "Training"),
    ("confusion", "confusion", "What is taken for what"),
    ("mistakes", "mistakes_words", "The worst mistakes"),
    ("classes", "class_rows", "Class by class"),
    ("calibration", "calibration", "As sure as right?"),
    ("cost", "cost_tiles", "Cost"),
    ("facts", "facts", "Facts"),
)


def run_parts(page: RunPage) -> dict[str, Any]:
    """The values of `run.html`, by name; a part that is empty leaves its section out."""
    parts: dict[str, Any] = {
        "kind": page.kind,
        "title": page.title,
        "summary": page.summary or run_summary(page.scores),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        **score_parts(page.scores),
        **training_parts(page.log),
        **confusion_parts(page.confusion, page.classes),
        **class_parts(page.confusion, page.classes),
        **mistake_parts(page),
        **calibration_parts(page.calibration, str(page.scores.get("split") or "")),
        **cost_parts(page),
    }
    parts["sections"] = [(anchor, name) for anchor, part, name in _SECTIONS if parts[part]]
    return parts
