"""Plans: rows and seeds, their cost, networks too large for the memory, missing data, the Slurm script."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reslab.analysis.registry import get_analysis, override_options
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.study import SCALES, AnalysisRequest, ScalePresets, Study
from reslab.studies import cost
from reslab.studies import cost as prices
from reslab.studies.cost import (
    available_memory_bytes,
    estimate_memory_bytes,
    find_seconds_per_mac,
    memory_shortage,
    total_macs,
)
from reslab.studies.job import run_job
from reslab.studies.plan import JobContext, StudyStore, make_study_plan
from reslab.studies.resolve import model_cost, resolve_row, row_analyses, source_arch
from reslab.studies.runner import format_ranges, make_slurm_script

from .conftest import StudyFactory

CPU = torch.device("cpu")


def test_the_first_seeds_of_every_row_come_first(study: Study) -> None:
    plan = make_study_plan(study, "smoke")
    assert [job.name for job in plan.jobs] == ["plain, seed 0", "residual, seed 0", "plain, seed 1", "residual, seed 1"]
    assert [job.number for job in plan.jobs] == [0, 1, 2, 3]
    assert [job.name for job in make_study_plan(study, "smoke", rows=["residual"], seeds=1).jobs] == [
        "residual, seed 0"
    ]


def test_a_row_at_a_scale(study: Study) -> None:
    row = make_study_plan(study, "smoke").rows[1]
    assert row.arch is not None
    assert row.recipe is not None
    assert (row.arch.depths, row.arch.in_channels, row.arch.image_size, row.arch.merge) == ((1, 1, 1), 1, (8, 8), "add")
    assert (row.num_train, row.num_eval, row.steps_per_epoch, row.num_steps) == (40, 359, 2, 4)
    # The learning rate scales with the global batch: 0.1 for 128.
    assert row.recipe.optimizer.lr == pytest.approx(0.1 * 16 / 128)


def test_errors_name_the_nearest(study: Study) -> None:
    with pytest.raises(ValueError, match="unknown row of test/tiny 'residul'; nearest: 'residual'"):
        make_study_plan(study, "smoke", rows=["residul"])
    with pytest.raises(ValueError, match="unknown scale 'shrt'; nearest: 'short'"):
        make_study_plan(study, "shrt")
    with pytest.raises(ValueError, match="at least 1 seed"):
        make_study_plan(study, "smoke", seeds=0)
    with pytest.raises(ValueError, match="nearest: 'he2015/degradation'"):
        get_study("he2015/degredation")


def test_total_macs_by_hand(study: Study) -> None:
    row = make_study_plan(study, "smoke").rows[0]
    assert row.arch is not None
    macs = sum(layer.macs for layer in layer_table(create_model(row.arch), (1, 8, 8)))
    assert model_cost(row.arch).macs == macs
    # 4 steps of 16 images, forward and twice as much backward; 359 evaluated after each of 2 epochs and at the end.
    assert total_macs(row) == macs * (3 * 4 * 16 + 3 * 359)


def test_the_rate_comes_from_the_stores_training_of_the_same_network(study: Study, context: JobContext) -> None:
    plan = make_study_plan(study, "smoke", seeds=1)
    rate, source = find_seconds_per_mac(plan.rows, context.store, CPU)
    assert source == "2 rows from a few steps measured now"
    assert rate(plan.rows[0]) > 0
    entry = run_job(plan.jobs[0], context)
    rate, source = find_seconds_per_mac(plan.rows, context.store, CPU)
    assert source == "1 row from earlier trainings, 1 row from a few steps measured now"
    assert entry.metadata is not None
    spent = entry.metadata.processor_seconds
    assert rate(plan.rows[0]) * total_macs(plan.rows[0]) == pytest.approx(spent)


def test_a_network_too_large_for_the_memory_is_not_pending(
    study: Study, context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_study_plan(study, "smoke", seeds=1)
    assert memory_shortage(plan.rows[0], CPU, available_memory_bytes(CPU)) is None
    assert available_memory_bytes(CPU) > estimate_memory_bytes(plan.rows[0])
    monkeypatch.setattr(cost, "available_memory_bytes", lambda device: 2 * estimate_memory_bytes(plan.rows[0]) - 1)
    assert prices.estimate_study_cost(plan, context.store, CPU).pending == ()
    result = prices.estimate_study_cost(plan, context.store, CPU, 2)
    assert [job.number for job, _ in result.too_large] == [0, 1]
    assert "training plain with a batch of 16 needs about 0.5 GB of memory" in result.too_large[0][1]
    assert "GB are available for each of 2 jobs" in result.too_large[0][1]


def test_memory_grows_with_the_batch_and_counts_what_the_backward_pass_reads() -> None:
    study = get_study("he2015/degradation")
    row = resolve_row(study, study.get_row("residual-56"), "full", None, CPU)
    assert row.arch is not None
    # Stem and 54 convolutions, 55 activations, pooling and head; a third of the blocks at each of three sizes.
    sizes = 2 * (19 * 16 * 32**2 + 18 * 32 * 16**2 + 18 * 64 * 8**2)
    assert model_cost(row.arch).num_activations == pytest.approx(sizes, rel=0.2)
    assert estimate_memory_bytes(row) == pytest.approx(4 * 128 * sizes, rel=0.2)


def test_a_row_without_data_has_a_cost_and_is_not_run(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(study.rows[0], model="resnet18", data="imagenet", recipe="he2015-imagenet")
    cuts = ScalePresets(replace(study.presets.smoke, overrides=(), data=""), study.presets.short)
    away = replace(study, rows=(row,), claims=(), presets=cuts)
    monkeypatch.chdir(tmp_path)
    plan = make_study_plan(away, "smoke")
    result = plan.rows[0]
    assert result.unavailable_reason
    assert result.arch is not None
    assert (result.arch.num_classes, result.num_eval) == (1000, 50_000)
    price = prices.estimate_study_cost(plan, StudyStore(tmp_path / "store"), CPU)
    assert price.pending == ()
    assert price.to_dict()["rows"][0]["seconds"] > 0


def test_analyses_of_a_row_at_a_scale(make_study: StudyFactory) -> None:
    requests = (
        AnalysisRequest("lesion", ("repeats=3",)),
        AnalysisRequest("gradients", weights="init", rows=("plain",)),
    )
    study = make_study(
        analyses=requests, analysis_overrides=("lesion.num_images=16", "lesion.delete=2", "gradients.loss=x")
    )
    plan = make_study_plan(study, "smoke", seeds=1)
    plain, residual = plan.jobs
    assert [one.analysis for one in plain.analyses] == ["lesion", "gradients"]
    assert [one.analysis for one in residual.analyses] == ["lesion"]
    assert (plain.analyses[0].num_images, plain.analyses[0].overrides) == (16, ("repeats=3", "delete=2"))
    assert row_analyses(study, study.rows[0], study.presets.smoke) == plain.analyses


@pytest.mark.parametrize(
    ("numbers", "expected"), [([0], "0"), ([0, 1, 2], "0-2"), ([5, 0, 1, 9, 10], "0-1,5,9-10"), ([3, 7], "3,7")]
)
def test_seed_numbers_are_written_as_ranges(numbers: list[int], expected: str) -> None:
    assert format_ranges(numbers) == expected


def test_the_slurm_script_runs_the_task_of_its_index(study: Study, tmp_path: Path) -> None:
    jobs = make_study_plan(study, "smoke").jobs
    command = ["echo", "a b", "it's"]
    folder = tmp_path / "a folder"
    folder.mkdir()
    script = tmp_path / "array.sh"
    script.write_text(
        make_slurm_script("test/tiny", jobs[1:], command, log_dir=tmp_path / "logs", work_dir=folder, max_seconds=7200)
    )
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", str(script)], check=True)
    text = script.read_text()
    assert "#SBATCH --array=1-3\n" in text
    assert "#SBATCH --time=4:10:00\n" in text
    assert "#SBATCH --mem=1001M\n" in text
    assert "# 3 trainings of test/tiny, smoke scale.\n" in text
    run = subprocess.run([bash, str(script)], env={"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, text=True)
    assert run.stdout == "a b it's --task 2\n"
    unset = subprocess.run([bash, str(script)], env={}, capture_output=True, text=True)
    assert unset.returncode != 0
    assert "set by sbatch" in unset.stderr


def test_every_analysis_of_every_study_exists_and_has_its_options() -> None:
    for study in STUDIES.values():
        for row in study.rows:
            for scale in SCALES:
                for request in row_analyses(study, row, study.preset_for(row, scale)):
                    settings = dict(setting.split("=", 1) for setting in request.overrides)
                    options = override_options(get_analysis(request.analysis), settings)
                    assert settings.keys() <= vars(options).keys()


def test_every_study_expands_at_every_scale_where_the_data_are_bundled() -> None:
    for name, study in STUDIES.items():
        plan = make_study_plan(study, "smoke", seeds=1)
        absent = [row.spec.name for row in plan.rows if row.unavailable_reason]
        assert not absent, (name, absent)


@pytest.mark.parametrize(
    ("name", "short_depth", "source_depth"), [("original-110", 38, 110), ("original-164", 29, 164)]
)
def test_the_depth_of_a_scale_is_reported_from_that_of_the_source(
    name: str, short_depth: int, source_depth: int
) -> None:
    study = get_study("he2016/table2")
    row = resolve_row(study, study.get_row(name), "short", None, CPU)
    assert row.arch is not None
    assert (row.arch.depth, source_arch(row.spec).depth) == (short_depth, source_depth)
