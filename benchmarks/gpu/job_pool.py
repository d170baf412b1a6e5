"""Run jobs in several processes that share a GPU, which a single training of a small network leaves mostly idle."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """The value that a job returned, or the error that ended it."""

    job: Any
    value: Any = None
    error: str = ""


@dataclass
class _Slot:
    """A process with its end of the pipe, and the job that it runs."""

    process: BaseProcess
    connection: Connection
    job: Any = None


class JobPool:
    """Up to `num_processes` processes, each of which calls `make_run(*args)` once and the result for every job.

    They are spawned, because a process that has used CUDA cannot be forked. If a process dies, only its job fails; a
    new process takes its place.
    """

    def __init__(self, make_run: Callable[..., Run], args: Sequence[Any], num_processes: int) -> None:
        self._make_run, self._args, self._num_processes = make_run, tuple(args), num_processes
        self._context = multiprocessing.get_context("spawn")
        self._slots: list[_Slot] = []

    @property
    def num_running(self) -> int:
        """The number of jobs that run."""
        return sum(slot.job is not None for slot in self._slots)

    @property
    def has_room(self) -> bool:
        """True if another job can start."""
        return self.num_running < self._num_processes

    @property
    def running(self) -> list[Any]:
        """The jobs that run."""
        return [slot.job for slot in self._slots if slot.job is not None]

    def start(self, job: Any) -> None:
        """Give a job to an idle process, or to a new one."""
        for slot in [slot for slot in self._slots if slot.job is None]:
            # A process may die while it is idle, and also between the check and the message.
            if slot.process.is_alive() and _send(slot, job):
                return
            self._remove(slot)
        # If even this process has ended already, `wait` finds its pipe closed and reports the job as failed.
        _send(self._add_slot(), job)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of the jobs that end first; empty after so many seconds."""
        busy = {slot.connection: slot for slot in self._slots if slot.job is not None}
        outcomes = []
        for connection in wait(list(busy), max(0.0, seconds)):
            slot = busy[connection]  # type: ignore[index]
            try:
                value, error = slot.connection.recv()
            except (EOFError, OSError):
                self._remove(slot)
                value, error = None, f"its process ended with exit code {slot.process.exitcode}"
            outcomes.append(Outcome(slot.job, value, error))
            slot.job = None
        return outcomes

    def close(self) -> None:
        """End all processes, with what they run."""
        for slot in self._slots:
            slot.process.kill()
            slot.process.join()
        self._slots.clear()

    def _remove(self, slot: _Slot) -> None:
        slot.process.join()
        slot.connection.close()
        self._slots.remove(slot)

    def _add_slot(self) -> _Slot:
        own, other = self._context.Pipe()
        # Not daemons, which may have no processes of their own: loaders have.
        process = self._context.Process(target=_serve, args=(other, self._make_run, self._args), daemon=False)
        process.start()
        other.close()  # so that a process that dies closes the pipe
        self._slots.append(_Slot(process, own))
        return self._slots[-1]


def _send(slot: _Slot, job: Any) -> bool:
    """Give a job to the process of a slot; return False if the process has closed its end of the pipe."""
    slot.job = job
    try:
        slot.connection.send(job)
    except OSError:
        return False
    return True


def _serve(connection: Connection, make_run: Callable[..., Run], args: tuple[Any, ...]) -> None:
    run = make_run(*args)
    while True:
        job = connection.recv()
        try:
            value = run(job)
        except Exception as error:
            traceback.print_exc()
            connection.send((None, f"{type(error).__name__}: {error}".splitlines()[0][:300]))
        else:
            connection.send((value, ""))
