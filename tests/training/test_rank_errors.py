"""An error on one of two ranks: both end with it, and the run resumes from the last whole step."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launch import ended, on_ranks, torchrun

from reslab.training.run import Run

# From the error to the end of torchrun: saving, the ends of two interpreters, and torchrun's.
MAX_END_SECONDS = 30
RUNS = str(Path(__file__).parent / "distributed_runs.py")
# Every case fails on one rank alone; after the last one, within the backward pass, the ranks can communicate no more.
SCRIPT = """
import time
from pathlib import Path
from unittest.mock import patch
from distributed_runs import Deadly, Double, digits_run, float64_data, silent
from reslab.training import trainer
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.train import train

folder, rank = Path({folder!r}), process_group.rank

class FailingLoss(Deadly):
    fails = True
    def __call__(self, outputs, targets):
        if self.fails and rank == 1 and torch.is_grad_enabled() and self.calls == 2 * 10:
            raise OSError("no loss")
        return super().__call__(outputs, targets)

class FailingNetwork(Double):
    num_calls, fails_in_backward = 0, False
    def forward(self, x):
        outputs = super().forward(x)
        self.num_calls += self.training
        if rank == 1 and self.training and self.num_calls == 8:
            if not self.fails_in_backward:
                raise torch.OutOfMemoryError("no network")
            outputs.register_hook(self.fail)
        return outputs
    def fail(self, gradient):
        answer["seconds"] = time.time()
        raise OSError("no gradient")

def network_run(name, **options):
    options = {{"batch_size": 48, "epochs": 10, "val_fraction": 0.25, "on_log": silent, **options}}
    model, data = options.pop("model", None) or Double(True), options.pop("data", None) or float64_data()
    train(model, data, "digits", output=folder / name, **options)

class Images:
    is_readable = True
    def __len__(self):
        return 96
    def __getitem__(self, i):
        if rank == 1 and not self.is_readable:
            raise OSError("no image")
        return float64_data()[0][i].float() / 255, i % 3

def lose_images(step, model):
    Images.is_readable = False
    return {{}}

def fail_hook(step, model):
    if rank == 1:
        raise OSError("no hook")
    return {{}}

def fail_save(path, checkpoint):
    if checkpoint.step:
        raise OSError("no save")
    saves(path, checkpoint)

saves = trainer.save_train_checkpoint
failing_save = patch.object(trainer, "save_train_checkpoint", fail_save if rank == 0 else saves)
last = FailingNetwork(True)
last.fails_in_backward = True
cases = {{
    "loss": lambda: digits_run(folder / "loss", FailingLoss()),
    "network": lambda: network_run("network", model=FailingNetwork(True)),
    "image": lambda: network_run("image", data=Images(), on_step_end=lose_images, hook_every_steps=3, workers=0),
    "hook": lambda: network_run("hook", on_step_end=fail_hook, hook_every_steps=5),
    "save": lambda: failing_save(network_run)("save"),
    "gradient": lambda: network_run("gradient", model=last),
}}
answer = {{}}
for name, case in cases.items():
    if name == "gradient":
        FailingLoss.fails = False
        digits_run(folder / "whole", FailingLoss())
        digits_run(folder / "loss", FailingLoss(), resume=True)
    try:
        case()
    except Exception as error:
        saved = load_train_checkpoint(folder / name / "checkpoint").step
        answer[name] = (type(error).__name__, str(error), error.__notes__, saved)
answer.setdefault("seconds", time.time())
ended = folder / f"{{rank}} ended"
ended.touch()
while not (folder / f"{{1 - rank}} ended").exists():  # neither rank needs the end of the other's process
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("failed")
    return folder, on_ranks(SCRIPT.format(folder=str(folder)), folder, own_processes=True)


