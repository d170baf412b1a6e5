"""One job done: the training that is missing, its figures, the answers to what is asked of its network."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.runtime.device import hardware, num_threads_for
from reslab.runtime.provenance import command, commit, versions
from reslab.studies.asking import ask_missing
from reslab.studies.cost import work_macs
from reslab.studies.metrics import measure
from reslab.studies.plan import Job, is_done, measured_metrics
from reslab.studies.resolve import weight
from reslab.studies.store import NUMERICS_VERSION, Entry, Store, identity
from reslab.training.meters import Diverged
from reslab.training.run import Run
from reslab.training.telling import Show
from reslab.training.train import train

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
