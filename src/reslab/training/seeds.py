"""Runs that differ only in their seed: train them, recognize them, and summarize their metrics."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import nn

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.run import Run
from reslab.training.run_data import DEFAULT_DATA, data_location
from reslab.training.run_folder import is_non_empty, make_slug
from reslab.training.train import train

# What `train` takes that changes the result; the folder of the runs is named after it.
_RESULT_OPTIONS = ("epochs", "batch_size", "lr", "image_size", "overrides", "pretrained", "val_fraction", "num_images")


def train_seeds(
    model: str | Arch | nn.Module | Callable[..., nn.Module] | None = None,
    data: Any = None,
    recipe: str | Path | Recipe | None = None,
    *,
    seeds: int | Sequence[int],
    output: str | Path | None = None,
    **options: Any,
) -> list[Run]:
    """Train the same network with several seeds and return the runs, one folder each: `output/seed0`, `output/seed1`.

    `seeds` is a number (0 to seeds - 1) or the seeds themselves; `options` are those of `train`. The same call again
    keeps the finished runs, resumes the interrupted one and trains the others, so more seeds can be added later; with
    other options it is an error. Without `output` the folder is `runs/MODEL-DATA-HASH`, with the hash of the options.
    `group_runs` and `SeedGroup.summarize` give mean and standard deviation.

    Raises what `train` raises, and ValueError without a seed, for objects as model, data or recipe without output, and
    on several ranks, which would look at the folders of the seeds at different times.
    """
    world_size = read_distributed_env().world_size
    if world_size > 1:
        raise invalid(
            "one process for several seeds",
            f"{world_size} ranks of torchrun",
            next_step="start torchrun once a seed: --seed 0 --output DIR/seed0, --seed 1 --output DIR/seed1",
        )
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not seed_list:
        raise invalid("at least one seed", seeds, nearest="3")
    if isinstance(model, nn.Module):
        raise invalid(
            "a network by name or an Arch, which is initialized for each seed",
            "a module, which would start from the weights of the seed before",
            next_step="call train(model, seed=...) with a new module for each seed",
        )
    folder = Path(output) if output is not None else _default_folder(model, data, recipe, options)
    options.pop("resume", None)  # each seed is resumed where it was interrupted, and started where there is nothing
    runs = []
    for seed in seed_list:
        path = seed_path(folder, seed)
        try:
            runs.append(train(model, data, recipe, seed=seed, output=path, resume=is_non_empty(path), **options))
        except TrainingInterrupted as interrupt:
            raise TrainingInterrupted(
                f"{interrupt}; or run the same command again: it continues seed {seed} and trains the rest",
                interrupt.signum,
            ) from None
    return runs


def seed_path(folder: Path, seed: int) -> Path:
    """Return the folder of the run with this seed."""
    return folder / f"seed{seed}"


def _default_folder(model: Any, data: Any, recipe: Any, options: Mapping[str, Any]) -> Path:
    """Return the folder of the runs with these options; the seed, the device and the like do not change it."""
    requested = {name: options[name] for name in _RESULT_OPTIONS if options.get(name) is not None}
    if not all(isinstance(value, str | Path | None) for value in (model, data, recipe)) or options.get("loss"):
        raise invalid(
            "output, the folder of the runs, with objects as model, data, recipe or loss",
            "none",
            next_step="train_seeds(..., output='runs/NAME')",
        )
    location = data_location(data)
    identity = {"model": model, "data": location, "recipe": recipe, **requested}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]
    names = [str(model or "default"), Path(location or DEFAULT_DATA).stem, digest]
    return Path("runs") / "-".join(make_slug(name) for name in names)


@dataclass(frozen=True)
class MetricSummary:
    """A metric over n runs: mean, and standard deviation with n - 1 in the denominator (None for one run)."""

    mean: float
    std: float | None
    n: int


def summarize(values: Sequence[float]) -> MetricSummary | None:
    """Return mean, standard deviation and number of the values; None without one."""
    if not values:
        return None
    return MetricSummary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class SeedGroup:
    """Runs of the same network, data and recipe, in the order given, which differ only in their seed."""

    runs: tuple[Run, ...]

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a result; a seed that was trained twice counts once, with its first run."""
        by_seed: dict[int, Run] = {}
        for run in self.runs:
            if run.result is not None:
                by_seed.setdefault(run.metadata["seed"], run)
        return tuple(by_seed.values())

    def summarize(self, metric: str) -> MetricSummary | None:
        """Return mean, standard deviation and number of a metric of the results (`top1`, `loss`); None without one."""
        results = [run.result or {} for run in self.finished]
        return summarize([result[metric] for result in results if result.get(metric) is not None])


def group_runs(runs: Sequence[Run]) -> list[SeedGroup]:
    """Return the runs in groups that differ only in their seed, in the order of their first runs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return [SeedGroup(tuple(group)) for group in groups.values()]


def group_key(run: Run) -> str:
    """Return a text that is equal for runs of the same network, initial weights, data, split and recipe."""
    metadata, data = run.metadata, run.metadata["data"]
    names = ("model", "pretrained", "recipe", "loss", "val_fraction")
    data_names = ("name", "fingerprint", "eval_split", "preprocess", "num_images")
    identity = {name: metadata.get(name) for name in names} | {"data": {name: data.get(name) for name in data_names}}
    return json.dumps(identity, sort_keys=True)
