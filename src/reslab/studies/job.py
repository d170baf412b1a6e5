"""Run one job of a study: the training if it is missing, its evaluations and its analyses; and evaluate ensembles."""

import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reslab.analysis.inputs import ImageOptions, labels_to, load_inputs
from reslab.analysis.layers import InsufficientMemoryError
from reslab.analysis.open_targets import init_network, open_targets
from reslab.analysis.registry import get_analysis, run_analysis
from reslab.analysis.target import AnalysisTarget
from reslab.runtime.device import choose_device, choose_num_threads
from reslab.runtime.files import write_atomic
from reslab.runtime.provenance import provenance
from reslab.spec.arch import Arch
from reslab.spec.config import to_dict
from reslab.spec.study import AnalysisRequest
from reslab.studies.cost import processor_clock, total_macs
from reslab.studies.plan import (
    EntryMetadata,
    EntryStatus,
    JobContext,
    MessageCallback,
    StoreEntry,
    StudyJob,
    StudyPlan,
    StudyStore,
    evaluated_metrics,
    is_done,
    training_identity,
)
from reslab.studies.resolve import ResolvedRow, locate_data, model_cost
from reslab.studies.run_metrics import evaluation_metrics, last_step_model, measure_run
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.meters import NonFiniteError
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.train import train


@dataclass
class _JobNotes:
    """The notes of one job: each is passed to the user with the job's name, and collected for its entry."""

    job_name: str
    on_message: MessageCallback
    notes: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.notes.append(f"{self.job_name}: {text}")
        self.on_message(self.notes[-1])


def run_job(job: StudyJob, context: JobContext) -> StoreEntry:
    """Run what is missing of a job, and return its entry. The caller holds the entry's lock.

    A damaged entry is created again, with a note. A loss that is infinite or NaN is a result (`diverged`). Raises
    TrainingInterrupted on Ctrl-C; the training can then be resumed.
    """
    entry = context.store.entry(job.key)
    notes = _JobNotes(job.name, context.on_message)
    if damage := entry.find_damage():
        notes.add(f"the entry {job.key} was damaged ({damage}) and is created again")
        entry.clear()
    if is_done(entry, job):
        return entry
    start_time = time.perf_counter()
    device = choose_device(context.device)
    previous = entry.metadata
    training = _train_if_missing(job, entry, context, device, notes)
    values, failed_analyses = dict(entry.values), {} if previous is None else dict(previous.failed_analyses)
    if training.error is None:
        values |= _measure_values(job, entry, context, device)
        failed_analyses |= run_missing_analyses(job, entry, context.data_dir, str(device), notes.add)
    metadata = _entry_metadata(
        job,
        device,
        training,
        values=values,
        failed_analyses=failed_analyses,
        notes=(*(previous.notes if previous else ()), *notes.notes),
        seconds=(previous.seconds if previous else 0.0) + time.perf_counter() - start_time,
    )
    entry.write(metadata)
    for old_key in context.store.mark_superseded(training_identity(job.row, job.seed), job.key):
        context.on_message(f"{job.name}: the entry {old_key} of older numerics is kept, marked as superseded")
    return entry


@dataclass(frozen=True)
class _TrainingOutcome:
    """The `error` of a training that diverged, and the processor time of one that ran from start to end."""

    error: str | None = None
    processor_seconds: float | None = None


def _train_if_missing(
    job: StudyJob, entry: StoreEntry, context: JobContext, device: torch.device, notes: _JobNotes
) -> _TrainingOutcome:
    previous = entry.metadata
    if previous is not None:
        return _TrainingOutcome(previous.error or None, previous.processor_seconds)
    if job.row.recipe is None:
        return _TrainingOutcome()
    is_new, start_time = not entry.path.exists(), processor_clock(device)
    try:
        _train_or_restart(job, entry, context, notes)
    except NonFiniteError as error:
        return _TrainingOutcome(error=str(error))
    return _TrainingOutcome(processor_seconds=processor_clock(device) - start_time if is_new else None)


