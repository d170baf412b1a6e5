"""The trainer: everything that happens between the steps of a run, from its first step or its checkpoint to its end."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from reslab.runtime.interrupts import InterruptHandler
from reslab.runtime.torchrun import RankError, is_on_every_rank
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.training.checkpoint import (
    SnapshotWriter,
    TrainCheckpoint,
    load_train_checkpoint,
    save_train_checkpoint,
    snapshot_interval_steps,
)
from reslab.training.early_stopping import EarlyStopping
from reslab.training.evaluation.evaluate import Evaluator
from reslab.training.loop import StepBackup, TimedLoader, TrainLoop, grad_scaler_state
from reslab.training.losses import LossFn
from reslab.training.meters import NonFiniteError, TrainMeter
from reslab.training.nonfinite import check_finite_weights, find_non_finite, with_diagnosis, write_bad_batch
from reslab.training.optim.lr_schedule import ReduceOnPlateau, compute_lr, warmup_finished
from reslab.training.run import Run, weights_header
from reslab.training.run_data import choose_num_workers
from reslab.training.run_logger import RunLogger
from reslab.training.setup import TrainSetup
from reslab.training.weight_averaging import SelectedWeights, WeightSelector

StepEndHook = Callable[[int, nn.Module], dict[str, Any]]

LOG_EVERY_STEPS = 50

# After an error on one rank: for the other ranks, which may be in the middle of a step, and for rank 0 to save.
_STATE_SECONDS, _SAVE_SECONDS = 10.0, 60.0


class Trainer:
    """Trains a run to its end; on several ranks each has one, and they take every decision together.

    `on_step_end(step, model)` is called every `hook_every_steps` steps (0: never); the numbers it returns are logged.
    """

    def __init__(
        self,
        setup: TrainSetup,
        *,
        logger: RunLogger,
        workers: int | None = None,
        eval_loss: LossFn | None = None,
        on_step_end: StepEndHook | None = None,
        hook_every_steps: int = 0,
        save_every_seconds: float = 60.0,
    ) -> None:
        self.run, self.recipe, self.task, self.logger = setup.run, setup.recipe, setup.task, logger
        self.on_step_end, self.hook_every_steps = on_step_end, hook_every_steps
        self.save_every_seconds = save_every_seconds
        self._step_backup = StepBackup(setup.loop.model, setup.loop.optimizer)
        self._timed_loader = TimedLoader(setup.loop.loader, self._step_backup.take)
        self.loop: TrainLoop = replace(setup.loop.wrapped(setup.recipe.compile), loader=self._timed_loader)
        self.model, self.process_group = self.loop.model, self.loop.process_group
        self.steps_per_epoch = self.loop.loader.num_steps_per_epoch
        self.total_steps = parse_duration(self.recipe.duration).num_steps(self.steps_per_epoch)
        self.evaluator = Evaluator(
            model=self.model,
            data=setup.data,
            task=setup.task,
            loss=eval_loss,
            workers=choose_num_workers(workers, setup.data, self.process_group.env.local_world_size),
            device=self.process_group.device,
            process_group=self.process_group,
        )
        self.weight_selector = WeightSelector(self.model, self.recipe, self.total_steps, self.steps_per_epoch)
        self.snapshot_writer = _build_snapshot_writer(self.run, self.steps_per_epoch)
        self.plateau = ReduceOnPlateau(self.recipe.schedule)
        self.early_stopping = EarlyStopping(self.recipe, self.task.spec, self.steps_per_epoch)
        self.step = 0
        self.train_seconds = 0.0
        self.warmup_end_step: int | None = None
        self.meter = TrainMeter()
        self.interrupted = False
        self._finished_stages: int | None = None  # of `_finish_step`; None between two steps
        self._interrupt_handler = InterruptHandler(ignore_repeats=self.process_group.world_size > 1)
        self._last_tick = self._last_save_time = time.perf_counter()
        self._last_saved_step = 0

    @property
    def stop_signal(self) -> int:
        """The number of the signal that stopped training."""
        return self._interrupt_handler.signum

    @property
    def is_finished(self) -> bool:
        """True if no step is left."""
        return self.step >= self.total_steps or self.early_stopping.should_stop

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return compute_lr(
            self.recipe,
            step,
            self.total_steps,
            self.steps_per_epoch,
            warmup_end_step=self.warmup_end_step,
            drop_steps=self.plateau.drop_steps,
        )

    def load_checkpoint(self) -> bool:
        """Restore the last checkpoint and truncate the log to its step; return False if there is none."""
        checkpoint = load_train_checkpoint(self.run.path / "checkpoint")
        # The gather is a barrier, too: no rank writes below while another still reads.
        rank_steps = self.process_group.all_gather(None if checkpoint is None else checkpoint.step)
        if len(set(rank_steps)) > 1:
            steps_text = ", ".join(f"step {step} on rank {rank}" for rank, step in enumerate(rank_steps))
            raise invalid("an output folder that all ranks share", f"{self.run.path} with checkpoints of {steps_text}")
        if self.process_group.is_main:
            self.snapshot_writer.truncate(checkpoint.step if checkpoint else 0)
        # The records of step 0, if any, are written again at the start.
        self.logger.start(checkpoint.step if checkpoint and checkpoint.step else -1)
        if checkpoint is None:
            return False
        self._load_model_and_optimizer(checkpoint)
        self.train_seconds, self.warmup_end_step = checkpoint.train_seconds, checkpoint.warmup_end_step
        self.plateau.load_state_dict(checkpoint.plateau)
        self.early_stopping.load_state_dict(checkpoint.early_stopping)
        self.meter.load_state_dict(checkpoint.meter, self.evaluator.device)
        self.weight_selector.load_checkpoint(checkpoint, self.evaluator.device)
        self._finished_stages = checkpoint.finished_stages
        return True

    def _load_model_and_optimizer(self, checkpoint: TrainCheckpoint) -> None:
        self.step = checkpoint.step
        self.model.load_state_dict(checkpoint.model)
        self.loop.optimizer.load_state_dict(checkpoint.optimizer)
        scaler = self.loop.train_step.scaler
        if scaler is not None and checkpoint.grad_scaler is not None:
            scaler.load_state_dict(checkpoint.grad_scaler)

    def fit(self) -> bool:
        """Take the remaining steps; return False if a signal stopped them. A checkpoint is saved either way.

        Before another error is raised, the last whole step is saved, and a note on the error says how to resume.
        Raises NonFiniteError, with the step, if the loss or a weight is no longer finite; the last good checkpoint
        stays.
        """
        cuda_devices = [self.evaluator.device] if self.evaluator.device.type == "cuda" else []
        with deterministic_mode(), torch.random.fork_rng(cuda_devices), self._interrupt_handler:
            self._last_tick = self._last_save_time = time.perf_counter()
            self._last_saved_step = self.step
            try:
                self.logger.raise_failure()
                self._save_snapshot()
                if self.step == 0:
                    self._log_phase()
                if self._finished_stages is not None:
                    self._finish_step()
                if not self.is_finished:
                    self.loop.run(
                        self.step, self.total_steps, lr_at=self.lr_at, meter=self.meter, after_step=self.after_step
                    )
                self.save_checkpoint()
            except NonFiniteError as error:
                raise self._with_diagnosis(error) from None
            except Exception as error:
                # A scheduler that signals every process of a job also stops the workers that read a batch and the ranks
                # that exchange gradients, which fails in the middle of a step. That is an interruption, not an error.
                if not self._is_interruption(error):
                    self._save_after_error(error)
                    raise
                self.step, self.interrupted = self._last_saved_step, True
            finally:
                self.logger.close()
            return self.is_finished or not self.interrupted

    def after_step(self, step: int) -> bool:
        """Log, evaluate and save what is due after `step` steps; return True to end the loop."""
        self._timed_loader.is_step_underway = False
        self.step, self._finished_stages = step, 0
        self._finish_step()
        self.logger.log_progress(self._progress_record)
        save_due = time.perf_counter() - self._last_save_time >= self.save_every_seconds
        # Clocks and signals differ between ranks, so they agree here on what they do next.
        self.interrupted, save_due = self.process_group.all_reduce_any(self._interrupt_handler.requested, save_due)
        if save_due:
            self.save_checkpoint()
        self.logger.raise_failure()
        self._last_tick = time.perf_counter()
        return self.interrupted or self.is_finished

    def _finish_step(self) -> None:
        """Do the stages that follow a step, from the first that is not finished on.

        A stage that fails changes nothing, so that a checkpoint with the number of finished stages is whole.
        """
        stages = (
            lambda: self.weight_selector.on_step_end(self.step),
            self._log_if_due,
            lambda: self.weight_selector.on_epoch_end(self.step) if self._is_epoch_end else None,
            lambda: self._evaluate() if self._is_evaluation_due else None,
            self._call_hook,
            self._save_snapshot,
            lambda: None if self.is_finished else self._log_phase(),
        )
        for number in range(self._finished_stages or 0, len(stages)):
            self._finished_stages = number
            stages[number]()
        self._finished_stages = None

    @property
    def _is_epoch_end(self) -> bool:
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    @property
    def _is_evaluation_due(self) -> bool:
        interval = self.recipe.eval_interval * self.steps_per_epoch
        return self.step % interval == 0 or self.step == self.total_steps

    def _log_if_due(self) -> None:
        if self._is_epoch_end or self.step % LOG_EVERY_STEPS == 0:
            self._log_train_metrics()
        self._update_timers()

    def _call_hook(self) -> None:
        if self.on_step_end and self.hook_every_steps and self.step % self.hook_every_steps == 0:
            with self.process_group.shared_errors():
                numbers = self.on_step_end(self.step, self.model)
            self.logger.log({"kind": "step_end", "step": self.step, **numbers})

    def _save_after_error(self, error: Exception) -> None:
        """Save the last whole step if it is at hand, and add to the error which step is saved and how to resume.

        A step that failed before its update is undone.
        """
        if self.process_group.world_size == 1 or is_on_every_rank(error):
            if not any(self.process_group.all_reduce_any(not self._undo_step())):
                with contextlib.suppress(Exception):  # the disk may be the cause; the checkpoint before stays
                    self.save_checkpoint()
        else:
            self.process_group.abort(error)
            self._save_after_abort()
        error.add_note(
            f"the run is saved after step {self._last_saved_step} of {self.total_steps}; "
            f"resume with --output {self.run.path} --resume"
        )

    def _undo_step(self) -> bool:
        """Return the state of the last whole step; False if that is no longer possible."""
        return not self._timed_loader.is_step_underway or self._step_backup.restore()

    def _save_after_abort(self) -> None:
        """Save the last whole step on rank 0 where the ranks can no longer communicate, if all are at the same step.

        Every rank waits for that; of a rank whose process was killed, in vain. A GPU may be busy with a collective for
        ever, so that its state cannot be copied.
        """
        is_whole = self.process_group.device.type == "cpu" and self._undo_step()
        position = [self.step, self.meter.first_step, self.meter.num_steps] if is_whole else []
        part = self.meter.local_part() if is_whole else ()
        ranks = self._exchange("state", (position, part), _STATE_SECONDS)
        if self.process_group.is_main and is_whole and ranks and all(other == position for other, _ in ranks):
            with contextlib.suppress(Exception):  # as above
                self.meter.merge([part for _, part in ranks])
                self._save_checkpoint(SINGLE_PROCESS)
        if ranks:
            steps = self._exchange("saved step", self._last_saved_step, _SAVE_SECONDS)
            self._last_saved_step = steps[0] if steps else self._last_saved_step

    def _exchange(self, name: str, value: Any, seconds: float) -> list[Any]:
        return self.process_group.exchange(name, value, seconds, lambda: self._interrupt_handler.requested) or []

    def _is_interruption(self, error: Exception) -> bool:
        """Return True if the error follows from a signal to stop. Ranks that share the error decide together."""
        is_own = isinstance(error, RuntimeError) and not isinstance(error, RankError)
        is_interruption = is_own and self._interrupt_handler.requested
        if is_on_every_rank(error):
            (is_interruption,) = self.process_group.all_reduce_any(is_interruption)
        return is_interruption

    def select_weights(self) -> SelectedWeights:
        """Load the weights that the run keeps and measure their BatchNorm statistics if the recipe wants it."""
        selected, num_batches = self.weight_selector.select(self.step), self.weight_selector.num_bn_batches()
        if not num_batches:
            return selected
        return replace(selected, num_bn_samples=self.loop.update_bn_stats(self.step, num_batches))

    def _save_snapshot(self) -> None:
        """Save the weights of this step if a snapshot is due and they are finite."""
        if self.snapshot_writer.every_steps and any(
            self.process_group.all_reduce_any(self.snapshot_writer.is_due(self.step))
        ):
            self._check_finite(self.process_group)
            self.process_group.run_on_main(lambda: self.snapshot_writer.save(self.step, self.model))

    def save_checkpoint(self) -> None:
        """Save what resuming needs. Raises NonFiniteError, and saves nothing, if a loss or a weight is not finite."""
        self._save_checkpoint(self.process_group)

    def _save_checkpoint(self, process_group: ProcessGroup) -> None:
        self._check_finite(process_group)
        path = self.run.path / "checkpoint"
        process_group.run_on_main(lambda: save_train_checkpoint(path, self._make_checkpoint()))
        self._last_save_time, self._last_saved_step = time.perf_counter(), self.step

    def _make_checkpoint(self) -> TrainCheckpoint:
        return TrainCheckpoint(
            step=self.step,
            model=self.model.state_dict(),
            optimizer=self.loop.optimizer.state_dict(),
            meter=self.meter.state_dict(),
            train_seconds=self.train_seconds,
            grad_scaler=grad_scaler_state(self.loop.train_step.scaler),
            warmup_end_step=self.warmup_end_step,
            plateau=self.plateau.state_dict(),
            early_stopping=self.early_stopping.state_dict(),
            finished_stages=self._finished_stages,
            **self.weight_selector.state_dict(),
        )

    def _log_train_metrics(self) -> None:
        """Log the averages since the last record and start a new window."""
        self.meter.all_reduce(self.process_group)
        averages, num_samples = self.meter.averages(), self.meter.num_samples
        self._update_timers()
        seconds = self.meter.seconds
        compute_seconds = seconds - self._timed_loader.wait_seconds
        self.logger.log(
            {
                "kind": "train",
                **self._position(),
                **averages,
                "lr": self.lr_at(self.step - 1),
                "images_per_second": num_samples / max(seconds, 1e-9),
                "compute_images_per_second": num_samples / max(compute_seconds, 1e-9),
                "seconds": self.train_seconds,
            }
        )
        self.meter.reset(first_step=self.step)
        self._timed_loader.wait_seconds = 0.0
        train_error = 1 - averages[self.task.spec.train_metric.name]
        if self.warmup_end_step is None and warmup_finished(self.recipe.schedule, train_error):
            self.warmup_end_step = self.step

    def _log_phase(self) -> None:
        """Log which parts of the network are trained from this step on, if `unfreeze` changes that here."""
        freezing = self.loop.freezing
        if not freezing.is_phase_start(self.step):
            return
        self.logger.log(
            {
                "kind": "phase",
                **self._position(),
                "trained": freezing.trained_parts(self.step),
                "num_trained_params": freezing.num_trained(self.step),
            }
        )

    def _update_timers(self) -> None:
        now = time.perf_counter()
        self.meter.seconds += now - self._last_tick
        self.train_seconds += now - self._last_tick
        self._last_tick = now

    def _evaluate(self) -> None:
        split = self.evaluator.monitor_split
        with self.weight_selector.eval_weights():
            evaluation = self.evaluator.evaluate(split)
        if evaluation.loss is not None and not math.isfinite(evaluation.loss):
            text = f"the loss on {split} is {evaluation.loss} after step {self.step - 1}"
            raise NonFiniteError(text, evaluation.bad_indices)
        metrics = {name: value for name, value in evaluation.metrics.items() if value is not None}
        self.logger.log({"kind": "eval", "split": split, **self._position(), **metrics})
        if split == "val":  # the test set decides nothing
            self.weight_selector.update_best(self.step, evaluation)
            self.early_stopping.update(self.step, evaluation)
        if self.plateau.update(self.step, -evaluation.score[0]) and not self.is_finished:
            self.logger.log_message(f"learning rate reduced to {self.lr_at(self.step):g} at step {self.step} (plateau)")

    def _position(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": self.step / self.steps_per_epoch}

    def _progress_record(self) -> dict[str, Any]:
        waiting_fraction = self._timed_loader.wait_seconds / max(self.meter.seconds, 1e-9)
        return {
            **self._position(),
            "total_steps": self.total_steps,
            "seconds": self.train_seconds,
            "waiting_fraction": waiting_fraction,
        }

    def _check_finite(self, process_group: ProcessGroup) -> None:
        self.meter.all_reduce(process_group)
        self.meter.check_finite()
        check_finite_weights(self.model, process_group, self.step)

    def _with_diagnosis(self, error: NonFiniteError) -> NonFiniteError:
        """Return the error with its batch and layer, found by repeating the steps since the last checkpoint.

        Where the images of an evaluation are the cause, nothing is repeated.
        """
        run_path, failed_step, data = self.run.path, self.step, self.evaluator.data
        checkpoint, origin = load_train_checkpoint(run_path / "checkpoint"), None
        if checkpoint is not None and not error.bad_images:
            self._load_model_and_optimizer(checkpoint)
            origin = find_non_finite(self.loop, self.lr_at, start=checkpoint.step, stop=failed_step)
        if origin is not None and self.process_group.is_main:
            write_bad_batch(origin, run_path, data.split("train"))
        checkpoint_step = None if checkpoint is None else checkpoint.step
        return with_diagnosis(
            error,
            checkpoint_step,
            origin,
            run_path=run_path,
            optimizer=self.recipe.optimizer,
            images=data.split(self.evaluator.monitor_split if error.bad_images else "train"),
        )


def _build_snapshot_writer(run: Run, steps_per_epoch: int) -> SnapshotWriter:
    every_steps = snapshot_interval_steps(run.metadata.get("snapshot_every", "0"), steps_per_epoch)
    return SnapshotWriter(run.path, every_steps, weights_header(run))
