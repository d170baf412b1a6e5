"""A run under way: what changes from step to step, and what happens between two steps.

All that takes the steps of a run, put together from what was prepared.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reslab.runtime.device import exact_arithmetic
from reslab.runtime.distributed import Ranks
from reslab.runtime.interrupts import Interruption
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import Snapshots, State, load_state, num_steps_between, save_state
from reslab.training.early_stopping import Stopping
from reslab.training.evaluation.evaluate import Exam
from reslab.training.freezing import Freezing
from reslab.training.loop import Awaited, Stepping, Steps, make_scaler, scaler_state
from reslab.training.meters import Diverged, Tally
from reslab.training.nonfinite import check_weights, explained, find_origin, write_batch
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import Plateau, learning_rate, warm_enough
from reslab.training.options import Asked
from reslab.training.run import Run, header_facts
from reslab.training.run_data import num_workers, train_batches
from reslab.training.run_logger import Show, Telling
from reslab.training.setup import Prepared, build_objective
from reslab.training.weight_averaging import Keeping

Probe = Callable[[int, nn.Module], dict[str, Any]]

LOG_EVERY_STEPS = 50


@dataclass
class Course:
    """One run from its first step, or its saved state, to its last; on every one of its ranks, who decide together."""

    run: Run
    steps: Steps
    exam: Exam
    keeping: Keeping
    snapshots: Snapshots
    telling: Telling
    total: int
    probe: Probe | None = None
    probe_every_steps: int = 0
    save_every_seconds: float = 60.0
    step: int = 0
    seconds: float = 0.0
    warmed: int | None = None
    tally: Tally = field(default_factory=Tally)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.model, self.recipe, self.ranks = self.steps.model, self.steps.recipe, self.steps.ranks
        self.steps_per_epoch = self.steps.batches.num_steps_per_epoch
        self._awaited = Awaited(self.steps.batches)
        self.plateau = Plateau(self.recipe.schedule)
        self.stopping = Stopping(self.recipe, self.steps_per_epoch)

    @property
    def ended(self) -> bool:
        """Whether no step is left to take."""
        return self.step >= self.total or self.stopping.over

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.recipe, step, self.total, self.steps_per_epoch, self.warmed, self.plateau.dropped)

    def restore(self) -> bool:
        """Go back to the saved state, the log with it; False where there is none."""
        state = load_state(self.run.path / "state")
        steps = self.ranks.gather(None if state is None else state.step)  # nobody writes while another still reads
        if len(set(steps)) > 1:
            told = ", ".join(f"rank {rank} that of step {step}" for rank, step in enumerate(steps))
            raise invalid("an output folder that every rank sees", f"{self.run.path}, where the state is for {told}")
        if self.ranks.first:
            self.snapshots.cut(state.step if state else 0)
        self.telling.begin(state.step if state else 0)
        if state is None:
            return False
        self._take_up(state)
        self.seconds, self.warmed = state.seconds, state.warmed
        self.plateau.load(state.plateau)
        self.stopping.load(state.stopping)
        self.tally = Tally.from_dict(state.tally, self.exam.device)
        self.keeping.load(state, self.exam.device)
        return True

    def _take_up(self, state: State) -> None:
        self.step = state.step
        self.model.load_state_dict(state.model)
        self.steps.optimizer.load_state_dict(state.optimizer)
        scaler = self.steps.stepping.scaler
        if scaler is not None and state.scaler is not None:
            scaler.load_state_dict(state.scaler)

    def go(self) -> bool:
        """Take the steps that are left; True at the end, False where Ctrl-C came first. The state is saved either way.

        Raises Diverged, with the step, where the loss or a weight is no longer finite; the last good state is kept.
        """
        gpus = [self.exam.device] if self.exam.device.type == "cuda" else []
        patient = self.ranks.num > 1
        with exact_arithmetic(), torch.random.fork_rng(gpus), Interruption(patient) as self._interruption:
            self._mark = self._saved = time.perf_counter()
            self._saved_step = self.step
            try:
                self._keep_snapshot()
                if not self.ended:
                    steps = replace(self.steps, batches=self._awaited)
                    steps.take(self.step, self.total, self.lr, self.between, lambda: self.tally)
                self.save()
            except Diverged as error:
                raise self._explained(error) from None
            except RuntimeError:
                # A scheduler that stops every process of a job stops those that read or share a batch within a step.
                if not self._interruption.asked:
                    raise
                self.step, self.stopped = self._saved_step, True
            finally:
                self.telling.end()
            return self.ended or not self.stopped

    def between(self, step: int) -> bool:
        """What happens after `step` steps: lines, judgement, probe, state. True ends the loop."""
        self.step = step
        self.keeping.step_done(step)
        epoch_ends = step % self.steps_per_epoch == 0 or step == self.total
        if epoch_ends or step % LOG_EVERY_STEPS == 0:
            self._log_training()
        self._clock()
        if epoch_ends:
            self.keeping.epoch_done(step)
            self._judge()
        if self.probe and self.probe_every_steps and step % self.probe_every_steps == 0:
            self.telling.write({"kind": "probe", "step": step, **self.probe(step, self.model)})
        self._keep_snapshot()
        self.telling.progress(self._progress)
        due = time.perf_counter() - self._saved >= self.save_every_seconds
        self.stopped, due = self.ranks.any(self._interruption.asked, due)
        if due:
            self.save()
        self._mark = time.perf_counter()
        return self.stopped or self.ended

    def keep(self) -> str:
        """Give the network the weights that the run keeps, its statistics measured where asked; says which they are."""
        chosen, num_batches = self.keeping.choose(), self.keeping.num_statistics_batches()
        if not num_batches:
            return chosen
        num_samples = self.steps.measure_statistics(self.step, num_batches)
        return f"{chosen}, its BatchNorm statistics of {num_samples} training samples"

    def _keep_snapshot(self) -> None:
        """Keep the weights of this step where they are due; not where they are not finite."""
        if self.snapshots.every and any(self.ranks.any(self.snapshots.due(self.step))):
            self._check()
            if self.ranks.first:
                self.snapshots.keep(self.step, self.model)

    def save(self) -> None:
        """Save what resuming needs. Raises Diverged, and saves nothing, where a loss or a weight is not finite."""
        self._check()
        if self.ranks.first:
            save_state(self.run.path / "state", self._state())
        self._saved, self._saved_step = time.perf_counter(), self.step

    def _state(self) -> State:
        return State(
            self.step,
            self.model.state_dict(),
            self.steps.optimizer.state_dict(),
            self.tally.to_dict(),
            self.seconds,
            scaler=scaler_state(self.steps.stepping.scaler),
            warmed=self.warmed,
            plateau=self.plateau.state(),
            stopping=self.stopping.state(),
            **self.keeping.state(),
        )

    def _log_training(self) -> None:
        self.tally.pool(self.ranks)
        loss, top1 = self.tally.means()
        num_samples = self.tally.num_samples
        self._clock()
        seconds, self.tally = self.tally.seconds, Tally(first=self.step)
        working, self._awaited.seconds = seconds - self._awaited.seconds, 0.0
        speed = {
            "images_per_second": num_samples / max(seconds, 1e-9),
            "images_per_second_without_loading": num_samples / max(working, 1e-9),
            "seconds": self.seconds,
        }
        line = {"kind": "train", **self._place(), "loss": loss, "top1": top1, "lr": self.lr(self.step - 1)}
        self.telling.write({**line, **speed})
        if self.warmed is None and warm_enough(self.recipe.schedule, 1 - top1):
            self.warmed = self.step

    def _clock(self) -> None:
        now = time.perf_counter()
        self.tally.seconds += now - self._mark
        self.seconds += now - self._mark
        self._mark = now

    def _judge(self) -> None:
        split = self.exam.watched
        with self.keeping.judged():
            found = self.exam.judge(split)
        if not math.isfinite(found.loss):
            raise Diverged(f"the loss on {split} is {found.loss} after step {self.step - 1}")
        self.telling.write({"kind": "eval", "split": split, **self._place(), "loss": found.loss, "top1": found.top1})
        if split == "val":
            self.keeping.consider(self.step, found)
            self.stopping.see(self.step, found)
        if self.plateau.see(self.step, 1 - found.top1) and not self.ended:
            self.telling.note(f"the error stopped falling at step {self.step}: rate {self.lr(self.step):g}")

    def _place(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": self.step / self.steps_per_epoch}

    def _progress(self) -> dict[str, Any]:
        waiting = self._awaited.seconds / max(self.tally.seconds, 1e-9)
        return {**self._place(), "total": self.total, "seconds": self.seconds, "waiting": waiting}

    def _check(self) -> None:
        self.tally.pool(self.ranks)
        self.tally.check()
        check_weights(self.model, self.ranks, self.step)

    def _explained(self, error: Diverged) -> Diverged:
        """The error with its batch and layer, found by taking the steps since the last good state again."""
        path, reached, kept, origin = self.run.path, self.step, load_state(self.run.path / "state"), None
        if kept is not None:
            self._take_up(kept)
            origin = find_origin(self.steps, self.lr, start=kept.step, stop=reached)
        if origin is not None and self.ranks.first:
            write_batch(origin, path, self.exam.data.split("train"))
        return explained(error, None if kept is None else kept.step, origin, path, self.recipe.optimizer.lr)


def make_course(
    prepared: Prepared, asked: Asked, ranks: Ranks, workers: int | None, show: Show, save_every_seconds: float
) -> Course:
    """The course of a prepared run, on the ranks' device."""
    run, recipe, data, device = prepared.run, prepared.recipe, prepared.data, ranks.device
    steps = make_steps(prepared, asked, ranks, workers)
    steps_per_epoch = steps.batches.num_steps_per_epoch
    total = parse_duration(recipe.duration).num_steps(steps_per_epoch)
    processes = num_workers(workers, data, ranks.place.num_local)
    return Course(
        run,
        steps,
        Exam(steps.model, data, asked.loss or functional.cross_entropy, processes, device, ranks),
        Keeping(steps.model, recipe, total, steps_per_epoch),
        _snapshots(run, steps_per_epoch),
        Telling(run, show, ranks.first),
        total,
        save_every_seconds=save_every_seconds,
    )


