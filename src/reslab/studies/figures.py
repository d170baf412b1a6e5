"""The figures of one seed of a row: from its entry, its log, and the answers to what was asked."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from reslab.studies.metrics import DEFAULT_TRAIN_ERROR, Lines, last_epoch, steps_to_error
from reslab.studies.plan import Job
from reslab.studies.store import Entry

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "median": median, "min": min, "max": max}


def values_of(job: Job, entry: Entry, log: Lines) -> dict[str, float]:
    """Every figure of an entry by metric; one that diverged has the errors of guessing."""
    facts = entry.facts
    found = {"params": float(facts["params"]), "macs": float(facts["macs"])}
    if facts["status"] == "diverged":
        return found | _guessing(job)
    found |= {name: value for name, value in facts["values"].items() if "@" not in name}
    for name, value in facts["values"].items():
        if job.row.views and name.endswith(f"@{job.row.views}"):
            found[name.partition("@")[0]] = value
    if any(line["kind"] == "train" for line in log):
        found["train_loss"], found["train_error"] = last_epoch(log, job.row.steps_per_epoch)
        level = job.row.cut.train_error or DEFAULT_TRAIN_ERROR
        found["steps_to_train_error"] = steps_to_error(log, level)
    if "train_error_eval" in found and "test_error" in found:
        found["gap"] = found["test_error"] - found["train_error_eval"]
    return found


def _guessing(job: Job) -> dict[str, float]:
    assert job.row.arch is not None
    chance = 100 * (1 - 1 / job.row.arch.num_classes)
    names = ("test_error", "train_error", "train_error_eval", "train_error_batch", "test_error_batch")
    return {**dict.fromkeys(names, chance), "steps_to_train_error": math.inf}


def row_value(name: str, answers: Mapping[str, Any]) -> float | None:
    """The number at a path into an answer (`lesion.error`); None where there is none.

    A part that meets a list is taken of each of its members, and one of `REDUCTIONS` or a place makes one number of
    a list: `lesion.units.error.median`, `landscape.largest.0`; `peak` is the place of its largest, from 0.
    """
    question, _, path = name.partition(".")
    for told in (question, f"{question}@init"):
        found: Any = answers.get(told)
        for part in path.split("."):
            found = _step(found, part)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return None


def _step(found: Any, part: str) -> Any:
    """What a part of a path leads to; None where it leads nowhere."""
    if isinstance(found, Mapping):
        return found.get(part)
    if not isinstance(found, list):
        return None
    if part.isdigit():
        return found[int(part)] if int(part) < len(found) else None
    if part == "peak":
        places = [place for place, one in enumerate(found) if isinstance(one, int | float)]
        return max(places, key=found.__getitem__, default=None)
    if part in REDUCTIONS:
        numbers = [one for one in found if isinstance(one, int | float)]
        return REDUCTIONS[part](numbers) if numbers else None
    return [one.get(part) for one in found if isinstance(one, Mapping)]
