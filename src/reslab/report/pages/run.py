"""The page of a run: metrics, training curves, classification results, and the size of the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reslab.report.colors import TRAINING
from reslab.report.drawings.canvas import render_inline_svg, style_sheet
from reslab.report.drawings.network import SHAPE_WORDS, block_kinds, draw_kind, draw_strip
from reslab.report.format import (
    format_duration,
    format_int,
    format_number,
    format_percent,
    format_shape,
    format_si,
    format_split,
    format_times,
    pluralize,
)
from reslab.report.pages.classification import ClassificationResults
from reslab.report.pages.components import TaskResults, make_tile, metric_panel
from reslab.report.series import (
    Curve,
    LogRecords,
    Series,
    eval_series,
    eval_splits,
    first_eval_series,
    tail_mean,
    train_series,
)
from reslab.spec.arch import Arch
from reslab.spec.shapes import network_layers
from reslab.spec.task import LOSS, Task

MAX_LAYER_ROWS, MAX_BLOCK_KINDS = 600, 4
_STAGE_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+")
_BLOCK_PATTERN = re.compile(r"(layer|stage|stages|block|blocks)[._]?\d+\.\d+")


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers together: their parameters, multiply-adds for one image, and the last one's output shape."""

    name: str
    output_shape: Any
    num_layers: int
    params: int
    macs: int


def model_size_context(layers: Sequence[Mapping[str, Any]], *, depth: int, params: int, macs: int) -> dict[str, Any]:
    """Return tiles of the totals, a row for each stage, and one for each layer (each block, above 600 layers)."""
    tiles = []
    if depth:
        tiles.append(make_tile("depth", format_int(depth), "weighted layers, without projections"))
    if params:
        tiles.append(
            make_tile("parameters", format_si(params), f"{format_int(params)}: {_file_size_text(params)} in float32")
        )
    if macs:
        tiles.append(make_tile("multiply-adds", format_si(macs), "forward pass of one image"))
    return {
        "size_tiles": tiles,
        "stage_rows": _group_rows(group_layers_by_stage(layers)),
        "layer_rows": _group_rows(group_by_layer(layers)),
        "layers_caption": _layers_caption(len(layers)),
    }


def drawing_context(arch: Arch | None) -> dict[str, Any]:
    """Return the drawings of a network: the row of its parts, and a block of each kind; empty without an `arch`."""
    if arch is None:
        return {"network_drawing": "", "block_drawings": [], "drawing_style": "", "drawing_caption": ""}
    network = network_layers(arch)
    kinds = block_kinds(network)
    others = f"; {len(kinds) - MAX_BLOCK_KINDS} more kinds are not drawn" if len(kinds) > MAX_BLOCK_KINDS else ""
    return {
        "network_drawing": render_inline_svg(draw_strip(network, kinds)),
        "block_drawings": [render_inline_svg(draw_kind(kind, arch)) for kind in kinds[:MAX_BLOCK_KINDS]],
        "drawing_style": style_sheet(),
        "drawing_caption": f"{arch.name}: stages, and a block of each kind with its shortcut beside the branch. Shapes "
        f"are {SHAPE_WORDS[arch.dims]}{others}.",
    }


def group_layers_by_stage(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroup]:
    """Sum the layers by stage; those before the first stage are the stem, those after the last one the head."""
    names = [_match_prefix(_STAGE_PATTERN, layer["name"]) for layer in layers]
    stage_indices = [index for index, name in enumerate(names) if name]
    if stage_indices:
        names[: stage_indices[0]] = ["stem"] * stage_indices[0]
        names[stage_indices[-1] + 1 :] = ["head"] * (len(names) - stage_indices[-1] - 1)
    group_names = [name or layer["name"].split(".")[0] for name, layer in zip(names, layers, strict=True)]
    return _group(layers, group_names)


def group_by_layer(layers: Sequence[Mapping[str, Any]]) -> list[LayerGroup]:
    """Return one group for each layer; for each block where there are more than 600 layers."""
    names = [str(layer["name"]) for layer in layers]
    if len(layers) > MAX_LAYER_ROWS:
        names = [_match_prefix(_BLOCK_PATTERN, name) or name for name in names]
    return _group(layers, names)


