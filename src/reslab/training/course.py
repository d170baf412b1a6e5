"""A run under way: what changes from step to step, and what happens between two steps."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from reslab.data.batches import TrainBatches, eval_batches
from reslab.data.dataset import Data
from reslab.spec.errors import refuse
from reslab.spec.recipe import Recipe
from reslab.training.device import exact_arithmetic
from reslab.training.diagnosis import Origin, find_origin, finite
from reslab.training.disk import write_whole
from reslab.training.evaluation import Evaluation, evaluate_batches
from reslab.training.freezing import Freezing
from reslab.training.gradient import Loss, Stepping, scaler_state
from reslab.training.interruption import Interruption
from reslab.training.keeping import Keeping
from reslab.training.loop import fit
from reslab.training.ranks import ALONE, Ranks
from reslab.training.recomputing import recomputed_units
from reslab.training.run import Run
from reslab.training.schedule import Plateau, learning_rate, warm_enough
from reslab.training.snapshots import Snapshots
from reslab.training.state import State, load_state, save_state
from reslab.training.statistics import precise_statistics
from reslab.training.synchronised import synchronised_norms
from reslab.training.tally import Diverged, Tally
from reslab.training.waiting import Awaited

Show = Callable[[dict[str, Any]], None]
Probe = Callable[[int, nn.Module], dict[str, Any]]

LOG_EVERY_STEPS = 50
EVALUATION_BATCH = 256
_PROGRESS_EVERY_SECONDS = 0.25


@dataclass
class Course:
    """One run from its first step, or its saved state, to its last; on every one of `ranks`, who decide together."""

    run: Run
    model: nn.Module
    data: Data
    recipe: Recipe
    batches: TrainBatches
    loss: Loss
    eval_loss: Loss
    optimizer: torch.optim.Optimizer
    stepping: Stepping
    keeping: Keeping
    freezing: Freezing
    snapshots: Snapshots
    total: int
    seed: int
    workers: int
    show: Show
    probe: Probe | None = None
    probe_every_steps: int = 0
    save_every_seconds: float = 60.0
    step: int = 0
    seconds: float = 0.0
    warmed: int | None = None
    tally: Tally = field(default_factory=Tally)
    ranks: Ranks = ALONE
    stopped: bool = False

    def __post_init__(self) -> None:
        self._awaited = Awaited(self.batches)
        self.plateau = Plateau(self.recipe.schedule)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def watched(self) -> str:
        """The split looked at while training: validation where there is one."""
        return "val" if "val" in self.data.splits else self.data.held_out

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        per_epoch, dropped = self.batches.num_steps_per_epoch, self.plateau.dropped
        return learning_rate(self.recipe, step, self.total, per_epoch, self.warmed, dropped)

    def restore(self) -> bool:
        """Go back to the saved state, the log with it; False where there is none."""
        state = load_state(self.run.path / "state")
        steps = self.ranks.gather(None if state is None else state.step)  # nobody writes while another still reads
        if len(set(steps)) > 1:
            told = ", ".join(f"rank {rank} that of step {step}" for rank, step in enumerate(steps))
            raise refuse("an output folder that every rank sees", f"{self.run.path}, where the state is for {told}")
        if self.ranks.first:
            self.run.log.cut(state.step if state else 0)
            self.snapshots.cut(state.step if state else 0)
        if state is None:
            return False
        self._take_up(state)
        self.seconds, self.warmed = state.seconds, state.warmed
        self.plateau.load(state.plateau)
        self.tally = Tally.from_dict(state.tally, self.device)
        self.keeping.load(state, self.device)
        return True

    def _take_up(self, state: State) -> None:
        self.step = state.step
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        if self.stepping.scaler is not None and state.scaler is not None:
            self.stepping.scaler.load_state_dict(state.scaler)

    def go(self) -> bool:
        """Take the steps that are left; True at the end, False where Ctrl-C came first. The state is saved either way.

        Raises Diverged, with the step, where the loss or a weight is no longer finite; the last good state is kept.
        """
        gpus = [self.device] if self.device.type == "cuda" else []
        patient = self.ranks.num > 1
        with exact_arithmetic(), torch.random.fork_rng(gpus), Interruption(patient) as self._interruption:
            self._mark = self._saved = self._shown = time.perf_counter()
            self._saved_step = self.step
            self._keep_snapshot()
            try:
                with recomputed_units(self.model, self.recipe.activation_checkpointing), self._trained(self.step):
                    fit(
                        self.model,
                        self._awaited,
                        self.loss,
                        self.optimizer,
                        self.lr,
                        self.between,
                        lambda: self.tally,
                        start=self.step,
                        stop=self.total,
                        seed=self.seed,
                        rank=self.ranks.rank,
                        stepping=self.stepping,
                    )
                self.save()
            except Diverged as error:
                raise self._explained(error) from None
            except RuntimeError:
                # A scheduler that stops every process of a job stops those that read or share a batch within a step.
                if not self._interruption.asked:
                    raise
                self.step, self.stopped = self._saved_step, True
            return not (self.stopped and self.step < self.total)

    @contextlib.contextmanager
    def _trained(self, step: int) -> Iterator[None]:
        """Inside, the network is as it is trained from `step` on."""
        with self.freezing.during(step), synchronised_norms(self.model, self.ranks, self.recipe.sync_bn):
            yield

    def between(self, step: int) -> bool:
        """What happens after `step` steps: lines, judgement, probe, state. True ends the loop."""
        self.step = step
        self.keeping.step_done(step)
        self.freezing.step_done(step)
        epoch_ends = step % self.batches.num_steps_per_epoch == 0 or step == self.total
        if epoch_ends or step % LOG_EVERY_STEPS == 0:
            self._log_training()
        self._clock()
        if epoch_ends:
            self.keeping.epoch_done(step)
            self._judge()
        if self.probe and self.probe_every_steps and step % self.probe_every_steps == 0:
            self._write({"kind": "probe", "step": step, **self.probe(step, self.model)})
        self._keep_snapshot()
        self._progress()
        due = time.perf_counter() - self._saved >= self.save_every_seconds
        self.stopped, due = self.ranks.any(self._interruption.asked, due)
        if due:
            self.save()
        self._mark = time.perf_counter()
        return self.stopped

    def evaluate(self, split: str, probabilities: bool = False) -> Evaluation:
        """Judge the network as it stands on a split; its running statistics are rank 0's, as they are saved."""
        self.ranks.share_buffers(self.model)
        images, ranks = self.data.split(split), self.ranks
        shared = {"rank": ranks.rank, "num_ranks": ranks.num}
        batches = eval_batches(images, EVALUATION_BATCH, self.data.preprocess, self.device, self.workers, **shared)
        return evaluate_batches(self.model, batches, self.data.num_classes, self.eval_loss, split, probabilities, ranks)

    def keep(self) -> str:
        """Give the network the weights that the run keeps, its statistics measured where asked; says which they are."""
        chosen, num_batches = self.keeping.choose(), self.keeping.num_statistics_batches()
        if not num_batches:
            return chosen
        stream = self.batches.iterate(self.total)
        inputs = (next(stream)[0] for _ in range(num_batches))
        frozen = self.freezing.frozen_norms(self.total - 1)
        self.ranks.share_buffers(self.model)
        with synchronised_norms(self.model, self.ranks, self.recipe.sync_bn):
            num_samples = precise_statistics(self.model, inputs, frozen, self.ranks)
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
            self._save()
        self._saved, self._saved_step = time.perf_counter(), self.step

    def _save(self) -> None:
        state = State(
            self.step,
            self.model.state_dict(),
            self.optimizer.state_dict(),
            self.tally.to_dict(),
            self.seconds,
            scaler=scaler_state(self.stepping.scaler),
            warmed=self.warmed,
            plateau=self.plateau.state(),
            **self.keeping.state(),
        )
        save_state(self.run.path / "state", state)

    def _log_training(self) -> None:
        self.tally.pool(self.ranks)
        loss, top1 = self.tally.means()
        num_samples = self.tally.num_samples
        self._clock()
        seconds, self.tally = self.tally.seconds, Tally(first=self.step)
        self._awaited.seconds = 0.0
        self._write(
            {
                "kind": "train",
                "step": self.step,
                "epoch": self._epoch(),
                "loss": loss,
                "top1": top1,
                "lr": self.lr(self.step - 1),
                "images_per_second": num_samples / max(seconds, 1e-9),
                "seconds": self.seconds,
            }
        )
        if self.warmed is None and warm_enough(self.recipe.schedule, 1 - top1):
            self.warmed = self.step

    def _clock(self) -> None:
        now = time.perf_counter()
        self.tally.seconds += now - self._mark
        self.seconds += now - self._mark
        self._mark = now

    def _judge(self) -> None:
        with self.keeping.judged():
            found = self.evaluate(self.watched)
        if not math.isfinite(found.loss):
            raise Diverged(f"the loss on {self.watched} is {found.loss} after step {self.step - 1}")
        line = {"kind": "eval", "split": self.watched, "step": self.step, "epoch": self._epoch()}
        self._write({**line, "loss": found.loss, "top1": found.top1})
        if self.plateau.see(self.step, 1 - found.top1) and self.step < self.total:
            lr = self.lr(self.step)
            self.show({"kind": "note", "text": f"the error stopped falling at step {self.step}: rate {lr:g}"})
        if self.watched == "val":
            self.keeping.consider(self.step, found)

    def _write(self, line: dict[str, Any]) -> None:
        if self.ranks.first:
            self.run.log.append(line)
            self.show(line)

    def _progress(self) -> None:
        now = time.perf_counter()
        if self.ranks.first and now - self._shown >= _PROGRESS_EVERY_SECONDS:
            self._shown = now
            self.show(
                {
                    "kind": "progress",
                    "step": self.step,
                    "epoch": self._epoch(),
                    "total": self.total,
                    "seconds": self.seconds,
                    "waiting": self._awaited.seconds / max(self.tally.seconds, 1e-9),
                }
            )

    def _epoch(self) -> float:
        return self.step / self.batches.num_steps_per_epoch

    def _check(self) -> None:
        self.tally.pool(self.ranks)
        self.tally.check()
        weights = self.model.state_dict().items()
        bad = next((name for name, weight in weights if weight.is_floating_point() and not finite(weight)), None)
        for name in self.ranks.gather(bad):
            if name is not None:
                raise Diverged(f"{name} is not finite after step {self.step - 1}")

    def _explained(self, error: Diverged) -> Diverged:
        """The error with its batch and layer, found by taking the steps since the last good state again."""
        kept, reached = load_state(self.run.path / "state"), self.step
        origin = None if kept is None else self._origin(kept, reached)
        found = "" if origin is None else f": {self._told(origin)}"
        last = f"the last good state, of step {kept.step}, is kept in {self.run.path}" if kept else "no state was saved"
        lower = f"{self.recipe.optimizer.lr / 4:g}"
        advice = f"try a smaller learning rate, such as --lr {lower}, or a longer warm-up"
        return Diverged(f"{error}{found}; training stopped; {last}; {advice}")

    def _origin(self, kept: State, reached: int) -> Origin | None:
        self._take_up(kept)
        with self._trained(kept.step):
            return find_origin(
                self.model,
                self.batches,
                self.loss,
                self.optimizer,
                self.lr,
                start=kept.step,
                stop=reached,
                seed=self.seed,
                stepping=self.stepping,
                ranks=self.ranks,
            )

    def _told(self, origin: Origin) -> str:
        """The origin in words, the whole batch written into the run's folder."""
        images, file = self.data.split("train"), self.run.path / "diverged.json"
        samples = [{"index": index, "name": images.name(index)} for index in origin.indices]
        if self.ranks.first:
            found = {"step": origin.step, "where": origin.where, "batch": samples}
            write_whole(file, (json.dumps(found) + "\n").encode())
        some = ", ".join(str(index) for index in origin.indices[:4])
        return f"it began at step {origin.step} {origin.where}, on the batch of samples {some}, ... (all in {file})"
