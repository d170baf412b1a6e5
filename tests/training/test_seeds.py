"""Several seeds of one training: one folder each, restartable, with mean and standard deviation."""

import shutil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from reslab.nn.factory import create_model
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.training.run import Run, list_runs
from reslab.training.seeds import SeedGroup, group_runs, summarize, train_seeds
from reslab.training.train import train


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> list[Run]:
    return train_seeds(seeds=2, output=tmp_path_factory.mktemp("seeds") / "digits", **tiny)


def test_each_seed_is_the_run_that_train_makes(two_seeds: list[Run], tmp_path: Path, tiny: dict[str, Any]) -> None:
    assert [run.path.name for run in two_seeds] == ["seed0", "seed1"]
    assert [run.metadata["seed"] for run in two_seeds] == [0, 1]
    single = train(output=tmp_path / "single", seed=1, **tiny)
    assert single.weights_path.read_bytes()[-1000:] == two_seeds[1].weights_path.read_bytes()[-1000:]
    assert single.main_metric == two_seeds[1].main_metric


def test_finished_seeds_are_kept_and_the_missing_one_is_trained(
    two_seeds: list[Run], tmp_path: Path, tiny: dict[str, Any]
) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(two_seeds[0].path, folder / "seed0")
    before = (folder / "seed0" / "model.safetensors").stat().st_mtime_ns
    runs = train_seeds(seeds=2, output=folder, **tiny)
    assert (folder / "seed0" / "model.safetensors").stat().st_mtime_ns == before
    assert [run.main_metric for run in runs] == [run.main_metric for run in two_seeds]
    with pytest.raises(ValueError, match="val_fraction"):
        train_seeds(seeds=2, output=folder, val_fraction=0.5, **tiny)


def test_an_interrupted_seed_is_resumed_by_the_same_call(
    two_seeds: list[Run], tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: int, model: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_seeds(seeds=[1], output=tmp_path, on_step_end=interrupt, hook_every_steps=20, **tiny)
    assert Run(tmp_path / "seed1").result is None
    [run] = train_seeds(seeds=[1], output=tmp_path, **tiny)
    assert run.main_metric == two_seeds[1].main_metric
    monkeypatch.setattr("reslab.training.seeds.train", _stop)
    with pytest.raises(TrainingInterrupted, match=r"stopped; or run the same command again: it continues seed 3"):
        train_seeds(seeds=[3], output=tmp_path)


def _stop(*_: Any, **__: Any) -> Run:
    raise TrainingInterrupted("stopped")


def test_the_default_folder_depends_on_the_options_alone(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths: list[Path] = []
    monkeypatch.setattr("reslab.training.seeds.train", lambda *_, output, **__: paths.append(output))
    train_seeds("resnet20_cifar", "digits", seeds=[4], epochs=1)
    train_seeds("resnet20_cifar", "digits", seeds=1, epochs=1, device="cpu")
    train_seeds("resnet20_cifar", "digits", seeds=1, epochs=2)
    assert paths[0].parent == paths[1].parent != paths[2].parent
    assert paths[0].parent.name.startswith("resnet20_cifar-digits-")


def test_objects_and_no_seed_are_errors(tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        train_seeds(seeds=0)
    with pytest.raises(ValueError, match="a new module for each seed"):
        train_seeds(create_model("book_net"), seeds=2)
    with pytest.raises(ValueError, match="output, the folder of the runs"):
        train_seeds(data=(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2), seeds=2)


def test_runs_that_differ_in_their_seed_are_a_group(two_seeds: list[Run], digits_run: Run) -> None:
    groups = group_runs([two_seeds[0], digits_run, two_seeds[1]])
    assert groups == [SeedGroup((two_seeds[0], two_seeds[1])), SeedGroup((digits_run,))]
    summary = groups[0].summarize("top1")
    values = [run.main_metric or 0.0 for run in two_seeds]
    assert summary is not None
    assert (summary.mean, summary.std, summary.n) == (fmean(values), stdev(values), 2)
    assert SeedGroup((two_seeds[0], two_seeds[0])).summarize("top1") == summarize([values[0]])
    assert groups[0].summarize("no such metric") is None


def test_runs_in_the_folders_of_seeds_are_listed_in_order(two_seeds: list[Run], tmp_path: Path) -> None:
    for name in ("seed10", "seed2"):
        shutil.copytree(two_seeds[0].path, tmp_path / "group" / name)
    shutil.copytree(two_seeds[0].path, tmp_path / "single")
    assert [run.name for run in list_runs(tmp_path)] == ["seed2", "seed10", "single"]


def test_several_ranks_are_refused_with_the_way_to_train_seeds_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"got: 2 ranks of torchrun; start torchrun once a seed: --seed 0 --output"):
        train_seeds(seeds=2, output=tmp_path / "seeds")
    assert not (tmp_path / "seeds").exists()
