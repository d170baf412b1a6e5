"""The figures of one seed of a row: from its entry, its log, and the answers to what was asked."""

import math
from collections.abc import Mapping
from typing import Any

from reslab.studies.measure import DEFAULT_TRAIN_ERROR, Lines, last_epoch, steps_to_error
from reslab.studies.plan import Job
from reslab.studies.store import Entry


def values_of(job: Job, entry: Entry, log: Lines) -> dict[str, float]:
    """Every figure of an entry by metric; one that diverged has the errors of guessing."""
    facts = entry.facts
    found = {"params": float(facts["params"]), "macs": float(facts["macs"])}
    if facts["status"] == "diverged":
        return found | _guessing(job)
    found |= facts["values"]
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
    """The number at a path into an answer (`lesion.mean_increase`); None where there is none."""
    question, _, path = name.partition(".")
    for told in (question, f"{question}@init"):
        found: Any = answers.get(told)
        for part in path.split("."):
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return None
