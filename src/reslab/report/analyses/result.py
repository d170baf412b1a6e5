"""The rendered result of an analysis, and several networks in one plot: their colors, short names and block names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reslab.report.colors import NETWORK_COLORS
from reslab.report.plots.depth import DepthProfile, SnapshotCurve, plot_snapshots

# The result of one network as plain data, as `reslab analyze --json` prints it.
Result = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RenderedFigure:
    """A figure with its alternative text, title and caption."""

    figure: Figure
    alt_text: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class RenderedTable:
    """Rows of text under their columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class RenderedResult:
    """The paragraphs, figures and tables of an analysis; the first paragraph is the main finding."""

    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[RenderedFigure, ...] = ()
    tables: tuple[RenderedTable, ...] = ()


@dataclass(frozen=True)
class LineStyle:
    """The style of a network's line: the index of its color, dashed from the fifth network on."""

    label: str
    color_index: int
    dashed: bool = False
    alpha: float = 1.0


def line_styles(results: Sequence[Result]) -> list[LineStyle]:
    """Return the style of each result.

    Snapshots of one run have its color, from pale to strong; of more than two, only the first and last have a label.
    """
    groups: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        groups.setdefault(_run_name(result), []).append(index)
    styles: dict[int, LineStyle] = {}
    labels = shorten_names([str(result["model"]) for result in results])
    color_indices = _color_indices(list(groups))
    for group_index, indices in enumerate(groups.values()):
        for rank, index in enumerate(indices):
            alpha = 1.0 if len(indices) == 1 else 0.25 + 0.75 * rank / (len(indices) - 1)
            is_labeled = len(indices) <= 2 or rank in (0, len(indices) - 1)
            label = labels[index] if is_labeled else ""
            styles[index] = LineStyle(
                label, color_indices[group_index], dashed=group_index >= len(NETWORK_COLORS), alpha=alpha
            )
    return [styles[index] for index in range(len(results))]


def _color_indices(names: Sequence[str]) -> list[int]:
    """Return the color of each network: a plain one always has the second, which no residual one beside it has."""
    is_plain = [_is_plain(name) for name in names]
    if not any(is_plain):
        return [index % len(NETWORK_COLORS) for index in range(len(names))]
    residual_indices = [index for index in range(len(NETWORK_COLORS)) if index != 1]
    return [
        1 if plain else residual_indices[is_plain[:index].count(False) % len(residual_indices)]
        for index, plain in enumerate(is_plain)
    ]


def _is_plain(spec: str) -> bool:
    """Return True for a model spec without shortcuts, such as `plain20_cifar` or `resnet20_cifar:merge=none`."""
    name, *overrides = spec.split(":")
    return "merge=none" in overrides or (
        name.startswith("plain") and not any(o.startswith("merge=") for o in overrides)
    )


def shorten_names(names: Sequence[str]) -> list[str]:
    """Return the names without what they share.

    `runs/a@0` becomes `a@0`; `resnet56_cifar:order=original` becomes `order=original` where all are of one network.
    """
    ends = [Path(name).name if ":" not in name else name for name in names]
    split_names = [name.split(":") for name in (ends if len(set(ends)) == len(set(names)) else names)]
    shared = set(split_names[0]).intersection(*split_names[1:]) if len(split_names) > 1 else set()
    return [":".join(part for part in name_parts if part not in shared) or name_parts[0] for name_parts in split_names]


def _run_name(result: Result) -> str:
    name = str(result["model"])
    return name.rpartition("@")[0] if result.get("step") is not None and "@" in name else name


def title_for_subject(title: str, results: Sequence[Result], drawn_results: Sequence[Result]) -> str:
    """Return the title, with the network's name where only one of several networks is drawn."""
    return f"{title}: {drawn_results[0]['model']}" if len(drawn_results) == 1 < len(results) else title


def overlay_profiles(
    results: Sequence[Result],
    styles: Sequence[LineStyle],
    values: Callable[[Result], Sequence[Any]],
) -> list[DepthProfile]:
    """Return a profile for each result, in its style."""
    return [
        DepthProfile(style.label, values(result), style.color_index, dashed=style.dashed, alpha=style.alpha)
        for result, style in zip(results, styles, strict=True)
    ]


def shared_names(results: Sequence[Result], names: Callable[[Result], Sequence[str]]) -> Sequence[str]:
    """Return the names of blocks or layers where all networks have the same ones; else none, and plots use numbers."""
    first = list(names(results[0]))
    return first if all(list(names(result)) == first for result in results) else ()


def block_labels(results: Sequence[Result]) -> Sequence[str]:
    """Return the labels of the blocks, as the tables have them, where all networks share them."""
    return shared_names(results, lambda result: [str(block["label"]) for block in result["blocks"]])


def number_rows(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    """Return the rows with numbers before their names where the plots have numbers, as networks differ in names."""
    return [list(row) if names else [f"{i}  {row[0]}", *row[1:]] for i, row in enumerate(rows, 1)]


def render_snapshots(
    results: Sequence[Result], value: Callable[[Result], float], title: str, log: bool = True
) -> list[RenderedFigure]:
    """Return a figure of a measure against the step, where a run has three or more snapshots; else none."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.get("step") is not None:
            groups.setdefault(_run_name(result), []).append(result)
    names = dict(zip(groups, shorten_names(list(groups)), strict=True))
    curves = [
        SnapshotCurve(
            names[name], [result["step"] for result in group], [value(result) for result in group], color_index
        )
        for color_index, (name, group) in enumerate(groups.items())
        if len(group) > 2
    ]
    if not curves:
        return []
    title = f"{title}, during training"
    return [RenderedFigure(plot_snapshots(curves, log=log), f"{title}, against the step.", title)]
