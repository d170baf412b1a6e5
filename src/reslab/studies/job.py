"""One job done: the training that is missing, its figures, the answers to what is asked of its network.

The questions of a study, put to the network of an entry; the answers kept beside it.

Rows that are several networks: the mean of the members' probabilities, judged once and kept in the store.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.analysis.progress import NoRoom
from reslab.analysis.registry import ask, default_data
from reslab.analysis.subject import Subject, find_pictures, fresh_network, open_subjects
from reslab.runtime.device import hardware, num_threads_for
from reslab.runtime.files import write_whole
from reslab.runtime.provenance import command, commit, versions
from reslab.spec.config import to_dict
from reslab.spec.study import Asked
from reslab.studies.cost import work_macs
from reslab.studies.metrics import last_network, measure, scores_of
from reslab.studies.plan import Job, Plan, is_done, measured_metrics
from reslab.studies.resolve import Definite, weight
from reslab.studies.store import NUMERICS_VERSION, Entry, Store, identity
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.meters import Diverged
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.run_logger import Show
from reslab.training.train import train


def ask_missing(
    job: Job, entry: Entry, data_dir: str | Path | None, device: str, note: Callable[[str], None]
) -> dict[str, str]:
    """Ask what was not answered yet; returns why of what this network cannot be asked, by the name of its answer.

    Raises NoRoom where the memory is too small now.
    """
    unanswered = {}
    for asked in job.asked:
        if entry.answer(asked) is not None:
            continue
        if entry.answer_path(asked).exists():
            note(f"its answer to {asked.question} could not be read and is found again")
        began = time.perf_counter()
        try:
            answer = _answer(job, entry, asked, data_dir, device)
        except NoRoom:
            raise  # this says nothing of the network: it is asked again
        except ValueError as error:
            note(f"{asked.question} has no answer: {error}")
            unanswered[entry.answer_path(asked).stem] = str(error)
            continue
        told = {"question": to_dict(asked), "answer": to_dict(answer), "seconds": time.perf_counter() - began}
        write_whole(entry.answer_path(asked), json.dumps(told).encode())
    return unanswered


def _answer(job: Job, entry: Entry, asked: Asked, data_dir: str | Path | None, device: str) -> Any:
    settings = dict(setting.split("=", 1) for setting in asked.settings)
    subject = _subject(job, entry, asked, data_dir, device)
    return ask(asked.question, [subject], settings)[0]


def _subject(job: Job, entry: Entry, asked: Asked, data_dir: str | Path | None, device: str) -> Subject:
    """The network with its pictures: of the run's held-out split, or those of the row's data."""
    data = default_data(asked.question)
    if entry.run is not None:
        options: dict[str, Any] = {"data": data, "num_images": asked.num_images, "seed": job.seed, "at": asked.at}
        return open_subjects([str(entry.run_path)], data_dir=data_dir, device=device, **options)[0]
    arch = job.row.arch
    assert arch is not None
    network = fresh_network(arch, job.seed)
    pictures = find_pictures(arch, data or job.row.data, data_dir, asked.num_images, job.seed)
    images, labels = pictures.images.to(device), pictures.labels.to(device)
    return Subject(arch.name, network.to(device).eval(), images, labels, pictures.data, pictures.classes, None, 0)


Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where jobs are done: the store, the folder of data, the device; `say` tells a person, `show` takes a run's lines.

    `save_every_seconds`: how much a killed training loses at most.
    """

    store: Store
    data_dir: str | Path | None = None
    device: str = "auto"
    say: Say = lambda _: None
    show: Show = lambda _: None
    save_every_seconds: float = 60.0


def do(job: Job, place: Place) -> Entry:
    """Do what is missing of a job, in an entry that is locked by the caller, and return it.

    A damaged entry is made again, which is said. A loss that is not finite is a result: `diverged`. Raises Interrupted
    on Ctrl-C, with the training's state kept.
    """
    entry = place.store.entry(job.key)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(f"{job.name}: {text}")
        place.say(notes[-1])

    if damage := entry.damage():
        note(f"its entry {job.key} was damaged ({damage}) and is made again")
        entry.clear()
    if is_done(entry, job):
        return entry
    began = time.perf_counter()
    device = torch.device(place.device if place.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    told, diverged = entry.facts, str(entry.facts.get("words", ""))
    spent = told.get("processor_seconds")
    if job.row.recipe is not None and told.get("status") not in ("done", "diverged"):
        fresh, clock = not entry.path.exists(), _clock(device)
        diverged = _train(job, entry, place, note)
        spent = _clock(device) - clock if fresh and not diverged else None
    values = dict(entry.values) if diverged else _values(job, entry, place, device)
    unanswered = dict(told.get("unanswered", {}))
    unanswered |= {} if diverged else ask_missing(job, entry, place.data_dir, str(device), note)
    seconds = told.get("seconds", 0.0) + time.perf_counter() - began
    facts = _facts(job, device) | {"values": values, "unanswered": unanswered, "seconds": seconds}
    facts["notes"] = [*told.get("notes", ()), *notes]
    status = {"status": "diverged" if diverged else "done", "words": diverged, "processor_seconds": spent}
    entry.write(facts | status)
    for key in place.store.mark_older(identity(job.row, job.seed), job.key):
        place.say(f"{job.name}: the entry {key} of older numerics is kept, and marked as superseded")
    return entry


def _train(job: Job, entry: Entry, place: Place, note: Say) -> str:
    """Train, or go on with a training that was stopped; what is said where it diverged, else an empty string."""
    try:
        _go(job, entry, place)
    except Diverged as error:
        return str(error)
    except ValueError as error:
        # A state that a crash left unreadable: what it held can be made again.
        if not (entry.run_path / "run.json").is_file():
            raise
        note(f"its training could not be taken up ({error}) and started again")
        entry.clear()
        try:
            _go(job, entry, place)
        except Diverged as again:
            return str(again)
    return ""


def _go(job: Job, entry: Entry, place: Place) -> Run:
    row = job.row
    return train(
        row.cut.model or row.row.model,
        row.data,
        row.cut.recipe or row.row.recipe,
        seed=job.seed,
        output=entry.run_path,
        resume=(entry.run_path / "run.json").is_file(),
        settings=row.settings,
        data_dir=place.data_dir,
        num_images=row.num_images,
        device=place.device,
        show=place.show,
        save_every_seconds=place.save_every_seconds,
    )


def _values(job: Job, entry: Entry, place: Place, device: torch.device) -> dict[str, float]:
    run = entry.run
    if run is None:
        return {}
    folder = None if place.data_dir is None else str(place.data_dir)
    views = job.row.views if f"test_error@{job.row.views}" not in entry.values else ""
    found = measure(run, measured_metrics(job) - entry.values.keys(), device, folder, views)
    return {**entry.values, **{name: value for name, value in found.items() if math.isfinite(value)}}


def _clock(device: torch.device) -> float:
    """Seconds of this process's processors; of a GPU, seconds."""
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def _facts(job: Job, device: torch.device) -> dict[str, Any]:
    row = job.row
    assert row.arch is not None
    return {
        "format": 1,
        "key": job.key,
        "numerics": NUMERICS_VERSION,
        "identity": identity(row, job.seed),
        "macs": weight(row.arch).macs,
        "params": weight(row.arch).params,
        "work_macs": work_macs(row),
        "hardware": hardware(device, num_threads_for(row.arch.input_size, device)),
        "versions": versions(),
        "command": command(),
        "commit": commit(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


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
