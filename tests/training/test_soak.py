"""Long loops of faults in one run folder: kills at each stage, and flipped bytes in each file. Run by `make soak`.

`RESLAB_SOAK_KILLS` is the number of kills at each stage (default 17), `RESLAB_SOAK_FLIPS` that of flips in each file
(default 300), `RESLAB_SOAK_SECONDS` the time for each of the two (default 1200), `RESLAB_SOAK_SEED` the draw (0).
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reslab.runtime.files as files
import reslab.training.train as train_module
from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import Evaluator
from reslab.training.evaluation.prediction_files import load_correctness
from reslab.training.run import Run
from reslab.training.run_folder import DamagedLogWarning, is_non_empty
from reslab.training.train import train

KILLS = int(os.environ.get("RESLAB_SOAK_KILLS", "17"))
FLIPS = int(os.environ.get("RESLAB_SOAK_FLIPS", "300"))
SECONDS = float(os.environ.get("RESLAB_SOAK_SECONDS", "1200"))
SEED = int(os.environ.get("RESLAB_SOAK_SEED", "0"))
AXES = {"model.depths": "1,1,1", "model.widths": "4,4,4", "model.stem": "conv3(4) norm act"}
OPTIONS: dict[str, Any] = {
    "overrides": AXES,
    "epochs": 2,
    "seed": 3,
    "val_fraction": 0.2,
    "device": "cpu",
    "snapshot_every": "15 steps",
    "on_log": lambda record: None,
    "save_every_seconds": 0.0,
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(
    owner: Any,
    name: str,
    count: int,
    matches: Callable[..., bool] = lambda *args: True,
    before: Callable[..., Any] = lambda *args: None,
) -> None:
    """Replace a function by one that ends the process at its matching call number `count`, from 1, after `before`."""
    original, calls = getattr(owner, name), Counter[str]()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if matches(*args):
            calls["n"] += 1
            if calls["n"] == count:
                before(*args)
                die()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def die_while_writing(filename: str, count: int, cut: bool) -> None:
    """End the process when the temporary file of `filename` is written: whole, or cut short as in a write."""

    def shorten(path: Path) -> None:
        if cut:
            os.truncate(path, path.stat().st_size // 2)

    die_at_call(files, "_sync", count, lambda path: path.name.startswith(f".{filename}."), shorten)


def kill_at(stage: str, draw: random.Random) -> dict[str, Any]:
    """Arrange the kill of a stage in this process; return options for `train`."""
    cut = draw.random() < 0.5
    if stage == "before run.json":
        die_while_writing("run.json", 1, cut)
    elif stage == "training":
        step = draw.randint(1, 12)
        return {"on_step_end": lambda number, model: die() if number % 13 == step else {}, "hook_every_steps": 1}
    elif stage == "checkpoint":
        die_while_writing("checkpoint.pt", draw.randint(1, 6), cut)
    elif stage == "evaluation":
        die_at_call(Evaluator, "evaluate", 1)
    elif stage == "result":
        if draw.random() < 0.5:
            die_while_writing("model.safetensors", 1, cut)
        else:
            die_at_call(Run, "update", 1, lambda run, **values: run.weights_path.exists())
    else:
        if draw.random() < 0.5:
            die_at_call(train_module, "write_report", 1)
        else:
            die_while_writing("report.html", 1, cut)
    return {}


STAGES = ("before run.json", "training", "checkpoint", "evaluation", "result", "report")


def run_part(output: Path, stage: str, seed: int) -> None:
    """Train in this process until the kill of the stage, or to the end."""
    torch.set_num_threads(1)
    options = {**OPTIONS, **(kill_at(stage, random.Random(seed)) if stage else {})}
    resume = is_non_empty(output)
    if resume:  # what the run has recorded need not be said again
        options = {name: options[name] for name in options if name not in ("overrides", "epochs", "seed")}
    train(output=output, resume=resume, **options)
    os._exit(0)


def start_part(output: Path, stage: str, seed: int) -> int:
    """Return the exit code of a process of its own that trains until the kill of the stage, or to the end."""
    process = multiprocessing.get_context("fork").Process(target=run_part, args=(output, stage, seed))
    process.start()
    process.join(300)
    assert process.exitcode is not None, f"{stage}: still running after 300 s"
    return process.exitcode


def outcome_of(run: Run) -> dict[str, Any]:
    """Return everything of a finished run that does not depend on a clock."""
    timed = ("seconds", "images_per_second", "waiting_fraction", "advised_workers")
    log = [
        {key: line[key] for key in line if not key.endswith(timed)}
        for line in run.log.records()
        if line["kind"] != "step_end"
    ]
    result = {key: value for key, value in (run.result or {}).items() if not key.endswith(timed)}
    header = {key: value for key, value in read_header(run.weights_path).items() if key != "metrics"}
    snapshots = {step: path.read_bytes() for step, path in run.snapshots()}
    return {"log": log, "result": result, "header": header, "snapshots": snapshots}


def assert_equal_runs(result: Run, whole: Run) -> None:
    """Compare every tensor, the log and the result; nothing else may be left in the folder."""
    left, right = read_tensors(result.weights_path), read_tensors(whole.weights_path)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    left_state, right_state = (load_train_checkpoint(run.path / "checkpoint") for run in (result, whole))
    assert left_state is not None
    assert right_state is not None
    assert all(torch.equal(left_state.model[name], right_state.model[name]) for name in right_state.model)
    assert outcome_of(result) == outcome_of(whole)
    assert sorted(entry.name for entry in result.path.rglob("*")) == sorted(
        entry.name for entry in whole.path.rglob("*")
    )


@pytest.mark.soak
def test_a_run_killed_at_every_stage_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(output=tmp_path / "whole", **OPTIONS)
    kills, end, start_time, rounds = Counter[str](), time.monotonic() + SECONDS, time.monotonic(), 0
    while rounds < KILLS and time.monotonic() < end:
        output = tmp_path / f"killed{rounds}"
        for number, stage in enumerate(STAGES):
            code = start_part(output, stage, seed=1_000_000 * SEED + 1000 * rounds + number)
            assert code in (0, -signal.SIGKILL), f"round {rounds}, {stage}: exit code {code}"
            kills[stage] += code == -signal.SIGKILL
            if code == 0:
                break
        assert start_part(output, "", seed=0) == 0, f"round {rounds}: not finished after {dict(kills)}"
        assert_equal_runs(Run(output), whole)
        shutil.rmtree(output)
        rounds += 1
    print(
        f"\nkills: {kills.total()} ({', '.join(f'{stage} {kills[stage]}' for stage in STAGES)}), {rounds} runs, "
        f"all equal, {time.monotonic() - start_time:.0f} s"
    )
    assert all(kills[stage] for stage in STAGES)


def deep_equal(left: Any, right: Any) -> bool:
    """Compare nested values with tensors."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict) and left.keys() == right.keys() and all(deep_equal(left[k], right[k]) for k in left)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(deep_equal, left, right))
    return bool(left == right) and type(left) is type(right)


