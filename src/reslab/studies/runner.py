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

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.studies.cost import PROCESS_BYTES, estimate_memory_bytes
from reslab.studies.job import JobContext, MessageCallback, run_job
from reslab.studies.plan import StudyJob, is_done
from reslab.studies.store import LockHeldError

MAX_TRIES = 2
STOPPED_MESSAGE = "stopped; what is done is kept, and the same command goes on from there"
_POLL_SECONDS = 0.5


@dataclass
class JobOutcomes:
    """What became of the jobs that were missing: `failed` says why, by the job's number; `notes` what was said.
    Each was tried up to `num_tries` times."""

    max_tries: int = MAX_TRIES
    failed: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_jobs(jobs: Sequence[StudyJob], context: JobContext, max_tries: int = MAX_TRIES) -> JobOutcomes:
    """Do the jobs in this process; one that another worker has is come back to.

    A job whose work fails is tried once more, then told in the outcome. Raises Interrupted on Ctrl-C: what is done is
    kept, and the training under way goes on where it was.
    """
    outcomes, tries = JobOutcomes(max_tries), dict.fromkeys((job.number for job in jobs), 0)
    queue = list(jobs)
    while queue:
        job = queue.pop(0)
        try:
            with context.store.lock(job.key):
                start_time = time.perf_counter()
                run_job(job, context)
                context.on_message(f"{job.name}: done in {time.perf_counter() - start_time:.0f} s, {len(queue)} left")
        except LockHeldError as lock_error:
            queue.append(job)
            if tries[job.number] == 0:
                context.on_message(f"{job.name}: {lock_error} is at it")
                tries[job.number] = -1
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            raise TrainingInterrupted(STOPPED_MESSAGE) from None
        except Exception as error:
            _record_failure(job, f"{type(error).__name__}: {error}", tries, queue, outcomes, context.on_message)
    return outcomes


def _record_failure(
    job: StudyJob,
    reason: str,
    tries: dict[int, int],
    queue: list[StudyJob],
    outcomes: JobOutcomes,
    on_message: MessageCallback,
) -> None:
    tries[job.number] = max(0, tries[job.number]) + 1
    if tries[job.number] < outcomes.max_tries:
        note = f"{job.name}: {reason}; it is tried once more"
        queue.append(job)
    else:
        note = f"{job.name}: given up after {tries[job.number]} tries: {reason}"
        outcomes.failed[job.number] = reason
    outcomes.notes.append(note)
    on_message(note)


def run_jobs_in_processes(
    jobs: Sequence[StudyJob], context: JobContext, num_jobs: int, command: Sequence[str]
) -> JobOutcomes:
    """Do the jobs by `num_jobs` processes at a time, each one job: `command` with `--task NUMBER` behind it.

    Each computes with one thread unless OMP_NUM_THREADS says another number. A job whose process dies is tried once
    more, then told. On Ctrl-C every process saves its state and ends before Interrupted is raised.
    """
    outcomes, tries = JobOutcomes(), dict.fromkeys((job.number for job in jobs), 0)
    queue = list(jobs)
    running: dict[int, tuple[StudyJob, subprocess.Popen[bytes]]] = {}
    with _sigterm_as_interrupt():
        try:
            while queue or running:
                while queue and len(running) < num_jobs:
                    job = queue.pop(0)
                    running[job.number] = (job, _start_worker(job, context, command))
                time.sleep(_POLL_SECONDS / 5)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.number]
                        _handle_exit(job, process.returncode, context, tries, queue, outcomes)
                        context.on_message(f"{len(queue) + len(running)} of {len(jobs)} jobs left")
        except KeyboardInterrupt:
            _stop_workers([process for _, process in running.values()])
            raise TrainingInterrupted(STOPPED_MESSAGE) from None
    return outcomes


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM is a KeyboardInterrupt, so that no worker is left behind; only the main thread can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _handle_exit(
    job: StudyJob,
    return_code: int,
    context: JobContext,
    tries: dict[int, int],
    queue: list[StudyJob],
    outcomes: JobOutcomes,
) -> None:
    if return_code == 0 and is_done(context.store.entry(job.key), job):
        context.on_message(f"{job.name}: done")
        return
    reason = (
        f"its worker was killed by {signal.Signals(-return_code).name}"
        if return_code < 0
        else f"its worker ended with code {return_code}"
    )
    last_line = _last_line(_log_path(job, context))
    _record_failure(
        job, f"{reason}{f' ({last_line})' if last_line else ''}", tries, queue, outcomes, context.on_message
    )


def _start_worker(job: StudyJob, context: JobContext, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    path = _log_path(job, context)
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with path.open("wb") as log_file:
        arguments = [*command, "--task", str(job.number)]
        # A session of its own: Ctrl-C reaches it once, through us.
        return subprocess.Popen(arguments, stdout=log_file, stderr=log_file, env=env, start_new_session=True)


def _log_path(job: StudyJob, context: JobContext) -> Path:
    return context.store.path / "logs" / f"{job.key}.txt"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _stop_workers(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait()


def reslab_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker: this interpreter, this package."""
    return [sys.executable, "-m", "reslab", *arguments]


_TIME_LIMIT_FACTOR = 2.0


def make_slurm_script(
    name: str, jobs: Sequence[StudyJob], command: Sequence[str], log_dir: Path, work_dir: Path, longest_seconds: float
) -> str:
    """The script for `sbatch`: an array of the jobs' numbers, each of which does `command --task NUMBER` in `folder`.

    `longest_seconds` is the price of the longest of them; twice that is asked for, and twice the memory of the largest.
    """
    command_text = shlex.join(command)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=reslab-{name.replace('/', '-')}",
        f"#SBATCH --array={format_ranges([job.number for job in jobs])}",
        f"#SBATCH --output={log_dir.resolve()}/slurm-%A_%a.txt",
        f"#SBATCH --time={_format_time_limit(longest_seconds)}",
        f"#SBATCH --mem={_memory_megabytes(jobs)}M",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --requeue",
        "##SBATCH --gres=gpu:1   (one # less asks for a GPU)",
        f"# {len(jobs)} trainings of {name}, {jobs[0].row.scale} scale.",
        "# One that was stopped goes on where it was when it is sent again.",
        "# When all have ended, the same command without --task writes the page:",
        f"#   {command_text}",
        "set -euo pipefail",
        f"cd {shlex.quote(str(work_dir.resolve()))}",
        f'exec {command_text} --task "${{SLURM_ARRAY_TASK_ID:?sbatch sets it}}"',
    ]
    return "\n".join(lines) + "\n"


def format_ranges(numbers: Sequence[int]) -> str:
    """`0-3,7,9-10`, as --array takes it."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _memory_megabytes(jobs: Sequence[StudyJob]) -> int:
    return -(-round(2 * (PROCESS_BYTES + max(estimate_memory_bytes(job.row) for job in jobs))) // 1_000_000)


def _format_time_limit(longest_seconds: float) -> str:
    total_minutes = max(10, round(longest_seconds * _TIME_LIMIT_FACTOR / 60) + 10)
    return f"{total_minutes // 60}:{total_minutes % 60:02d}:00"