@pytest.mark.parametrize(
    ("name", "rank", "error", "step", "total"),
    [
        ("loss", 1, "OSError", 10, 34),
        ("network", 1, "OutOfMemoryError", 7, 10),
        ("image", 1, "OSError", 3, 10),
        ("hook", 1, "OSError", 5, 10),
        ("save", 0, "OSError", 0, 10),
        ("gradient", 1, "OSError", 7, 10),
    ],
)
def test_an_error_on_one_rank_is_raised_on_both_and_names_the_checkpoint(
    name: str, rank: int, error: str, step: int, total: int, failed: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, answers = failed
    notes = [f"the run is saved after step {step} of {total}; resume with --output {folder / name} --resume"]
    assert answers[rank][name] == (error, f"no {name}", notes, step)
    assert answers[1 - rank][name] == ("RankError", f"rank {rank} stopped: {error}: no {name}", notes, step)


def test_an_error_in_the_backward_pass_of_one_rank_reaches_the_other_in_seconds(
    failed: tuple[Path, list[dict[str, Any]]],
) -> None:
    first, second = failed[1]
    assert 0 < first["seconds"] - second["seconds"] < 10


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_a_job_whose_backward_pass_failed_on_one_rank_is_restarted_from_the_last_whole_step(
    rank: int,
    failed: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    weights_hash: Callable[[Run], str],
    timeless: Callable[[Run], list[dict[str, Any]]],
) -> None:
    output = tmp_path / "run"
    code, _, errors = ended(torchrun(RUNS, str(output), "12", "0", str(rank), restarts=1))
    assert code == 0, errors
    # Of the two tracebacks torchrun lets one or both be printed; it writes the rank before each line.
    note = rf"OSError: no gradient\n(\[rank\d\]: )?the run is saved after step 11 of 34; resume with --output {output}"
    assert re.search(note, errors), errors
    whole, resumed = Run(failed[0] / "whole"), Run(output)
    assert weights_hash(whole) == weights_hash(resumed)
    assert timeless(whole) == timeless(resumed)


def test_a_run_that_failed_on_one_rank_resumes_to_the_same_weights(
    failed: tuple[Path, list[dict[str, Any]]],
    weights_hash: Callable[[Run], str],
    timeless: Callable[[Run], list[dict[str, Any]]],
) -> None:
    whole, resumed = Run(failed[0] / "whole"), Run(failed[0] / "loss")
    assert weights_hash(whole) == weights_hash(resumed)
    assert timeless(whole) == timeless(resumed)


PLUGIN = """
import os, time
from pathlib import Path
import reslab
from torch import nn

class FailsOnOne(nn.Module):
    num_calls = 0
    def forward(self, x):
        FailsOnOne.num_calls += self.training
        if os.environ["RANK"] == "1" and FailsOnOne.num_calls == 30:
            if "{phase}" == "backward":
                x.register_hook(self.fail)
            else:
                self.fail(x)
        return x.relu()

    def fail(self, x):
        Path("time").write_text(str(time.time()))
        raise ValueError("no activation")

@reslab.register_operation("fails-on-one")
def fails_on_one(site: reslab.Site) -> nn.Module:
    return FailsOnOne()
"""


@pytest.mark.soak
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_the_command_line_prints_the_error_of_one_rank_and_ends_in_seconds(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_plugin.py").write_text(PLUGIN.format(phase=phase))
    monkeypatch.chdir(tmp_path)
    order = "model.order=conv norm fails-on-one | conv norm + act"
    options = ["--epochs", "1", "--set", "model.depths=1,1,1", "--set", order, "--plugin", "failing_plugin"]
    code, _, errors = ended(torchrun("-m", "reslab", "train", *options, "--output", "run"))
    assert code == 1
    assert time.time() - float(Path("time").read_text()) < MAX_END_SECONDS
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert {line.removeprefix("error: rank 1 stopped: ValueError: ").removeprefix("error: ") for line in lines} == {
        "no activation; the run is saved after step 9 of 22; resume with --output run --resume"
    }, errors
    assert sum("rank 1 stopped" in line for line in lines) == 1