def _train_or_restart(job: StudyJob, entry: StoreEntry, context: JobContext, notes: _JobNotes) -> None:
    """Train, or resume an interrupted training; start again if its checkpoint is unreadable."""
    try:
        _train(job, entry, context)
    except NonFiniteError:
        raise
    except ValueError as error:
        if not (entry.run_path / "run.json").is_file():
            raise
        # A crash may leave an unreadable checkpoint. Everything in it can be computed again.
        notes.add(f"the training could not be resumed ({error}) and starts again")
        entry.clear()
        _train(job, entry, context)


def _train(job: StudyJob, entry: StoreEntry, context: JobContext) -> Run:
    row = job.row
    return train(
        row.preset.model or row.spec.model,
        locate_data(row.data, context.data_dir),
        row.preset.recipe or row.spec.recipe,
        seed=job.seed,
        output=entry.run_path,
        resume=(entry.run_path / "run.json").is_file(),
        overrides=row.overrides,
        data_dir=context.data_dir,
        num_images=row.num_images,
        device=context.device,
        on_log=context.on_log,
        save_every_seconds=context.save_every_seconds,
    )


def _measure_values(job: StudyJob, entry: StoreEntry, context: JobContext, device: torch.device) -> dict[str, float]:
    """Measure the metrics that the entry does not have yet; values that are not finite are left out."""
    run = entry.run
    if run is None:
        return {}
    data_dir = None if context.data_dir is None else str(context.data_dir)
    tta = job.row.tta if f"test_error@{job.row.tta}" not in entry.values else ""
    measured = measure_run(run, evaluated_metrics(job) - entry.values.keys(), device, data_dir, tta)
    return {name: value for name, value in measured.items() if math.isfinite(value)}


def _entry_metadata(job: StudyJob, device: torch.device, training: _TrainingOutcome, **measured: Any) -> EntryMetadata:
    """Return the metadata of a finished entry; `measured` are the fields that this run of the job determined."""
    arch = job.row.arch
    assert arch is not None
    return EntryMetadata(
        key=job.key,
        status=EntryStatus.DONE if training.error is None else EntryStatus.DIVERGED,
        error=training.error or "",
        identity=training_identity(job.row, job.seed),
        macs=model_cost(arch).macs,
        params=model_cost(arch).params,
        total_macs=total_macs(job.row),
        processor_seconds=training.processor_seconds,
        **provenance(device, choose_num_threads(arch.input_size, device)),
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **measured,
    )


def run_missing_analyses(
    job: StudyJob, entry: StoreEntry, data_dir: str | Path | None, device: str, on_message: MessageCallback
) -> dict[str, str]:
    """Run the analyses that have no result yet; return the errors of those that failed, by the name of the result.

    Raises InsufficientMemoryError if there is too little memory at the moment.
    """
    failed_analyses = {}
    for request in job.analyses:
        if entry.read_result(request) is not None:
            continue
        if entry.result_path(request).exists():
            on_message(f"its result of {request.analysis} is unreadable and is computed again")
        start_time = time.perf_counter()
        try:
            result = _run_request(job, entry, request, data_dir, device)
        except InsufficientMemoryError:
            raise  # says nothing about the network, so it is not recorded: the next try may succeed
        except ValueError as error:
            on_message(f"{request.analysis} failed: {error}")
            failed_analyses[entry.result_path(request).stem] = str(error)
            continue
        record = {"request": to_dict(request), "result": to_dict(result), "seconds": time.perf_counter() - start_time}
        write_atomic(entry.result_path(request), json.dumps(record).encode())
    return failed_analyses


def _run_request(
    job: StudyJob, entry: StoreEntry, request: AnalysisRequest, data_dir: str | Path | None, device: str
) -> Any:
    overrides = dict(override.split("=", 1) for override in request.overrides)
    target = _analysis_target(job, entry, request, data_dir, device)
    return run_analysis(request.analysis, [target], overrides)[0]


