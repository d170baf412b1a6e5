"""One job done: the training that is missing, its figures, the answers to what is asked of its network.

The questions of a study, put to the network of an entry; the answers kept beside it.

Rows that are several networks: the mean of the members' probabilities, judged once and kept in the store.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.analysis.blocks import InsufficientMemoryError
from reslab.analysis.open_targets import ImageOptions, init_network, load_inputs, open_targets
from reslab.analysis.registry import get_analysis, run_analysis
from reslab.analysis.target import AnalysisTarget
from reslab.runtime.device import choose_num_threads, hardware_info
from reslab.runtime.files import write_atomic
from reslab.runtime.provenance import command_line, git_commit, package_versions
from reslab.spec.config import to_dict
from reslab.spec.study import AnalysisRequest
from reslab.studies.cost import total_macs
from reslab.studies.metrics import evaluation_scores, last_step_model, measure_run
from reslab.studies.plan import StudyJob, StudyPlan, evaluated_metrics, is_done
from reslab.studies.resolve import ResolvedRow, model_cost
from reslab.studies.store import NUMERICS_VERSION, StoreEntry, StudyStore, training_identity
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.meters import NonFiniteError
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from reslab.training.run_logger import LogCallback
from reslab.training.train import train


def run_missing_analyses(
    job: StudyJob, entry: StoreEntry, data_dir: str | Path | None, device: str, on_message: Callable[[str], None]
) -> dict[str, str]:
    """Ask what was not answered yet; returns why of what this network cannot be asked, by the name of its answer.

    Raises NoRoom where the memory is too small now.
    """
    failed_analyses = {}
    for request in job.analyses:
        if entry.read_result(request) is not None:
            continue
        if entry.result_path(request).exists():
            on_message(f"its answer to {request.analysis} could not be read and is found again")
        start_time = time.perf_counter()
        try:
            result = _run_request(job, entry, request, data_dir, device)
        except InsufficientMemoryError:
            raise  # this says nothing of the network: it is asked again
        except ValueError as error:
            on_message(f"{request.analysis} has no answer: {error}")
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
    """The network with its pictures: of the run's held-out split, or those of the row's data."""
    data = get_analysis(request.analysis).default_data
    if entry.run is not None:
        target_options: dict[str, Any] = {
            "data": data,
            "num_images": request.num_images,
            "seed": job.seed,
            "weights": request.weights,
        }
        return open_targets([str(entry.run_path)], data_dir=data_dir, device=device, **target_options)[0]
    arch = job.row.arch
    assert arch is not None
    network = init_network(arch, job.seed)
    inputs = load_inputs(arch, ImageOptions(data or job.row.data, data_dir, request.num_images, job.seed))
    images, labels = inputs.images.to(device), inputs.labels.to(device)
    return AnalysisTarget(arch.name, network.to(device).eval(), images, labels, inputs.data, inputs.classes, None, 0)


MessageCallback = Callable[[str], None]


@dataclass(frozen=True)
class JobContext:
    """Where jobs are done: the store, the folder of data, the device; `say` tells a person, `show` takes a run's lines.

    `save_every_seconds`: how much a killed training loses at most.
    """

    store: StudyStore
    data_dir: str | Path | None = None
    device: str = "auto"
    on_message: MessageCallback = lambda _: None
    on_log: LogCallback = lambda _: None
    save_every_seconds: float = 60.0


def run_job(job: StudyJob, context: JobContext) -> StoreEntry:
    """Do what is missing of a job, in an entry that is locked by the caller, and return it.

    A damaged entry is made again, which is said. A loss that is not finite is a result: `diverged`. Raises Interrupted
    on Ctrl-C, with the training's state kept.
    """
    entry = context.store.entry(job.key)
    messages: list[str] = []

    def log_message(text: str) -> None:
        messages.append(f"{job.name}: {text}")
        context.on_message(messages[-1])

    if damage := entry.find_damage():
        log_message(f"its entry {job.key} was damaged ({damage}) and is made again")
        entry.clear()
    if is_done(entry, job):
        return entry
    start_time = time.perf_counter()
    device = torch.device(
        context.device if context.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    previous, divergence = entry.metadata, str(entry.metadata.get("error", ""))
    processor_seconds = previous.get("processor_seconds")
    if job.row.recipe is not None and previous.get("status") not in ("done", "diverged"):
        is_new, clock_start = not entry.path.exists(), _processor_clock(device)
        divergence = _train_with_restart(job, entry, context, log_message)
        processor_seconds = _processor_clock(device) - clock_start if is_new and not divergence else None
    values = dict(entry.values) if divergence else _measure_values(job, entry, context, device)
    failed_analyses = dict(previous.get("failed_analyses", {}))
    failed_analyses |= (
        {} if divergence else run_missing_analyses(job, entry, context.data_dir, str(device), log_message)
    )
    seconds = previous.get("seconds", 0.0) + time.perf_counter() - start_time
    metadata = _entry_metadata(job, device) | {"values": values, "failed_analyses": failed_analyses, "seconds": seconds}
    metadata["notes"] = [*previous.get("notes", ()), *messages]
    status = {
        "status": "diverged" if divergence else "done",
        "error": divergence,
        "processor_seconds": processor_seconds,
    }
    entry.write(metadata | status)
    for old_key in context.store.mark_superseded(training_identity(job.row, job.seed), job.key):
        context.on_message(f"{job.name}: the entry {old_key} of older numerics is kept, and marked as superseded")
    return entry


def _train_with_restart(job: StudyJob, entry: StoreEntry, context: JobContext, on_message: MessageCallback) -> str:
    """Train, or go on with a training that was stopped; what is said where it diverged, else an empty string."""
    try:
        _start_training(job, entry, context)
    except NonFiniteError as error:
        return str(error)
    except ValueError as error:
        # A state that a crash left unreadable: what it held can be made again.
        if not (entry.run_path / "run.json").is_file():
            raise
        on_message(f"its training could not be taken up ({error}) and started again")
        entry.clear()
        try:
            _start_training(job, entry, context)
        except NonFiniteError as retry_error:
            return str(retry_error)
    return ""


def _start_training(job: StudyJob, entry: StoreEntry, context: JobContext) -> Run:
    row = job.row
    return train(
        row.preset.model or row.spec.model,
        row.data,
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
    run = entry.run
    if run is None:
        return {}
    data_dir = None if context.data_dir is None else str(context.data_dir)
    tta = job.row.tta if f"test_error@{job.row.tta}" not in entry.values else ""
    measured = measure_run(run, evaluated_metrics(job) - entry.values.keys(), device, data_dir, tta)
    return {**entry.values, **{name: value for name, value in measured.items() if math.isfinite(value)}}


def _processor_clock(device: torch.device) -> float:
    """Seconds of this process's processors; of a GPU, seconds."""
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def _entry_metadata(job: StudyJob, device: torch.device) -> dict[str, Any]:
    row = job.row
    assert row.arch is not None
    return {
        "format": 1,
        "key": job.key,
        "numerics_version": NUMERICS_VERSION,
        "identity": training_identity(row, job.seed),
        "macs": model_cost(row.arch).macs,
        "params": model_cost(row.arch).params,
        "total_macs": total_macs(row),
        "hardware": hardware_info(device, choose_num_threads(row.arch.input_size, device)),
        "versions": package_versions(),
        "command": command_line(),
        "commit": git_commit(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@dataclass(frozen=True)
class Ensemble:
    """The members of a row with one seed, each a job of the plan."""

    row: ResolvedRow
    seed: int
    members: tuple[StudyJob, ...]

    def values_path(self, store: StudyStore) -> Path:
        """Where its figures are kept: known by its members and how it is judged."""
        key_text = json.dumps([self.row.tta, *(job.key for job in self.members)])
        return store.path / "ensembles" / f"{hashlib.sha256(key_text.encode()).hexdigest()[:24]}.json"

    def read_values(self, store: StudyStore) -> dict[str, float]:
        """Its figures; empty where they were not measured."""
        try:
            values: Any = json.loads(self.values_path(store).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def row_ensembles(plan: StudyPlan, row: ResolvedRow) -> list[Ensemble]:
    """A row's ensembles, one for each seed that the plan has for every member."""
    row_ensembles = []
    for seed in range(plan.num_seeds[row.spec.name]):
        jobs = [job for name in row.spec.members for job in plan.jobs_of(name) if job.seed == seed]
        if len(jobs) == len(row.spec.members):
            row_ensembles.append(Ensemble(row, seed, tuple(jobs)))
    return row_ensembles


def evaluate_ensembles(plan: StudyPlan, context: JobContext) -> None:
    """Judge those whose members are all trained, where that was not done before."""
    for row in plan.rows:
        for ensemble in row_ensembles(plan, row) if row.spec.members else ():
            if not ensemble.read_values(context.store) and _is_ready(ensemble, context.store):
                context.on_message(
                    f"{row.spec.name}, seed {ensemble.seed}: {len(ensemble.members)} networks judged together"
                )
                text = json.dumps(_evaluate_ensemble(ensemble, context), allow_nan=False)
                write_atomic(ensemble.values_path(context.store), text.encode())


def _is_ready(ensemble: Ensemble, store: StudyStore) -> bool:
    entries = [(store.entry(job.key), job) for job in ensemble.members]
    return all(is_done(entry, job) and entry.metadata["status"] == "done" and entry.run for entry, job in entries)


def _evaluate_ensemble(ensemble: Ensemble, context: JobContext) -> dict[str, float]:
    runs = [run for job in ensemble.members if (run := context.store.entry(job.key).run) is not None]
    data = reopen_data(runs[0].metadata["data"], None, context.data_dir)
    models = [last_step_model(run) for run in runs]
    return evaluation_scores(evaluate(models, data, tta=ensemble.row.tta, device=context.device))
