"""Where a network to ask is: a run, a step of it, weights in a file, a name of the zoo with axes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslab.nn.third_party import LIBRARIES
from reslab.spec.errors import nearest, refuse, unknown
from reslab.spec.zoo import ARCHS
from reslab.training.run import Run, list_runs

# He et al. 2016, Fig. 4 (a) to (e).
FIVE_ORDERS = ("original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact")


@dataclass(frozen=True)
class Place:
    """One network: a name of the zoo with `axes`, or a `file` of weights, or a `run` (`step` 0 without a file is its
    beginning), or a `library` that has a network of the name behind its slash."""

    name: str
    arch_name: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    run: Run | None = None
    step: int | None = None
    library: str = ""


def read_place(text: str, at: str = "weights", axes: Mapping[str, Any] | None = None) -> list[Place]:
    """The networks that `text` names: one, or several for `order=*` and `at="all"`.

    Raises ValueError for a name that is neither a run, a file nor a network, and a step that was not kept.
    """
    name, *given = text.split(":")
    if name in ARCHS and not Path(name).exists():
        _check_fresh(text, at)
        return _of_zoo(text, name, given, axes or {})
    library, slash, _ = text.partition("/")
    if slash and library in LIBRARIES and not Path(text).exists():
        _check_fresh(text, at)
        _check_no_axes(text, axes)
        return [Place(text, library=library)]
    path, at_sign, step = text.rpartition("@")
    place = Path(path) if at_sign and not Path(text).exists() else Path(text)
    if not place.exists():
        known = [*ARCHS, *(str(run.path) for run in list_runs())]
        raise unknown("run, file of weights or network", name, known, "`reslab models` and `reslab runs` list them")
    _check_no_axes(text, axes)
    if place.is_dir():
        run = Run(place)
        return _of_run(run, str(place), step if place != Path(text) else at)
    run_of_file = Run(place.parent) if (place.parent / "run.json").is_file() else None
    return [Place(text, file=place, run=run_of_file)]


def _check_fresh(text: str, at: str) -> None:
    if at not in ("weights", "init"):
        raise refuse("--at only with runs", f"--at {at} and {text}, a network before training", "--at init")


def _check_no_axes(text: str, axes: Mapping[str, Any] | None) -> None:
    if axes:
        raise refuse("model.KEY only for networks of the zoo", f"{', '.join(axes)} and {text}")


def _of_zoo(text: str, name: str, given: list[str], axes: Mapping[str, Any]) -> list[Place]:
    found = dict(axes)
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals:
            raise refuse("NAME:AXIS=VALUE", text, f"{name}:mix=none")
        found[key] = value
    if found.get("order") != "*":
        return [Place(text, name, found)]
    return [Place(text.replace("order=*", f"order={order}"), name, {**found, "order": order}) for order in FIVE_ORDERS]


def _of_run(run: Run, name: str, at: str) -> list[Place]:
    """A run at its kept weights, its beginning, all its snapshots, or one of them."""
    if at == "weights":
        return [Place(name, run=run)]
    kept = dict(run.snapshots())
    if at == "all":
        if not kept:
            raise refuse("a run with snapshots", str(run.path), next_step="train with --snapshots '1 epoch'")
        return [Place(f"{name}@{step}", file=file, run=run, step=step) for step, file in kept.items()]
    step = _step_number(at, run)
    if step and step not in kept:
        near = min(kept, key=lambda other: abs(other - step), default=None)
        known = "no snapshot; train with --snapshots '1 epoch'" if near is None else f"{len(kept)} snapshots"
        raise refuse(f"a step of {run.path} that was kept", f"{step} ({known})", "" if near is None else f"@{near}")
    return [Place(f"{name}@{step}", file=kept.get(step), run=run, step=step)]


def _step_number(at: str, run: Run) -> int:
    if at == "init":
        return 0
    if at.isdigit():
        return int(at)
    near = (nearest(at, ("weights", "init", "all")) or ["init"])[0]
    raise refuse("weights, init, all or a step", repr(at), near, f"`reslab inspect QUESTION {run.path} --at {near}`")
