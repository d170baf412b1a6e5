"""Which colour each of several answers has: one a network, snapshots of one run from pale to strong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.report.analyses.result import ShownFigure
from reslab.report.plots.depth import Profile, StepLine, steps_figure
from reslab.report.plots.style import SERIES


@dataclass(frozen=True)
class Tint:
    """The look of one answer's line: a colour by its place in the palette, dashed from the fifth network on."""

    label: str
    colour: int
    dashed: bool = False
    strength: float = 1.0


def tints(answers: Sequence[Mapping[str, Any]]) -> list[Tint]:
    """The look of each answer; of more than two snapshots of a run only the first and the last are named."""
    groups: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        groups.setdefault(_family(answer), []).append(place)
    found: dict[int, Tint] = {}
    labels = short_names([str(answer["subject"]) for answer in answers])
    for number, (_, places) in enumerate(groups.items()):
        for rank, place in enumerate(places):
            strength = 1.0 if len(places) == 1 else 0.25 + 0.75 * rank / (len(places) - 1)
            named = len(places) <= 2 or rank in (0, len(places) - 1)
            label = labels[place] if named else ""
            found[place] = Tint(label, number % len(SERIES), number >= len(SERIES), strength)
    return [found[place] for place in range(len(answers))]


def short_names(names: Sequence[str]) -> list[str]:
    """Names without what they share: `runs/a@0` as `a@0`; `resnet56_cifar:order=original` as `order=original` where all
    are of one network."""
    ends = [Path(name).name if ":" not in name else name for name in names]
    parts = [name.split(":") for name in (ends if len(set(ends)) == len(set(names)) else names)]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    return [":".join(part for part in each if part not in shared) or each[0] for each in parts]


def _family(answer: Mapping[str, Any]) -> str:
    name = str(answer["subject"])
    return name.rpartition("@")[0] if answer.get("step") is not None and "@" in name else name


def titled(title: str, answers: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]]) -> str:
    """A title that names the one network of several that has something to draw."""
    return f"{title}: {drawn[0]['subject']}" if len(drawn) == 1 < len(answers) else title


def overlaid(
    answers: Sequence[Mapping[str, Any]], colours: Sequence[Tint], values: Callable[[Mapping[str, Any]], Sequence[Any]]
) -> list[Profile]:
    """A line for each answer, in its look."""
    return [
        Profile(tint.label, values(answer), tint.colour, dashed=tint.dashed, strength=tint.strength)
        for answer, tint in zip(answers, colours, strict=True)
    ]


def along_training(
    answers: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float], title: str, log: bool = True
) -> list[ShownFigure]:
    """One measure of each snapshot against its step, where a run has three or more; else nothing."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer.get("step") is not None:
            groups.setdefault(_family(answer), []).append(answer)
    names = dict(zip(groups, short_names(list(groups)), strict=True))
    lines = [
        StepLine(names[name], [answer["step"] for answer in group], [value(answer) for answer in group], place)
        for place, (name, group) in enumerate(groups.items())
        if len(group) > 2
    ]
    if not lines:
        return []
    title = f"{title}, along training"
    return [ShownFigure(steps_figure(lines, log=log), f"{title}, against the step.", title)]
