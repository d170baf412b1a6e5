"""Two ranks against one: losses, evaluation, who writes; killed, restarted, stopped."""

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_runs import NUM_STEPS, Double, float64_data, float64_run, unfreezing_run
from launch import PATIENCE_SECONDS, ended, on_ranks, torchrun

from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.runtime.distributed import rank_device
from reslab.runtime.torchrun import DistributedEnv, read_distributed_env
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run

Timeless = Callable[[Run], list[dict[str, Any]]]
RUNS = str(Path(__file__).parent / "distributed_runs.py")
# What a process opens to write, from its first line on.
SHARED = """
written, folder = [], {folder!r}
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(arguments[0])
sys.addaudithook(watch)
from pathlib import Path
from distributed_runs import WrongOnOne, digits_run, float64_run
from reslab.training.evaluation.evaluate import evaluate
run = digits_run(Path(folder) / "run")
for norms in (True, False):
    float64_run(Path(folder) / f"norms {{norms}}", norms)
answer = {{"top1": run.main_metric}}
answer["evaluation"] = evaluate(run, split="train", batch_size=64, distributed=True, keep_predictions=True)
try:
    digits_run(Path(folder) / "diverged", WrongOnOne())
except ValueError as error:
    answer["error"] = str(error)
answer["written"] = [name for name in written if name.startswith(folder)]
"""


@dataclass(frozen=True)
class RankRuns:
    """The runs of two ranks in `folder`, undisturbed, and the result of each."""

    folder: Path
    answers: list[Any]

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RankRuns:
    folder = tmp_path_factory.mktemp("ranks")
    return RankRuns(folder, on_ranks(SHARED.format(folder=str(folder)), folder))


def of_training(run: Run, key: str) -> list[float]:
    return [line[key] for line in run.log.records() if line["kind"] == "train"]


