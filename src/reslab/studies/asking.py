"""The questions of a study, put to the network of an entry; the answers kept beside it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reslab.analysis.pictures import find_pictures
from reslab.analysis.registry import ask, default_data
from reslab.analysis.room import NoRoom
from reslab.analysis.subject import Subject, fresh_network, open_subjects
from reslab.runtime.files import write_whole
from reslab.spec.config import to_dict
from reslab.spec.study import Asked
from reslab.studies.plan import Job
from reslab.studies.store import Entry


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