def read_weights_file(path: Path) -> Any:
    return {**read_tensors(path), "header": read_header(path)}


def read_checkpoint_file(path: Path) -> Any:
    checkpoint = load_train_checkpoint(path.parent)
    assert checkpoint is not None
    return vars(checkpoint)


READERS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": read_weights_file,
    "snapshots/step-00000015.safetensors": read_weights_file,
    "run.json": lambda path: Run(path.parent).metadata,
    "log.jsonl": lambda path: Run(path.parent).log.records(),
    "checkpoint/checkpoint.pt": read_checkpoint_file,
    "predictions.npz": load_correctness,
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(output=tmp_path_factory.mktemp("runs") / "whole", **OPTIONS)


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_a_flipped_byte_is_never_used_silently(name: str, whole_run: Run) -> None:
    path, read, draw = whole_run.path / name, READERS[name], random.Random(f"{name} {SEED}")
    content, expected = path.read_bytes(), read(path)
    outcomes, silent, end = Counter[str](), [], time.monotonic() + SECONDS
    for _ in range(FLIPS):
        index, bits = draw.randrange(len(content)), draw.randint(1, 255)
        path.write_bytes(content[:index] + bytes([content[index] ^ bits]) + content[index + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = read(path)
            except ValueError as error:
                outcomes["clear error" if path.name in str(error) else "error that does not name the file"] += 1
                continue
        if deep_equal(result, expected):
            outcomes["right"] += 1
        elif result == ():  # comparisons do without the file
            outcomes["not used"] += 1
        elif any(warning.category is DamagedLogWarning for warning in caught):
            outcomes["clear warning"] += 1
        else:
            silent.append((index, bits))
        if time.monotonic() > end:
            break
    path.write_bytes(content)
    print(f"\nflips in {name}: {outcomes.total() + len(silent)}: {dict(outcomes)}, silent {len(silent)} {silent[:5]}")
    assert not silent
    assert not outcomes["error that does not name the file"]
