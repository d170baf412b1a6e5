"""A study expanded at a scale, one job for each seed of each row; and the store, one folder for each training.

A training is found in the store by a hash of what determines it; one worker at a time trains it.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from reslab.runtime.files import write_atomic
from reslab.runtime.locks import FileLock
from reslab.spec.config import non_default_fields, to_dict
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid
from reslab.spec.study import AnalysisRequest, Study
from reslab.studies.resolve import AnyArch, ResolvedRow, resolve_row, row_analyses
from reslab.training.run import Run
from reslab.training.run_logger import LogCallback

# Raised when the same description no longer gives the same results.
NUMERICS_VERSION = 1

_HASHED_FILES = ("run/model.safetensors", "run/log.jsonl")
_NON_IDENTITY_FIELDS = ("name", "reference", "notes", "model", "arch", "data")


def training_identity(row: ResolvedRow, seed: int) -> dict[str, Any]:
    """Return everything that determines a training: network, recipe, data and seed, but no names or references.

    Fields with their default value are left out, so that a new field does not change the identity of every entry. When
    a default changes, NUMERICS_VERSION is raised.
    """
    assert row.arch is not None
    recipe = None if row.recipe is None else _drop_non_identity(non_default_fields(row.recipe))
    return {
        "arch": arch_identity(row.arch),
        "recipe": recipe,
        "data": {"name": row.data, "fingerprint": row.fingerprint},
        "num_images": row.num_images,
        "seed": seed,
    }


def arch_identity(arch: AnyArch | None) -> dict[str, Any]:
    """Return what determines a network, as plain data."""
    if arch is None:
        return {}
    fields = _drop_non_identity(non_default_fields(arch))
    return {**fields, "backbone": arch_identity(arch.backbone)} if isinstance(arch, DenseArch) else fields


def _drop_non_identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _NON_IDENTITY_FIELDS}


def entry_key(identity: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """Return the first 24 digits of the SHA-256 of an identity and the numerics version."""
    text = json.dumps({**identity, "numerics_version": numerics_version}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class EntryStatus(StrEnum):
    """The outcome of a finished training."""

    DONE = "done"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class EntryMetadata:
    """The content of entry.json: what determines the training, its outcome, and how it was produced.

    `values` are the metrics that the log does not hold. `error` is the message of a training that diverged,
    `failed_analyses` the errors of analyses that the network does not support, by the name of the result, and `notes`
    what happened on the way. `processor_seconds` is None if the training was interrupted or diverged. `files` are the
    hashes of the files of the run.
    """

    key: str
    status: EntryStatus
    identity: Mapping[str, Any]
    values: Mapping[str, float]
    macs: int
    params: int
    total_macs: float
    seconds: float
    processor_seconds: float | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    commit: str | None
    created: str
    error: str = ""
    failed_analyses: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    superseded_by: str = ""
    numerics_version: int = NUMERICS_VERSION
    format: int = 1

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EntryMetadata":
        """Read the JSON object of entry.json. Raises TypeError or ValueError if it is none."""
        known = {name: record[name] for name in (item.name for item in dataclasses.fields(cls)) if name in record}
        metadata = cls(**known)
        return replace(metadata, status=EntryStatus(metadata.status), notes=tuple(metadata.notes))


@dataclass(frozen=True)
class StoreEntry:
    """One folder of the store: `entry.json`, `run/` and the analysis results in `results/`."""

    path: Path

    @property
    def run_path(self) -> Path:
        """The folder of the training."""
        return self.path / "run"

    @property
    def metadata(self) -> EntryMetadata | None:
        """The content of entry.json; None if the file is missing or unreadable."""
        try:
            return EntryMetadata.from_json(json.loads((self.path / "entry.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    @property
    def values(self) -> Mapping[str, float]:
        """The measured metrics; empty for an unfinished entry."""
        metadata = self.metadata
        return {} if metadata is None else metadata.values

    @property
    def run(self) -> Run | None:
        """The training, finished or not; None for a network at initialization."""
        return Run(self.run_path) if (self.run_path / "run.json").is_file() else None

    def write(self, metadata: EntryMetadata) -> None:
        """Write entry.json, with the hashes of the files that belong to it."""
        files = {name: _hash(self.path / name) for name in _HASHED_FILES if (self.path / name).is_file()}
        self._write_json(replace(metadata, files=files))

    def mark_superseded(self, metadata: EntryMetadata, key: str) -> None:
        """Record that the entry `key` of a newer numerics version replaces this one."""
        self._write_json(replace(metadata, superseded_by=key))

    def _write_json(self, metadata: EntryMetadata) -> None:
        text = json.dumps(to_dict(metadata), indent=2, allow_nan=False)
        write_atomic(self.path / "entry.json", text.encode())

    def find_damage(self) -> str | None:
        """Return what is wrong with a finished entry, as a text; None if nothing is, or if it is not finished."""
        if not (self.path / "entry.json").is_file():
            return None
        metadata = self.metadata
        if metadata is None:
            return "entry.json is unreadable"
        if metadata.key != self.path.name:
            return f"entry.json belongs to the entry {metadata.key}"
        for name, expected_hash in metadata.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if _hash(file) != expected_hash:
                return f"{name} has changed"
        return None

    def clear(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def result_path(self, request: AnalysisRequest) -> Path:
        """Return the path of an analysis result."""
        request_text = json.dumps(to_dict(request) | {"rows": None}, sort_keys=True)
        digest = hashlib.sha256(request_text.encode()).hexdigest()[:8]
        suffix = "" if request.weights == "final" else f"@{request.weights}"
        return self.path / "results" / f"{request.analysis}{suffix}-{digest}.json"

    def read_result(self, request: AnalysisRequest) -> dict[str, Any] | None:
        """Return an analysis result; None if the analysis was not run, or if its file is unreadable."""
        try:
            record = json.loads(self.result_path(request).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["result"] if isinstance(record, dict) and "result" in record else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class StudyStore:
    """The entries in a folder, each locked by the worker that changes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._locks: dict[str, FileLock] = {}  # kept from one try to the next, as FileLock requires

    def check_writable(self) -> None:
        """Create the folder if necessary. Raises ValueError if it cannot be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path) as file:
                file.write(b"test")
        except OSError as error:
            got, hint = f"{self.path} ({error.strerror})", "choose another with --store"
            raise invalid("a writable folder for the store", got, next_step=hint) from None

    def entry(self, key: str) -> StoreEntry:
        """Return the entry of a key, which need not exist yet."""
        return StoreEntry(self.path / key)

    def entries(self) -> list[StoreEntry]:
        """Return every entry that is finished and readable."""
        folders = sorted(self.path.iterdir()) if self.path.is_dir() else []
        return [entry for entry in map(StoreEntry, folders) if entry.metadata is not None]

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of an entry inside the block. Raises LockHeldError if another worker holds it.

        The lock of a dead process is free; see `FileLock`.
        """
        with self._locks.setdefault(key, FileLock(self.path / f"{key}.lock")).hold():
            yield

    def mark_superseded(self, identity: Mapping[str, Any], key: str) -> list[str]:
        """Mark the entries of the same training with an older numerics version as superseded; return their keys."""
        marked_keys = []
        for version in range(NUMERICS_VERSION):
            old_entry = self.entry(entry_key(identity, version))
            metadata = old_entry.metadata
            if metadata is None:
                continue
            if metadata.superseded_by != key:
                old_entry.mark_superseded(metadata, key)
            marked_keys.append(old_entry.path.name)
        return marked_keys


