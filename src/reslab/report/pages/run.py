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

from reslab.report.format import (
    format_duration,
    format_int,
    format_number,
    format_percent,
    format_shape,
    format_si,
    pluralize,
)
from reslab.report.pages.classification import (
    calibration_context,
    confusion_context,
    misclassified_context,
    per_class_context,
)
from reslab.report.pages.run_text import (
    RunPage,
    accuracy_text,
    confidence_interval_text,
    loss_text,
    lr_text,
    non_finite_warnings,
    run_summary_text,
    split_adjective,
)
from reslab.report.plots.curves import Curve, plot_accuracy, plot_loss, plot_lr
from reslab.report.plots.export import render_inline_svg
from reslab.report.series import LogRecords, eval_series, eval_splits, train_series

_STAGE_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+")
_BLOCK_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+\.\d+")
MAX_LAYER_ROWS = 600


@dataclass(frozen=True)
class LayerGroupCost:
    """Some layers together: parameters, multiply-adds of one input, the shape that leaves the last of them."""

    name: str
    output_shape: Any
    num_layers: int
    params: int
    macs: int


def costs_by_stage(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroupCost]:
    """The layers added up by stage; those before the first stage are the stem, those after the last the head."""
    names = [_match_prefix(_STAGE_PATTERN, layer["name"]) for layer in layers]
    stage_indices = [index for index, name in enumerate(names) if name]
    if stage_indices:
        names[: stage_indices[0]] = ["stem"] * stage_indices[0]
        names[stage_indices[-1] + 1 :] = ["head"] * (len(names) - stage_indices[-1] - 1)
    group_names = [name or layer["name"].split(".")[0] for name, layer in zip(names, layers, strict=True)]
    return _group_costs(layers, group_names)


def costs_by_layer(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroupCost]:
    """One row a layer; above MOST_LAYERS of them, one a unit."""
    names = [str(layer["name"]) for layer in layers]
    if len(layers) > MAX_LAYER_ROWS:
        names = [_match_prefix(_BLOCK_PATTERN, name) or name for name in names]
    return _group_costs(layers, names)


