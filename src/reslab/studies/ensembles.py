"""Rows that are several networks: the mean of the members' probabilities, judged once and kept in the store."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.runtime.files import write_whole
from reslab.studies.job import Place
from reslab.studies.metrics import last_network, scores_of
from reslab.studies.plan import Job, Plan, is_done
from reslab.studies.resolve import Definite
from reslab.studies.store import Store
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run_data import reopen_data


@dataclass(frozen=True)
class Ensemble:
    """The members of a row with one seed, each a job of the plan."""

    row: Definite
    seed: int
    members: tuple[Job, ...]

    def path(self, store: Store) -> Path:
        """Where its figures are kept: known by its members and how it is judged."""
        told = json.dumps([self.row.views, *(job.key for job in self.members)])
        return store.path / "ensembles" / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"

    def values(self, store: Store) -> dict[str, float]:
        """Its figures; empty where they were not measured."""
        try:
            found: Any = json.loads(self.path(store).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def ensembles(plan: Plan, row: Definite) -> list[Ensemble]:
    """A row's ensembles, one for each seed that the plan has for every member."""
    found = []
    for seed in range(plan.num_seeds[row.row.name]):
        jobs = [job for name in row.row.members for job in plan.jobs_of(name) if job.seed == seed]
        if len(jobs) == len(row.row.members):
            found.append(Ensemble(row, seed, tuple(jobs)))
    return found


def judge_ensembles(plan: Plan, place: Place) -> None:
    """Judge those whose members are all trained, where that was not done before."""
    for row in plan.rows:
        for one in ensembles(plan, row) if row.row.members else ():
            if not one.values(place.store) and _is_ready(one, place.store):
                place.say(f"{row.row.name}, seed {one.seed}: {len(one.members)} networks judged together")
                text = json.dumps(_judged(one, place), allow_nan=False)
                write_whole(one.path(place.store), text.encode())


def _is_ready(one: Ensemble, store: Store) -> bool:
    entries = [(store.entry(job.key), job) for job in one.members]
    return all(is_done(entry, job) and entry.facts["status"] == "done" and entry.run for entry, job in entries)


def _judged(one: Ensemble, place: Place) -> dict[str, float]:
    runs = [run for job in one.members if (run := place.store.entry(job.key).run) is not None]
    data = reopen_data(runs[0].facts["data"], None, place.data_dir)
    networks = [last_network(run) for run in runs]
    return scores_of(evaluate(networks, data, views=one.row.views, device=place.device))