# Metrics that neither the log nor the result of a run contains.
EVALUATED_METRICS = frozenset({"train_error_eval", "train_loss_eval", "gap", "train_error_batch", "test_error_batch"})


MessageCallback = Callable[[str], None]


@dataclass(frozen=True)
class JobContext:
    """The environment of the jobs: the store, the data directory, the device, and the callbacks.

    `on_message` receives messages for the user, `on_log` the log records of the trainings. An interrupted training
    loses at most `save_every_seconds`.
    """

    store: StudyStore
    data_dir: str | Path | None = None
    device: str = "auto"
    on_message: MessageCallback = lambda _: None
    on_log: LogCallback = lambda _: None
    save_every_seconds: float = 60.0


@dataclass(frozen=True)
class StudyJob:
    """One seed of a row, with the `key` of its entry in the store, the analyses to run and the metrics to measure."""

    number: int
    row: ResolvedRow
    seed: int
    key: str
    analyses: tuple[AnalysisRequest, ...] = ()
    metrics: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name for messages: `plain-56, seed 1`."""
        return f"{self.row.spec.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """All jobs of a study at a scale, the first seed of every row first; `rows` are the selected ones, in order."""

    study: Study
    scale: str
    rows: tuple[ResolvedRow, ...]
    num_seeds: dict[str, int] = field(default_factory=dict)
    jobs: tuple[StudyJob, ...] = ()

    def jobs_of(self, name: str) -> list[StudyJob]:
        """Return the jobs of a row, by seed."""
        return [job for job in self.jobs if job.row.spec.name == name]


def make_study_plan(
    study: Study,
    scale: str,
    *,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    data_dir: str | Path | None = None,
    device: torch.device | None = None,
) -> StudyPlan:
    """Expand a study at a scale: all `rows` unless some are named, with `seeds` or the study's own number of seeds.

    Raises ValueError for an unknown scale or row (with the nearest names), and for rows that are invalid.
    """
    if seeds is not None and seeds < 1:
        raise invalid("at least 1 seed", seeds, nearest="1")
    study.presets.for_scale(scale)
    selected_rows = [study.get_row(name) for name in dict.fromkeys(rows)] if rows else list(study.rows)
    resolved_device = device or torch.device("cpu")
    resolved_rows = tuple(resolve_row(study, row, scale, data_dir, resolved_device) for row in selected_rows)
    num_seeds = {
        resolved.spec.name: seeds or resolved.preset.seeds or resolved.spec.seeds for resolved in resolved_rows
    }
    return StudyPlan(study, scale, resolved_rows, num_seeds, tuple(_make_jobs(study, resolved_rows, num_seeds)))


def _make_jobs(study: Study, rows: Sequence[ResolvedRow], num_seeds: dict[str, int]) -> list[StudyJob]:
    jobs: list[StudyJob] = []
    for seed in range(max(num_seeds.values(), default=0)):
        for row in rows:
            if seed < num_seeds[row.spec.name] and not row.spec.members:
                job = StudyJob(
                    number=len(jobs),
                    row=row,
                    seed=seed,
                    key=entry_key(training_identity(row, seed)),
                    analyses=row_analyses(study, row.spec, row.preset),
                    metrics=row_metrics(study, row.spec.name),
                )
                jobs.append(job)
    return jobs


def row_metrics(study: Study, name: str) -> frozenset[str]:
    """Return the metrics of a row: its own, those of its further reported values, and those of claims about it."""
    row = study.get_row(name)
    claim_metrics = {claim.metric for claim in study.claims if name in claim.rows and claim.metric}
    return frozenset({row.metric, *claim_metrics, *(reported.metric for reported in row.more_reported)})


def is_done(entry: StoreEntry, job: StudyJob) -> bool:
    """Return whether an entry is intact and contains everything that a job needs."""
    metadata = entry.metadata
    if metadata is None or entry.find_damage() is not None:
        return False
    if metadata.status is EntryStatus.DIVERGED:
        return True
    evaluated = set() if job.row.recipe is None else evaluated_metrics(job)
    return evaluated <= metadata.values.keys() and all(
        entry.read_result(request) is not None or entry.result_path(request).stem in metadata.failed_analyses
        for request in job.analyses
    )


def evaluated_metrics(job: StudyJob) -> set[str]:
    """Return the metrics of a job that need an evaluation of their own."""
    metrics = {"train_error_eval" if name == "gap" else name for name in job.metrics & EVALUATED_METRICS}
    return metrics | ({f"test_error@{job.row.tta}"} if job.row.tta else set())


def missing_jobs(plan: StudyPlan, store: StudyStore) -> list[StudyJob]:
    """Return the jobs that the store does not have, and whose data are available."""
    return [job for job in plan.jobs if not job.row.unavailable_reason and not is_done(store.entry(job.key), job)]