def _match_prefix(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.match(name)
    return match[0] if match else ""


def _group_costs(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[LayerGroupCost]:
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for name, layer in zip(names, layers, strict=True):
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    return [_sum_costs(name, group) for name, group in groups]


def _sum_costs(name: str, group: Sequence[Mapping[str, Any]]) -> LayerGroupCost:
    params = sum(int(layer.get("params") or 0) for layer in group)
    macs = sum(int(layer.get("macs") or 0) for layer in group)
    return LayerGroupCost(name, group[-1]["output_shape"], len(group), params, macs)


def make_tile(name: str, value: str, *notes: str, color_class: str = "") -> dict[str, Any]:
    """A large figure with its name above and small print below."""
    return {"name": name, "value": value, "notes": [note for note in notes if note], "color_class": color_class}


def metrics_context(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, the number of images behind them, and how the weights were chosen."""
    return {"tiles": _metric_tiles(metrics), "selection": str(metrics.get("selection_text") or "")}


def _metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    num_samples = int(metrics.get("num_samples") or 0)
    if not num_samples:
        return []
    num_correct = int(metrics["num_correct"])
    num_wrong = num_samples - num_correct
    note = f"{format_int(num_correct)} of {format_int(num_samples)} {split_adjective(metrics.get('split'))} images"
    tiles = [make_tile("accuracy", format_percent(num_correct / num_samples), note, confidence_interval_text(metrics))]
    if metrics.get("top5") is not None:
        tiles.append(
            make_tile("top-5 accuracy", format_percent(metrics["top5"]), "the true class among the first five")
        )
    tiles.append(make_tile("mistakes", format_int(num_wrong), _error_rate_text(num_wrong, num_samples)))
    if "loss" in metrics:
        tiles.append(make_tile("loss", format_number(metrics["loss"]), "mean over the images"))
    return [*tiles, *_train_metric_tiles(metrics)]


def _train_metric_tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the training images were judged: the finished weights on them, and the averages along the last epoch."""
    kinds = (("train", "the finished weights"), ("train_average", "along the last epoch"))
    return [
        make_tile(
            "on training images",
            format_percent(metrics[f"{kind}_top1"]),
            note,
            f"loss {format_number(metrics[f'{kind}_loss'])}",
        )
        for kind, note in kinds
        if "train_top1" in metrics and f"{kind}_top1" in metrics
    ]


def _error_rate_text(num_wrong: int, num_samples: int) -> str:
    if num_wrong == 0:
        return "every image right"
    if 3 * num_wrong > num_samples:
        return f"{format_percent(num_wrong / num_samples, 1)} of the images"
    return f"one image in {format_int(round(num_samples / num_wrong))}"


def training_context(log: LogRecords) -> dict[str, Any]:
    """Loss, accuracy and learning rate against epochs, where the log has them, and warnings of what diverged."""
    panels = []
    losses, accuracies, lr = _metric_curves(log, "loss"), _metric_curves(log, "top1"), train_series(log, "lr")
    if losses:
        panels.append(panel_context("Loss", plot_loss(losses), loss_text(log), "loss"))
    if accuracies:
        panels.append(panel_context("Accuracy", plot_accuracy(accuracies), accuracy_text(log), "accuracy"))
    if lr:
        panels.append(panel_context("Learning rate", plot_lr(lr), lr_text(lr), "rate"))
    return {"curves": panels, "speed_tiles": _speed_tiles(log), "warnings": non_finite_warnings(log)}


def _speed_tiles(log: LogRecords) -> list[dict[str, Any]]:
    """How long and how fast the training went, as far as its last line and the median of its speeds tell."""
    records = [record for record in log if record.get("kind") == "train"]
    if not records:
        return []
    last_record, throughputs = records[-1], train_series(log, "images_per_second").y
    columns = [
        ("epochs", "epoch", lambda value: f"{value:.4g}"),
        ("steps", "step", lambda value: format_int(round(value))),
    ]
    tiles = [
        make_tile(name, format_value(float(last_record[key])))
        for name, key, format_value in columns
        if last_record.get(key) is not None
    ]
    if last_record.get("seconds") is not None:
        tiles.append(make_tile("training time", format_duration(float(last_record["seconds"]))))
    if throughputs:
        tiles.append(make_tile("images per second", format_int(round(median(throughputs))), "median"))
    return tiles


def panel_context(title: str, figure: Figure, caption: str, anchor: str) -> dict[str, Any]:
    """A figure with its title and its sentence; the sentence is its text for those who cannot see it, too."""
    return {
        "title": title,
        "caption": caption,
        "svg": Markup(render_inline_svg(figure, anchor, f"{title} against epochs. {caption}")),
    }


def _metric_curves(log: LogRecords, key: str) -> list[Curve]:
    """What was held out in solid lines, the training in a dashed one where there is both."""
    held_out = [
        Curve(eval_series(log, split, key), split_adjective(split), index)
        for index, split in enumerate(eval_splits(log))
    ]
    held_out = [curve for curve in held_out if curve.series]
    train_curve = train_series(log, key)
    if not train_curve:
        return held_out
    return [*held_out, Curve(train_curve, "training", len(held_out) if held_out else 0, dashed=bool(held_out))]


def cost_context(page: RunPage) -> dict[str, Any]:
    """The three large figures, one row a stage, and one a layer (a unit, where the layers are very many)."""
    tiles = []
    if page.depth:
        tiles.append(make_tile("depth", format_int(page.depth), "layers with weights, projections not counted"))
    if page.params:
        tiles.append(
            make_tile(
                "parameters",
                format_si(page.params),
                f"{format_int(page.params)}: {_weight_size_text(page.params)} in float32",
            )
        )
    if page.macs:
        tiles.append(make_tile("multiply-adds", format_si(page.macs), "for one image, forward"))
    return {
        "cost_tiles": tiles,
        "stage_rows": _cost_rows(costs_by_stage(page.layers)),
        "layer_rows": _cost_rows(costs_by_layer(page.layers)),
        "layers_caption": _layer_table_caption(len(page.layers)),
    }


def _weight_size_text(params: int) -> str:
    return f"{4 * params / 1e6:,.1f} MB" if params >= 25_000 else f"{4 * params / 1e3:,.1f} kB"


def _layer_table_caption(num_layers: int) -> str:
    if num_layers > MAX_LAYER_ROWS:
        return f"All {format_int(num_layers)} layers, added up by unit"
    return f"The table of {pluralize(num_layers, 'layer')}"


def _cost_rows(costs: Sequence[LayerGroupCost]) -> list[dict[str, Any]]:
    max_macs, total_macs = max((cost.macs for cost in costs), default=0), sum(cost.macs for cost in costs)
    return [
        {
            "name": cost.name,
            "shape": format_shape(cost.output_shape),
            "num_layers": format_int(cost.num_layers),
            "params": format_int(cost.params),
            "macs": format_int(cost.macs),
            "width": round(100 * cost.macs / max_macs, 1) if max_macs else 0,
            "share": format_percent(cost.macs / total_macs, 1) if total_macs and cost.macs else "–",
        }
        for cost in costs
    ]


_SECTIONS = (
    ("training", "curves", "Training"),
    ("confusion", "confusion", "What is taken for what"),
    ("misclassified", "misclassified_text", "The worst mistakes"),
    ("classes", "class_rows", "Class by class"),
    ("calibration", "calibration", "As sure as right?"),
    ("cost", "cost_tiles", "Cost"),
    ("metadata", "metadata", "Details"),
)


def run_context(page: RunPage) -> dict[str, Any]:
    """The values of `run.html`, by name; a part that is empty leaves its section out."""
    context: dict[str, Any] = {
        "kind": page.kind,
        "title": page.title,
        "summary": page.summary or run_summary_text(page.metrics),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        **metrics_context(page.metrics),
        **training_context(page.log),
        **confusion_context(page.confusion_matrix, page.classes),
        **per_class_context(page.confusion_matrix, page.classes),
        **misclassified_context(page),
        **calibration_context(page.calibration, str(page.metrics.get("split") or "")),
        **cost_context(page),
    }
    context["sections"] = [(anchor, name) for anchor, key, name in _SECTIONS if context[key]]
    return context