def test_rank_0_alone_writes(undisturbed: RankRuns) -> None:
    run, (first, second) = undisturbed.run, undisturbed.answers
    assert any("report.html" in name for name in first["written"])
    assert second["written"] == []
    assert first["top1"] == second["top1"] == run.main_metric
    assert run.metadata["world_size"] == 2
    assert of_training(run, "step") == [NUM_STEPS // 2, NUM_STEPS]


@pytest.mark.parametrize("norms", [True, False])
def test_two_ranks_have_the_losses_of_one(norms: bool, undisturbed: RankRuns, tmp_path: Path) -> None:
    one, two = float64_run(tmp_path / "one", norms), Run(undisturbed.folder / f"norms {norms}")
    assert len(set(of_training(one, "loss"))) == 10
    assert of_training(two, "loss") == pytest.approx(of_training(one, "loss"), rel=1e-8, abs=0)
    assert of_training(two, "top1") == of_training(one, "top1")


def test_evaluation_is_that_of_one_rank_to_the_digit(undisturbed: RankRuns) -> None:
    run = undisturbed.run
    alone = evaluate(run, split="train", batch_size=64, keep_predictions=True)
    assert alone.num_samples == 1151  # 18 batches, the last one not full
    for answer in undisturbed.answers:
        result = answer["evaluation"]
        assert (result.to_dict(), result.confusion_matrix, result.names) == (
            alone.to_dict(),
            alone.confusion_matrix,
            alone.names,
        )
        assert torch.equal(result.probabilities, alone.probabilities)
        assert torch.equal(result.labels, alone.labels)
    assert run.result is not None
    assert {**run.result, **evaluate(run, batch_size=25).to_dict()} == run.result


@pytest.mark.soak
def test_a_rank_killed_within_an_epoch_is_restarted_and_the_run_ends_as_if_nothing_had_been(
    undisturbed: RankRuns, tmp_path: Path, timeless: Timeless, weights_hash: Callable[[Run], str]
) -> None:
    output = tmp_path / "run"
    code, _, errors = ended(torchrun(RUNS, str(output), "25", "0", restarts=1))
    assert code == 0, errors
    run = Run(output)
    assert len(run.metadata["resume_commands"]) == 1
    assert weights_hash(run) == weights_hash(undisturbed.run)
    assert timeless(run) == timeless(undisturbed.run)


def steps_saved(output: Path) -> int:
    state = load_train_checkpoint(output / "checkpoint")
    return 0 if state is None else state.step


def test_a_stop_reaches_every_rank_at_the_same_step(tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = torchrun(RUNS, str(output), "0", "0.1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    # The checkpoint of step 0 is older than the handler of signals.
    while not steps_saved(output) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code != 0
    state = load_train_checkpoint(output / "checkpoint")
    assert state is not None
    assert state.step < NUM_STEPS
    stopped = re.findall(r"Interrupted: stopped after step (\d+)", errors)
    assert stopped == [str(state.step)] * 2


@pytest.mark.soak
def test_the_command_line_prints_each_message_once(tmp_path: Path) -> None:
    words = ["--epochs", "1", "--set", "model.depths=1,1,1", "--output", str(tmp_path / "run"), "--json"]
    code, out, errors = ended(torchrun("-m", "reslab", "train", *words))
    assert code == 0, errors
    assert json.loads(out)["run"] == str(tmp_path / "run")
    assert errors.count("batch size 64 = 2 ranks x 32") == 1
    assert "Warning" not in errors


TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_ranks_are_read_from_the_environment() -> None:
    assert read_distributed_env({}) == DistributedEnv()
    restarted = {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "5"}
    assert read_distributed_env(restarted) == DistributedEnv(3, 4, 1, 2, 2, 5)
    assert read_distributed_env({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) == DistributedEnv()
    with pytest.raises(ValueError, match=r"variable RANK; got: nothing.*torchrun --nproc-per-node"):
        read_distributed_env({"WORLD_SIZE": "2"})


def test_a_device_for_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, two = torch.device("cpu"), DistributedEnv(1, 2, 1, 2)
    assert rank_device(cpu, two) == cpu
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 ranks on 1 GPUs.*--nproc-per-node=1"):
        rank_device(torch.device("cuda"), two)
    with pytest.raises(ValueError, match="use --device cuda"):
        rank_device(torch.device("cuda:0"), two)
    with pytest.raises(ValueError, match="use --device cpu"):
        rank_device(torch.device("mps"), two)


def test_what_ranks_cannot_do_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reslab.training.train import train

    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=r"--max-restarts=3.*--output"):
        train()


def test_a_value_that_is_not_finite_on_one_rank_stops_all_and_is_located_there(undisturbed: RankRuns) -> None:
    output = undisturbed.folder / "diverged"
    first, second = (result["error"] for result in undisturbed.answers)
    assert first == second
    match = re.search(r"it began at step (\d+) in the loss", first)
    assert match, first
    state = load_train_checkpoint(output / "checkpoint")
    assert state is not None
    assert state.step == int(match[1])
    errors = json.loads((output / "diverged.json").read_text())
    assert (errors["step"], errors["phase"]) == (state.step, "loss")
    assert len(errors["batch"]) == 32


THAWED = """
from pathlib import Path
from distributed_runs import stopped_at, unfreezing_run
from reslab.runtime.interrupts import TrainingInterrupted
folder = Path({folder!r})
run = unfreezing_run(folder / "run")
try:
    unfreezing_run(folder / "again", **stopped_at(4))
    answer = "not interrupted"
except TrainingInterrupted:
    unfreezing_run(folder / "again", resume=True)
    answer = [(step, path.name) for step, path in run.snapshots()]
"""


def moved(run: Run, first: int, last: int) -> set[str]:
    """The parts whose weights are others after `last` steps than after `first`."""
    files = dict(run.snapshots())
    before, after = read_tensors(files[first]), read_tensors(files[last])
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.soak
def test_parts_that_open_are_shared_from_their_step_on(tmp_path: Path, weights_hash: Callable[[Run], str]) -> None:
    first, second = on_ranks(THAWED.format(folder=str(tmp_path)), tmp_path)
    assert first == second
    assert [step for step, _ in first] == list(range(11))
    two, again, one = Run(tmp_path / "run"), Run(tmp_path / "again"), unfreezing_run(tmp_path / "one")
    for run in (one, two):
        assert moved(run, 0, 3) == {"fc"}
        assert moved(run, 3, 6) == {"fc", "layer3"}
        assert moved(run, 6, 10) == {"conv1", "bn1", "layer1", "layer2", "layer3", "fc"}
    assert weights_hash(two) == weights_hash(again)
    ours, theirs = read_tensors(two.weights_path), read_tensors(one.weights_path)
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4) for name in ours)


THREE = """
from pathlib import Path
from distributed_runs import Double, float64_data, float64_run
from reslab.training.evaluation.evaluate import evaluate
run = float64_run(Path({folder!r}) / "run", norms=True)
answer = evaluate(
    run, float64_data(), split="train", val_fraction=0.25, batch_size=10, distributed=True, module=Double(True)
)
"""


@pytest.mark.soak
def test_three_ranks_have_the_losses_and_the_scores_of_one(tmp_path: Path) -> None:
    result = on_ranks(THREE.format(folder=str(tmp_path)), tmp_path, num=3)
    one, three = float64_run(tmp_path / "one", norms=True), Run(tmp_path / "run")
    assert three.metadata["world_size"] == 3
    assert of_training(three, "loss") == pytest.approx(of_training(one, "loss"), rel=1e-8, abs=0)
    assert of_training(three, "top1") == of_training(one, "top1")
    alone = evaluate(three, float64_data(), split="train", val_fraction=0.25, batch_size=10, module=Double(True))
    assert alone.num_samples == 72  # 8 batches on 3 ranks, the last one not full
    assert [(one.to_dict(), one.confusion_matrix) for one in result] == [(alone.to_dict(), alone.confusion_matrix)] * 3