def _match_prefix(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.match(name)
    return match[0] if match else ""


def _group(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[LayerGroup]:
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for name, layer in zip(names, layers, strict=True):
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    return [
        LayerGroup(
            name=name,
            output_shape=group[-1]["output_shape"],
            num_layers=len(group),
            params=sum(int(layer.get("params") or 0) for layer in group),
            macs=sum(int(layer.get("macs") or 0) for layer in group),
        )
        for name, group in groups
    ]


def _file_size_text(params: int) -> str:
    return f"{4 * params / 1e6:,.1f} MB" if params >= 25_000 else f"{4 * params / 1e3:,.1f} kB"


def _layers_caption(num_layers: int) -> str:
    if num_layers > MAX_LAYER_ROWS:
        return f"All {format_int(num_layers)} layers, summed by block"
    return f"All {pluralize(num_layers, 'layer')}"


def _group_rows(groups: Sequence[LayerGroup]) -> list[dict[str, Any]]:
    max_macs, total_macs = max((group.macs for group in groups), default=0), sum(group.macs for group in groups)
    return [
        {
            "name": group.name,
            "shape": format_shape(group.output_shape),
            "num_layers": format_int(group.num_layers),
            "params": format_int(group.params),
            "macs": format_int(group.macs),
            "width": round(100 * group.macs / max_macs, 1) if max_macs else 0,
            "share": format_percent(group.macs / total_macs, 1) if total_macs and group.macs else "–",
        }
        for group in groups
    ]


@dataclass(frozen=True)
class RunPage:
    """The values of a run's page; all except the title may be empty.

    `metrics` has the metrics of the task by name, split, num_samples and `selection_text`, which says how the evaluated
    weights were selected; `results` has the results of each image. `log` are the records of log.jsonl. `layers` are
    dicts of name, output_shape (without batch), params and macs. `arch`, where the network has one, is
    drawn. An empty `summary` is written from the metrics.
    """

    title: str
    summary: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    results: TaskResults = field(default_factory=ClassificationResults)
    layers: Sequence[Mapping[str, Any]] = ()
    depth: int = 0
    params: int = 0
    macs: int = 0
    arch: Arch | None = None
    kind: str = "Run report"


@dataclass(frozen=True)
class LoggedMetric:
    """A metric of log.jsonl that the page plots: its `key`, its `name`, and how it is written and drawn.

    If `averaged`, the log holds the mean over the steps since the last record, else the value at that step.
    """

    key: str
    name: str
    unit: str = ""
    averaged: bool = True

    def format(self, value: float) -> str:
        """Return a value of the metric as text."""
        return format_percent(value, 1) if self.unit == "%" else format_number(value, 3)


def logged_metrics(task: Task) -> tuple[LoggedMetric, ...]:
    """Return the metrics with one plot each, where the log has them: of every task, and this one's."""
    by_name = {metric.name: metric for metric in (task.selection_metric, *task.train_metrics) if metric != LOSS}
    own = [
        LoggedMetric(metric.name, metric.title[:1].upper() + metric.title[1:], "%" if metric.is_fraction else "")
        for metric in by_name.values()
    ]
    return (
        LoggedMetric("loss", "Loss"),
        *own,
        LoggedMetric("grad_norm", "Gradient norm"),
        LoggedMetric("lr", "Learning rate", averaged=False),
    )


def run_context(page: RunPage) -> dict[str, Any]:
    """Return the values of `run.html`; an empty one leaves its section out. Raises ValueError as the results do."""
    is_evaluated = bool(page.metrics.get("num_samples"))
    context: dict[str, Any] = {
        "kind": page.kind,
        "title": page.title,
        "summary": page.summary or (page.results.summary(page.metrics) if is_evaluated else _NOT_EVALUATED_TEXT),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": page.results.tiles(page.metrics) if is_evaluated else [],
        "selection": str(page.metrics.get("selection_text") or ""),
        "results_template": page.results.template,
        **training_context(page.log, page.results.task),
        **page.results.context(page.metrics),
        **model_size_context(page.layers, depth=page.depth, params=page.params, macs=page.macs),
        **drawing_context(page.arch),
    }
    sections = (
        ("training", "curves", "Training curves"),
        *page.results.sections,
        ("size", "size_tiles", "Size and cost"),
        ("metadata", "metadata", "Details"),
    )
    context["sections"] = [(anchor, title) for anchor, key, title in sections if context[key]]
    return context


_NOT_EVALUATED_TEXT = "Not evaluated: there are no validation or test images."


def training_context(log: LogRecords, task: Task) -> dict[str, Any]:
    """Return the plots of the logged metrics, the duration and throughput, and warnings of a diverged loss."""
    panels = [panel for metric in logged_metrics(task) for panel in _metric_panels(log, metric)]
    return {
        "curves": panels,
        "speed_tiles": _speed_tiles(log),
        "warnings": non_finite_warnings(log),
        "has_eval_loss": bool(first_eval_series(log, "loss")),
    }


def _metric_panels(log: LogRecords, metric: LoggedMetric) -> list[dict[str, Any]]:
    """Return the plot of a metric, none where the log does not have it."""
    curves = metric_curves(log, metric)
    if not curves:
        return []
    from reslab.report.plots.curves import plot_metric

    figure = plot_metric(curves, metric.unit, is_small=not metric.averaged)
    return [metric_panel(figure, metric.key, metric.name, metric_text(log, metric))]


def metric_curves(log: LogRecords, metric: LoggedMetric) -> list[Curve]:
    """Return the evaluations as solid lines and training as a dashed gray one; solid where there is nothing else."""
    evaluations = [(split, eval_series(log, split, metric.key)) for split in eval_splits(log)]
    curves = [Curve(series, format_split(split)) for split, series in evaluations if series]
    training = train_series(log, metric.key, averaged=metric.averaged)
    if training:
        curves.append(Curve(training, "training", TRAINING, dashed=bool(curves), is_noisy=metric.averaged))
    return curves


def metric_text(log: LogRecords, metric: LoggedMetric) -> str:
    """Return where a metric starts and ends, in training and on each evaluated split."""
    training = train_series(log, metric.key, averaged=metric.averaged)
    if not metric.averaged:
        return _value_text(training)
    clauses = [_range_text("training", metric, training, final=tail_mean(training))] if training else []
    for split in eval_splits(log):
        series = eval_series(log, split, metric.key)
        if series:
            clauses.append(_range_text(format_split(split), metric, series, final=series.y[-1]))
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _range_text(name: str, metric: LoggedMetric, series: Series, *, final: float) -> str:
    is_abbreviation = metric.name[1:2].isupper()
    label = f"{name} {metric.name if is_abbreviation else metric.name[:1].lower() + metric.name[1:]}"
    if len(series.x) == 1:
        return f"{label} {metric.format(final)}"
    return f"{label} from {metric.format(series.y[0])} to {metric.format(final)}"


def _value_text(series: Series) -> str:
    highest, final = max(series.y), series.y[-1]
    return (
        f"{highest:.3g} throughout." if min(series.y) == highest else f"At most {highest:.3g}, {final:.3g} at the end."
    )


def non_finite_warnings(log: LogRecords) -> list[str]:
    """Return a warning where the loss became NaN or infinite, which the plots leave out."""
    losses = [("training", train_series(log, "loss"))]
    losses += [(format_split(split), eval_series(log, split, "loss")) for split in eval_splits(log)]
    diverged = [(name, series) for name, series in losses if series.num_non_finite]
    if not diverged:
        return []
    counts = ", ".join(f"{name} loss {format_times(series.num_non_finite)}" for name, series in diverged)
    first_epoch = min(series.first_non_finite for _, series in diverged)
    return [
        f"Training diverged: the loss became NaN or infinite, first at epoch {first_epoch:.4g} ({counts}). "
        "Try a smaller learning rate or a longer warmup."
    ]


def _speed_tiles(log: LogRecords) -> list[dict[str, Any]]:
    """Return how long training took, by its last record, and the median of its throughputs."""
    records = [record for record in log if record.get("kind") == "train"]
    if not records:
        return []
    last, tiles = records[-1], []
    if last.get("epoch") is not None:
        tiles.append(make_tile("epochs", f"{float(last['epoch']):.4g}"))
    if last.get("step") is not None:
        tiles.append(make_tile("steps", format_int(round(float(last["step"])))))
    if last.get("seconds") is not None:
        tiles.append(make_tile("training time", format_duration(float(last["seconds"]))))
    throughputs = train_series(log, "images_per_second", averaged=False).y
    if throughputs:
        tiles.append(make_tile("images/s", format_int(round(median(throughputs))), "median"))
    return tiles