def _analysis_target(
    job: StudyJob, entry: StoreEntry, request: AnalysisRequest, data_dir: str | Path | None, device: str
) -> AnalysisTarget:
    """Return the network with images: of the run's held-out split, or, without a run, of the row's data."""
    data = get_analysis(request.analysis).default_data
    if entry.run is not None:
        [target] = open_targets(
            [str(entry.run_path)],
            data=data,
            data_dir=data_dir,
            num_images=request.num_images,
            seed=job.seed,
            weights=request.weights,
            device=device,
        )
        return target
    arch = job.row.arch
    assert isinstance(arch, Arch), "analyses are of classification networks"
    inputs = load_inputs(arch, ImageOptions(data or job.row.data, data_dir, request.num_images, job.seed))
    return AnalysisTarget(
        name=arch.name,
        model=init_network(arch, job.seed).to(device).eval(),
        images=inputs.images.to(device),
        labels=labels_to(inputs.labels, torch.device(device)),
        task=inputs.task,
        data=inputs.data,
        step=0,
    )


@dataclass(frozen=True)
class Ensemble:
    """One seed of an ensemble row: its members are jobs of the plan."""

    row: ResolvedRow
    seed: int
    members: tuple[StudyJob, ...]

    def values_path(self, store: StudyStore) -> Path:
        """Return the path of its metrics, which depends on the members and on the test-time augmentation."""
        key_text = json.dumps([self.row.tta, *(job.key for job in self.members)])
        return store.path / "ensembles" / f"{hashlib.sha256(key_text.encode()).hexdigest()[:24]}.json"

    def read_values(self, store: StudyStore) -> dict[str, float]:
        """Return its metrics; empty if they were not measured."""
        try:
            values: Any = json.loads(self.values_path(store).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def row_ensembles(plan: StudyPlan, row: ResolvedRow) -> list[Ensemble]:
    """Return the ensembles of a row, one for each seed that the plan has for every member."""
    ensembles = []
    for seed in range(plan.num_seeds[row.spec.name]):
        jobs = [job for name in row.spec.members for job in plan.jobs_of(name) if job.seed == seed]
        if len(jobs) == len(row.spec.members):
            ensembles.append(Ensemble(row, seed, tuple(jobs)))
    return ensembles


def evaluate_ensembles(plan: StudyPlan, context: JobContext) -> None:
    """Evaluate the mean of the members' probabilities, for ensembles whose members are trained and that lack it."""
    for row in plan.rows:
        for ensemble in row_ensembles(plan, row) if row.spec.members else ():
            if not ensemble.read_values(context.store) and _is_ready(ensemble, context.store):
                num_members = len(ensemble.members)
                context.on_message(f"{row.spec.name}, seed {ensemble.seed}: evaluating {num_members} networks together")
                text = json.dumps(_evaluate_ensemble(ensemble, context), allow_nan=False)
                write_atomic(ensemble.values_path(context.store), text.encode())


def _is_ready(ensemble: Ensemble, store: StudyStore) -> bool:
    return all(_has_network(store.entry(job.key), job) for job in ensemble.members)


def _has_network(entry: StoreEntry, job: StudyJob) -> bool:
    metadata = entry.metadata
    return (
        is_done(entry, job) and metadata is not None and metadata.status is EntryStatus.DONE and entry.run is not None
    )


def _evaluate_ensemble(ensemble: Ensemble, context: JobContext) -> dict[str, float]:
    runs = [run for job in ensemble.members if (run := context.store.entry(job.key).run) is not None]
    data = reopen_data(runs[0].metadata["data"], None, context.data_dir)
    models = [last_step_model(run) for run in runs]
    evaluation = evaluate(models, data, tta=ensemble.row.tta, device=context.device)
    return evaluation_metrics(evaluation.spec.name, evaluation.to_dict())
