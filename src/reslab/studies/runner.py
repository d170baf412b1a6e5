"""Run the jobs of a plan: one after another in this process, in several local processes, or as a Slurm array."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.runtime.locks import LockHeldError
from reslab.studies.cost import PROCESS_BYTES, estimate_memory_bytes
from reslab.studies.plan import JobContext, MessageCallback, StoreEntry, StudyJob, is_done

MAX_TRIES = 2
STOPPED_MESSAGE = "stopped; finished work is kept, and the same command continues from there"
_POLL_SECONDS = 0.5
_TIME_LIMIT_FACTOR = 2.0


@dataclass
class JobOutcomes:
    """The jobs that failed, as number -> error, and notes about the tries."""

    failed: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _JobQueue:
    """The jobs that are left, with the tries of each; a job that fails goes back to the end until none are left."""

    def __init__(self, jobs: Sequence[StudyJob], max_tries: int, on_message: MessageCallback) -> None:
        self.jobs, self.max_tries, self.on_message = list(jobs), max_tries, on_message
        self.outcomes = JobOutcomes()
        self._num_tries = dict.fromkeys((job.number for job in jobs), 0)
        self._waiting: set[int] = set()

    def postpone(self, job: StudyJob, reason: str) -> None:
        """Put a job that another worker is running to the end of the queue; the first time, say so."""
        self.jobs.append(job)
        if job.number not in self._waiting:
            self._waiting.add(job.number)
            self.on_message(f"{job.name}: {reason} is running it; waiting")

    def fail(self, job: StudyJob, error: str) -> None:
        """Record a failed try: the job is tried again, or given up."""
        self._num_tries[job.number] += 1
        if self._num_tries[job.number] < self.max_tries:
            note = f"{job.name}: {error}; trying once more"
            self.jobs.append(job)
        else:
            note = f"{job.name}: given up after {self._num_tries[job.number]} tries: {error}"
            self.outcomes.failed[job.number] = error
        self.outcomes.notes.append(note)
        self.on_message(note)


RunJob = Callable[[StudyJob, JobContext], StoreEntry]


def run_jobs(jobs: Sequence[StudyJob], run_job: RunJob, context: JobContext, max_tries: int = MAX_TRIES) -> JobOutcomes:
    """Run the jobs in this process by `run_job`, and wait for those that another worker is running.

    A job that fails is tried `max_tries` times, then recorded in the outcomes. Raises TrainingInterrupted on Ctrl-C:
    finished jobs are kept, and the interrupted training can be resumed.
    """
    queue = _JobQueue(jobs, max_tries, context.on_message)
    while queue.jobs:
        job = queue.jobs.pop(0)
        try:
            with context.store.lock(job.key):
                start_time = time.perf_counter()
                run_job(job, context)
                seconds = time.perf_counter() - start_time
                context.on_message(f"{job.name}: done in {seconds:.0f} s, {len(queue.jobs)} left")
        except LockHeldError as error:
            queue.postpone(job, str(error))
            time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            raise TrainingInterrupted(STOPPED_MESSAGE) from None
        except Exception as error:
            queue.fail(job, f"{type(error).__name__}: {error}")
    return queue.outcomes


def run_jobs_in_processes(
    jobs: Sequence[StudyJob], context: JobContext, num_jobs: int, command: Sequence[str]
) -> JobOutcomes:
    """Run the jobs in up to `num_jobs` processes at a time, each of which runs one: `command` with `--task NUMBER`.

    A process uses one thread unless OMP_NUM_THREADS is set. A job whose process dies is tried once more. On Ctrl-C
    every process saves its checkpoint and ends before TrainingInterrupted is raised.
    """
    queue = _JobQueue(jobs, MAX_TRIES, context.on_message)
    running: dict[int, tuple[StudyJob, subprocess.Popen[bytes]]] = {}
    with _sigterm_as_interrupt():
        try:
            while queue.jobs or running:
                while queue.jobs and len(running) < num_jobs:
                    job = queue.jobs.pop(0)
                    running[job.number] = (job, _start_worker(job, context, command))
                time.sleep(_POLL_SECONDS / 5)
                for job, process in list(running.values()):
                    if process.poll() is not None:
                        del running[job.number]
                        _handle_exit(job, process.returncode, context, queue)
                        context.on_message(f"{len(queue.jobs) + len(running)} of {len(jobs)} jobs left")
        except KeyboardInterrupt:
            _stop_workers([process for _, process in running.values()])
            raise TrainingInterrupted(STOPPED_MESSAGE) from None
    return queue.outcomes


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt inside the block, so that no worker is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set signal handlers
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _handle_exit(job: StudyJob, return_code: int, context: JobContext, queue: _JobQueue) -> None:
    if return_code == 0 and is_done(context.store.entry(job.key), job):
        context.on_message(f"{job.name}: done")
        return
    if return_code < 0:
        error = f"its worker was killed by {signal.Signals(-return_code).name}"
    else:
        error = f"its worker exited with code {return_code}"
    last_line = _last_line(_log_path(job, context))
    queue.fail(job, f"{error} ({last_line})" if last_line else error)


def _start_worker(job: StudyJob, context: JobContext, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    path = _log_path(job, context)
    path.parent.mkdir(parents=True, exist_ok=True)
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with path.open("wb") as log_file:
        arguments = [*command, "--task", str(job.number)]
        # In a session of its own, Ctrl-C in the terminal does not reach the worker: `_stop_workers` passes it on once.
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
    """Return the command line of a worker, with this interpreter."""
    return [sys.executable, "-m", "reslab", *arguments]


def make_slurm_script(
    name: str, jobs: Sequence[StudyJob], command: Sequence[str], *, log_dir: Path, work_dir: Path, max_seconds: float
) -> str:
    """Return a script for `sbatch`: an array of the jobs' numbers, each of which runs `command --task NUMBER`.

    The time limit is twice `max_seconds`, the estimate of the longest job, and the memory twice that of the largest.
    """
    command_text = shlex.join(command)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=reslab-{name.replace('/', '-')}",
        f"#SBATCH --array={format_ranges([job.number for job in jobs])}",
        f"#SBATCH --output={log_dir.resolve()}/slurm-%A_%a.txt",
        f"#SBATCH --time={_format_time_limit(max_seconds)}",
        f"#SBATCH --mem={_memory_megabytes(jobs)}M",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --requeue",
        "##SBATCH --gres=gpu:1   (remove one # to request a GPU)",
        f"# {len(jobs)} trainings of {name}, {jobs[0].row.scale} scale.",
        "# A training that was interrupted resumes when it is submitted again.",
        "# When all have ended, the same command without --task writes the report:",
        f"#   {command_text}",
        "set -euo pipefail",
        f"cd {shlex.quote(str(work_dir.resolve()))}",
        f'exec {command_text} --task "${{SLURM_ARRAY_TASK_ID:?set by sbatch}}"',
    ]
    return "\n".join(lines) + "\n"


def format_ranges(numbers: Sequence[int]) -> str:
    """Return the numbers as ranges, `0-3,7,9-10`, in the format of sbatch's --array."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _memory_megabytes(jobs: Sequence[StudyJob]) -> int:
    return -(-round(2 * (PROCESS_BYTES + max(estimate_memory_bytes(job.row) for job in jobs))) // 1_000_000)


def _format_time_limit(max_seconds: float) -> str:
    total_minutes = max(10, round(max_seconds * _TIME_LIMIT_FACTOR / 60) + 10)
    return f"{total_minutes // 60}:{total_minutes % 60:02d}:00"