def make_steps(prepared: Prepared, asked: Asked, ranks: Ranks, workers: int | None) -> Steps:
    """What its steps are made of; the network is on the ranks' device from here on."""
    recipe, data, device = prepared.recipe, prepared.data, ranks.device
    seed = prepared.run.facts["seed"]
    model = prepared.model.to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    processes = num_workers(workers, data, ranks.place.num_local)
    batches = train_batches(recipe, data, seed, device, processes, ranks.place)
    return Steps(
        model,
        batches,
        build_objective(recipe, data, device, asked.loss),
        build_optimizer(model, recipe.optimizer),
        _stepping(recipe, model, ranks),
        Freezing(model, recipe.unfreeze, batches.num_steps_per_epoch),
        recipe,
        seed,
        ranks,
    )


def _stepping(recipe: Recipe, model: nn.Module, ranks: Ranks) -> Stepping:
    replica = ranks.replica(model)
    return Stepping(
        recipe.precision,
        recipe.channels_last,
        recipe.grad_accum_steps,
        recipe.clip_grad_norm,
        make_scaler(recipe.precision, ranks.device),
        torch.compile(replica or model) if recipe.compile else None,
        recipe.l1,
        recipe.l2,
        replica,
    )


def _snapshots(run: Run, steps_per_epoch: int) -> Snapshots:
    every = num_steps_between(run.facts.get("snapshots", "0"), steps_per_epoch)
    return Snapshots(run.path, every, header_facts(run))
