"""Which colour each of several answers has: one a network, snapshots of one run from pale to strong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.report.analyses.result import RenderedFigure
from reslab.report.plots.depth import DepthProfile, SnapshotCurve, plot_snapshots
from reslab.report.plots.style import PALETTE


@dataclass(frozen=True)
class LineStyle:
    """The look of one answer's line: a colour by its place in the palette, dashed from the fifth network on."""

    label: str
    color_index: int
    dashed: bool = False
    alpha: float = 1.0


def line_styles(results: Sequence[Mapping[str, Any]]) -> list[LineStyle]:
    """The look of each answer; of more than two snapshots of a run only the first and the last are named."""
    groups: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        groups.setdefault(_run_name(result), []).append(index)
    styles: dict[int, LineStyle] = {}
    labels = shorten_names([str(result["model"]) for result in results])
    for group_index, (_, indices) in enumerate(groups.items()):
        for rank, index in enumerate(indices):
            alpha = 1.0 if len(indices) == 1 else 0.25 + 0.75 * rank / (len(indices) - 1)
            is_labeled = len(indices) <= 2 or rank in (0, len(indices) - 1)
            label = labels[index] if is_labeled else ""
            styles[index] = LineStyle(label, group_index % len(PALETTE), group_index >= len(PALETTE), alpha)
    return [styles[index] for index in range(len(results))]


def shorten_names(names: Sequence[str]) -> list[str]:
    """Names without what they share: `runs/a@0` as `a@0`; `resnet56_cifar:order=original` as `order=original` where all
    are of one network."""
    ends = [Path(name).name if ":" not in name else name for name in names]
    split_names = [name.split(":") for name in (ends if len(set(ends)) == len(set(names)) else names)]
    shared = set(split_names[0]).intersection(*split_names[1:]) if len(split_names) > 1 else set()
    return [":".join(part for part in name_parts if part not in shared) or name_parts[0] for name_parts in split_names]


def _run_name(result: Mapping[str, Any]) -> str:
    name = str(result["model"])
    return name.rpartition("@")[0] if result.get("step") is not None and "@" in name else name


def title_for_subject(
    title: str, results: Sequence[Mapping[str, Any]], drawn_results: Sequence[Mapping[str, Any]]
) -> str:
    """A title that names the one network of several that has something to draw."""
    return f"{title}: {drawn_results[0]['model']}" if len(drawn_results) == 1 < len(results) else title


def overlay_profiles(
    results: Sequence[Mapping[str, Any]],
    styles: Sequence[LineStyle],
    values: Callable[[Mapping[str, Any]], Sequence[Any]],
) -> list[DepthProfile]:
    """A line for each answer, in its look."""
    return [
        DepthProfile(style.label, values(result), style.color_index, dashed=style.dashed, alpha=style.alpha)
        for result, style in zip(results, styles, strict=True)
    ]


def render_snapshots(
    results: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float], title: str, log: bool = True
) -> list[RenderedFigure]:
    """One measure of each snapshot against its step, where a run has three or more; else nothing."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
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
    title = f"{title}, along training"
    return [RenderedFigure(plot_snapshots(curves, log=log), f"{title}, against the step.", title)]
