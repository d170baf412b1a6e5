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

from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.interrupts import InterruptHandler
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import (
    SnapshotWriter,
    TrainCheckpoint,
    load_train_checkpoint,
    save_train_checkpoint,
    snapshot_interval_steps,
)
from reslab.training.early_stopping import EarlyStopping
from reslab.training.evaluation.evaluate import Evaluator
from reslab.training.freezing import Freezing
from reslab.training.loop import TimedLoader, TrainContext, TrainStep, grad_scaler_state, make_grad_scaler
from reslab.training.meters import NonFiniteError, TrainMeter
from reslab.training.nonfinite import check_finite_weights, find_non_finite, with_diagnosis, write_bad_batch
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import ReduceOnPlateau, compute_lr, warmup_finished
from reslab.training.options import TrainOptions
from reslab.training.run import Run, weights_header
from reslab.training.run_data import choose_num_workers, make_train_loader
from reslab.training.run_logger import LogCallback, RunLogger
from reslab.training.setup import TrainSetup, build_objective
from reslab.training.weight_averaging import SelectedWeights, WeightSelector

StepEndHook = Callable[[int, nn.Module], dict[str, Any]]

LOG_EVERY_STEPS = 50


@dataclass
class Trainer:
    """One run from its first step, or its saved state, to its last; on every one of its ranks, who decide together."""

    run: Run
    context: TrainContext
    evaluator: Evaluator
    weight_selector: WeightSelector
    snapshot_writer: SnapshotWriter
    logger: RunLogger
    total_steps: int
    on_step_end: StepEndHook | None = None
    hook_every_steps: int = 0
    save_every_seconds: float = 60.0
    step: int = 0
    train_seconds: float = 0.0
    warmup_end_step: int | None = None
    meter: TrainMeter = field(default_factory=TrainMeter)
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.model, self.recipe, self.process_group = (
            self.context.model,
            self.context.recipe,
            self.context.process_group,
        )
        self.steps_per_epoch = self.context.loader.num_steps_per_epoch
        self._timed_loader = TimedLoader(self.context.loader)
        self.plateau = ReduceOnPlateau(self.recipe.schedule)
        self.early_stopping = EarlyStopping(self.recipe, self.steps_per_epoch)

    @property
    def is_finished(self) -> bool:
        """Whether no step is left to take."""
        return self.step >= self.total_steps or self.early_stopping.should_stop

    def lr_at(self, step: int) -> float:
        """The learning rate of a step."""
        return compute_lr(
            self.recipe, step, self.total_steps, self.steps_per_epoch, self.warmup_end_step, self.plateau.drop_steps
        )

    def load_checkpoint(self) -> bool:
        """Go back to the saved state, the log with it; False where there is none."""
        checkpoint = load_train_checkpoint(self.run.path / "checkpoint")
        rank_steps = self.process_group.all_gather(
            None if checkpoint is None else checkpoint.step
        )  # nobody writes while another still reads
        if len(set(rank_steps)) > 1:
            steps_text = ", ".join(f"rank {rank} that of step {step}" for rank, step in enumerate(rank_steps))
            raise invalid(
                "an output folder that every rank sees", f"{self.run.path}, where the state is for {steps_text}"
            )
        if self.process_group.is_main:
            self.snapshot_writer.truncate(checkpoint.step if checkpoint else 0)
        self.logger.start(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return False
        self._load_model_and_optimizer(checkpoint)
        self.train_seconds, self.warmup_end_step = checkpoint.train_seconds, checkpoint.warmup_end_step
        self.plateau.load_state_dict(checkpoint.plateau)
        self.early_stopping.load_state_dict(checkpoint.early_stopping)
        self.meter = TrainMeter.from_dict(checkpoint.meter, self.evaluator.device)
        self.weight_selector.load_checkpoint(checkpoint, self.evaluator.device)
        return True

    def _load_model_and_optimizer(self, checkpoint: TrainCheckpoint) -> None:
        self.step = checkpoint.step
        self.model.load_state_dict(checkpoint.model)
        self.context.optimizer.load_state_dict(checkpoint.optimizer)
        scaler = self.context.train_step.scaler
        if scaler is not None and checkpoint.grad_scaler is not None:
            scaler.load_state_dict(checkpoint.grad_scaler)

    def fit(self) -> bool:
        """Take the steps that are left; True at the end, False where Ctrl-C came first. The state is saved either way.

        Raises Diverged, with the step, where the loss or a weight is no longer finite; the last good state is kept.
        """
        cuda_devices = [self.evaluator.device] if self.evaluator.device.type == "cuda" else []
        is_distributed = self.process_group.world_size > 1
        with (
            deterministic_mode(),
            torch.random.fork_rng(cuda_devices),
            InterruptHandler(is_distributed) as self._interrupt_handler,
        ):
            self._last_tick = self._last_save_time = time.perf_counter()
            self._last_saved_step = self.step
            try:
                self._save_snapshot()
                if not self.is_finished:
                    context = replace(self.context, loader=self._timed_loader)
                    context.run_steps(self.step, self.total_steps, self.lr_at, self.after_step, lambda: self.meter)
                self.save_checkpoint()
            except NonFiniteError as error:
                raise self._with_diagnosis(error) from None
            except RuntimeError:
                # A scheduler that stops every process of a job stops those that read or share a batch within a step.
                if not self._interrupt_handler.requested:
                    raise
                self.step, self.interrupted = self._last_saved_step, True
            finally:
                self.logger.close()
            return self.is_finished or not self.interrupted

    def after_step(self, step: int) -> bool:
        """What happens after `step` steps: lines, judgement, probe, state. True ends the loop."""
        self.step = step
        self.weight_selector.on_step_end(step)
        is_epoch_end = step % self.steps_per_epoch == 0 or step == self.total_steps
        if is_epoch_end or step % LOG_EVERY_STEPS == 0:
            self._log_train_metrics()
        self._update_timers()
        if is_epoch_end:
            self.weight_selector.on_epoch_end(step)
            self._evaluate()
        if self.on_step_end and self.hook_every_steps and step % self.hook_every_steps == 0:
            self.logger.log({"kind": "step_end", "step": step, **self.on_step_end(step, self.model)})
        self._save_snapshot()
        self.logger.log_progress(self._progress_record)
        save_due = time.perf_counter() - self._last_save_time >= self.save_every_seconds
        self.interrupted, save_due = self.process_group.all_reduce_any(self._interrupt_handler.requested, save_due)
        if save_due:
            self.save_checkpoint()
        self._last_tick = time.perf_counter()
        return self.interrupted or self.is_finished

    def select_weights(self) -> SelectedWeights:
        """Load the weights that the run keeps and measure their BatchNorm statistics if the recipe wants it."""
        selected, num_batches = self.weight_selector.select(self.step), self.weight_selector.num_bn_batches()
        if not num_batches:
            return selected
        return replace(selected, num_bn_samples=self.context.update_bn_stats(self.step, num_batches))

    def _save_snapshot(self) -> None:
        """Keep the weights of this step where they are due; not where they are not finite."""
        if self.snapshot_writer.every_steps and any(
            self.process_group.all_reduce_any(self.snapshot_writer.is_due(self.step))
        ):
            self._check_finite()
            if self.process_group.is_main:
                self.snapshot_writer.save(self.step, self.model)

    def save_checkpoint(self) -> None:
        """Save what resuming needs. Raises Diverged, and saves nothing, where a loss or a weight is not finite."""
        self._check_finite()
        if self.process_group.is_main:
            save_train_checkpoint(self.run.path / "checkpoint", self._make_checkpoint())
        self._last_save_time, self._last_saved_step = time.perf_counter(), self.step

    def _make_checkpoint(self) -> TrainCheckpoint:
        return TrainCheckpoint(
            self.step,
            self.model.state_dict(),
            self.context.optimizer.state_dict(),
            self.meter.to_dict(),
            self.train_seconds,
            grad_scaler=grad_scaler_state(self.context.train_step.scaler),
            warmup_end_step=self.warmup_end_step,
            plateau=self.plateau.state_dict(),
            early_stopping=self.early_stopping.state_dict(),
            **self.weight_selector.state_dict(),
        )

    def _log_train_metrics(self) -> None:
        self.meter.all_reduce(self.process_group)
        loss, top1 = self.meter.means()
        num_samples = self.meter.num_samples
        self._update_timers()
        seconds, self.meter = self.meter.seconds, TrainMeter(first_step=self.step)
        compute_seconds, self._timed_loader.wait_seconds = seconds - self._timed_loader.wait_seconds, 0.0
        throughput = {
            "images_per_second": num_samples / max(seconds, 1e-9),
            "compute_images_per_second": num_samples / max(compute_seconds, 1e-9),
            "seconds": self.train_seconds,
        }
        record = {"kind": "train", **self._position(), "loss": loss, "top1": top1, "lr": self.lr_at(self.step - 1)}
        self.logger.log({**record, **throughput})
        if self.warmup_end_step is None and warmup_finished(self.recipe.schedule, 1 - top1):
            self.warmup_end_step = self.step

    def _update_timers(self) -> None:
        now = time.perf_counter()
        self.meter.seconds += now - self._last_tick
        self.train_seconds += now - self._last_tick
        self._last_tick = now

    def _evaluate(self) -> None:
        split = self.evaluator.monitor_split
        with self.weight_selector.eval_weights():
            evaluation = self.evaluator.evaluate(split)
        if not math.isfinite(evaluation.loss):
            raise NonFiniteError(f"the loss on {split} is {evaluation.loss} after step {self.step - 1}")
        self.logger.log(
            {"kind": "eval", "split": split, **self._position(), "loss": evaluation.loss, "top1": evaluation.top1}
        )
        if split == "val":
            self.weight_selector.update_best(self.step, evaluation)
            self.early_stopping.update(self.step, evaluation)
        if self.plateau.update(self.step, 1 - evaluation.top1) and not self.is_finished:
            self.logger.log_message(f"the error stopped falling at step {self.step}: rate {self.lr_at(self.step):g}")

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

    def _check_finite(self) -> None:
        self.meter.all_reduce(self.process_group)
        self.meter.check_finite()
        check_finite_weights(self.model, self.process_group, self.step)

    def _with_diagnosis(self, error: NonFiniteError) -> NonFiniteError:
        """The error with its batch and layer, found by taking the steps since the last good state again."""
        run_path, failed_step, checkpoint, origin = (
            self.run.path,
            self.step,
            load_train_checkpoint(self.run.path / "checkpoint"),
            None,
        )
        if checkpoint is not None:
            self._load_model_and_optimizer(checkpoint)
            origin = find_non_finite(self.context, self.lr_at, start=checkpoint.step, stop=failed_step)
        if origin is not None and self.process_group.is_main:
            write_bad_batch(origin, run_path, self.evaluator.data.split("train"))
        return with_diagnosis(
            error, None if checkpoint is None else checkpoint.step, origin, run_path, self.recipe.optimizer.lr
        )


def build_trainer(
    setup: TrainSetup,
    options: TrainOptions,
    process_group: ProcessGroup,
    workers: int | None,
    on_log: LogCallback,
    save_every_seconds: float,
) -> Trainer:
    """The course of a prepared run, on the ranks' device."""
    run, recipe, data, device = setup.run, setup.recipe, setup.data, process_group.device
    context = build_train_context(setup, options, process_group, workers)
    steps_per_epoch = context.loader.num_steps_per_epoch
    total_steps = parse_duration(recipe.duration).num_steps(steps_per_epoch)
    num_workers = choose_num_workers(workers, data, process_group.env.local_world_size)
    return Trainer(
        run,
        context,
        Evaluator(context.model, data, options.loss or functional.cross_entropy, num_workers, device, process_group),
        WeightSelector(context.model, recipe, total_steps, steps_per_epoch),
        _build_snapshot_writer(run, steps_per_epoch),
        RunLogger(run, on_log, process_group.is_main),
        total_steps,
        save_every_seconds=save_every_seconds,
    )


def build_train_context(
    setup: TrainSetup, options: TrainOptions, process_group: ProcessGroup, workers: int | None
) -> TrainContext:
    """What its steps are made of; the network is on the ranks' device from here on."""
    recipe, data, device = setup.recipe, setup.data, process_group.device
    seed = setup.run.metadata["seed"]
    model = setup.model.to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    num_workers = choose_num_workers(workers, data, process_group.env.local_world_size)
    loader = make_train_loader(recipe, data, seed, device, num_workers, process_group.env)
    return TrainContext(
        model,
        loader,
        build_objective(recipe, data, device, options.loss),
        build_optimizer(model, recipe.optimizer),
        _build_train_step(recipe, model, process_group),
        Freezing(model, recipe.unfreeze, loader.num_steps_per_epoch),
        recipe,
        seed,
        process_group,
    )


def _build_train_step(recipe: Recipe, model: nn.Module, process_group: ProcessGroup) -> TrainStep:
    ddp_model = process_group.wrap_ddp(model)
    return TrainStep(
        recipe.precision,
        recipe.channels_last,
        recipe.grad_accum_steps,
        recipe.clip_grad_norm,
        make_grad_scaler(recipe.precision, process_group.device),
        torch.compile(ddp_model or model) if recipe.compile else None,
        recipe.l1,
        recipe.l2,
        ddp_model,
    )


def _build_snapshot_writer(run: Run, steps_per_epoch: int) -> SnapshotWriter:
    every_steps = snapshot_interval_steps(run.metadata.get("snapshot_every", "0"), steps_per_epoch)
    return SnapshotWriter(run.path, every_steps, weights_header(run))
