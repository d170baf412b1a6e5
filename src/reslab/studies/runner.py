"""The jobs of a plan done one after another in this process, or by several local processes.

A study handed to SLURM: an array script, one task a training.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from reslab.runtime.interrupts import Interrupted
from reslab.studies.cost import PROCESS_BYTES, memory_bytes
from reslab.studies.job import Place, Say, do
from reslab.studies.plan import Job, is_done
from reslab.studies.store import Taken

TRIES = 2
STOPPED = "stopped; what is done is kept, and the same command goes on from there"
_LOOK_AGAIN_SECONDS = 0.5


@dataclass
class Outcome:
    """What became of the jobs that were missing: `failed` says why, by the job's number; `notes` what was said.
    Each was tried up to `num_tries` times."""

    num_tries: int = TRIES
    failed: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_here(jobs: Sequence[Job], place: Place, num_tries: int = TRIES) -> Outcome:
    """Do the jobs in this process; one that another worker has is come back to.

    A job whose work fails is tried once more, then told in the outcome. Raises Interrupted on Ctrl-C: what is done is
    kept, and the training under way goes on where it was.
    """
    outcome, tries = Outcome(num_tries), dict.fromkeys((job.number for job in jobs), 0)
    waiting = list(jobs)
    while waiting:
        job = waiting.pop(0)
        try:
            with place.store.lock(job.key):
                began = time.perf_counter()
                do(job, place)
                place.say(f"{job.name}: done in {time.perf_counter() - began:.0f} s, {len(waiting)} left")
        except Taken as other:
            waiting.append(job)
            if tries[job.number] == 0:
                place.say(f"{job.name}: {other} is at it")
                tries[job.number] = -1
            time.sleep(_LOOK_AGAIN_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted(STOPPED) from None
        except Exception as error:
            _failed(job, f"{type(error).__name__}: {error}", tries, waiting, outcome, place.say)
    return outcome


def _failed(job: Job, why: str, tries: dict[int, int], waiting: list[Job], outcome: Outcome, say: Say) -> None:
    tries[job.number] = max(0, tries[job.number]) + 1
    if tries[job.number] < outcome.num_tries:
        note = f"{job.name}: {why}; it is tried once more"
        waiting.append(job)
    else:
        note = f"{job.name}: given up after {tries[job.number]} tries: {why}"
        outcome.failed[job.number] = why
    outcome.notes.append(note)
    say(note)


def run_in_processes(jobs: Sequence[Job], place: Place, num_jobs: int, command: Sequence[str]) -> Outcome:
    """Do the jobs by `num_jobs` processes at a time, each one job: `command` with `--task NUMBER` behind it.

    Each computes with one thread unless OMP_NUM_THREADS says another number. A job whose process dies is tried once
    more, then told. On Ctrl-C every process saves its state and ends before Interrupted is raised.
    """
    outcome, tries = Outcome(), dict.fromkeys((job.number for job in jobs), 0)
    waiting = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with _ended_like_ctrl_c():
        try:
            while waiting or running:
                while waiting and len(running) < num_jobs:
                    job = waiting.pop(0)
                    running[job.number] = (job, _start(job, place, command))
                time.sleep(_LOOK_AGAIN_SECONDS / 5)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.number]
                        _ended(job, process.returncode, place, tries, waiting, outcome)
                        place.say(f"{len(waiting) + len(running)} of {len(jobs)} jobs left")
        except KeyboardInterrupt:
            _stop([process for _, process in running.values()])
            raise Interrupted(STOPPED) from None
    return outcome


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM is a KeyboardInterrupt, so that no worker is left behind; only the main thread can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ended(job: Job, code: int, place: Place, tries: dict[int, int], waiting: list[Job], outcome: Outcome) -> None:
    if code == 0 and is_done(place.store.entry(job.key), job):
        place.say(f"{job.name}: done")
        return
    died = (
        f"its worker was killed by {signal.Signals(-code).name}" if code < 0 else f"its worker ended with code {code}"
    )
    last = _last_line(_log_path(job, place))
    _failed(job, f"{died}{f' ({last})' if last else ''}", tries, waiting, outcome, place.say)


def _start(job: Job, place: Place, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    path = _log_path(job, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with path.open("wb") as log:
        words = [*command, "--task", str(job.number)]
        # A session of its own: Ctrl-C reaches it once, through us.
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)


def _log_path(job: Job, place: Place) -> Path:
    return place.store.path / "logs" / f"{job.key}.txt"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _stop(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait()


def own_command(words: Sequence[str]) -> list[str]:
    """The command line of a worker: this interpreter, this package."""
    return [sys.executable, "-m", "reslab", *words]


_TIMES_THE_PRICE = 2.0


def slurm_script(
    name: str, jobs: Sequence[Job], command: Sequence[str], logs: Path, folder: Path, longest_seconds: float
) -> str:
    """The script for `sbatch`: an array of the jobs' numbers, each of which does `command --task NUMBER` in `folder`.

    `longest_seconds` is the price of the longest of them; twice that is asked for, and twice the memory of the largest.
    """
    words = shlex.join(command)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=reslab-{name.replace('/', '-')}",
        f"#SBATCH --array={ranges([job.number for job in jobs])}",
        f"#SBATCH --output={logs.resolve()}/slurm-%A_%a.txt",
        f"#SBATCH --time={_minutes(longest_seconds)}",
        f"#SBATCH --mem={_megabytes(jobs)}M",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --requeue",
        "##SBATCH --gres=gpu:1   (one # less asks for a GPU)",
        f"# {len(jobs)} trainings of {name}, {jobs[0].row.scale} scale.",
        "# One that was stopped goes on where it was when it is sent again.",
        "# When all have ended, the same command without --task writes the page:",
        f"#   {words}",
        "set -euo pipefail",
        f"cd {shlex.quote(str(folder.resolve()))}",
        f'exec {words} --task "${{SLURM_ARRAY_TASK_ID:?sbatch sets it}}"',
    ]
    return "\n".join(lines) + "\n"


def ranges(numbers: Sequence[int]) -> str:
    """`0-3,7,9-10`, as --array takes it."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _megabytes(jobs: Sequence[Job]) -> int:
    return -(-round(2 * (PROCESS_BYTES + max(memory_bytes(job.row) for job in jobs))) // 1_000_000)


def _minutes(longest_seconds: float) -> str:
    whole = max(10, round(longest_seconds * _TIMES_THE_PRICE / 60) + 10)
    return f"{whole // 60}:{whole % 60:02d}:00"
