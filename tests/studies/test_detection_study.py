"""A study of detectors: planned, priced, trained and reported on images with boxes."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reslab.nn.factory import create_model
from reslab.spec.dense import DenseArch
from reslab.spec.papers import get_study
from reslab.spec.recipes import RECIPES
from reslab.spec.study import Claim, RowSpec, ScalePreset, ScalePresets, Study
from reslab.studies.plan import EntryStatus, make_study_plan, training_identity
from reslab.studies.resolve import model_cost, random_step_loss, resolve_row, row_overrides
from reslab.studies.run_metrics import entry_metrics, evaluation_metrics
from reslab.studies.run_study import run_study

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from box_files import write_voc

pytestmark = pytest.mark.real_plots

CPU = torch.device("cpu")
TINY = (
    *("model.depths=1,1,1,1", "model.widths=4,8,8,8", "model.stem=conv3/2(4) norm act", "model.min_size=32"),
    *("model.max_size=32", "model.roi_batch_size=8", "model.proposals=16,8", "model.pyramid_channels=8"),
    *("batch_size=2", "duration=2 steps", "precision=float32"),
)
PRESET = ScalePreset("tiny", TINY, data="bccd")


@pytest.fixture
def study() -> Study:
    """Two steps of a small detector on a residual backbone and on its plain twin."""
    row = RowSpec("residual", "fasterrcnn_resnet18_fpn_320", "voc07+12", "detection-small", metric="test_voc_map")
    return Study(
        name="test/detection",
        title="Two tiny detectors",
        reference="a test",
        rows=(replace(row, name="plain", arch_overrides=("backbone=plain18",)), row),
        presets=ScalePresets(PRESET, PRESET),
        claims=(Claim("residual detects better than plain", "residual", ">", "plain", "test_ap"),),
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a folder of four training and two validation images."""
    root = tmp_path_factory.mktemp("data")
    write_voc(root / "BCCD")
    return root


def test_a_study_is_trained_and_reported(study: Study, data_dir: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    places = {"store": tmp_path / "store", "output": tmp_path / "report", "device": "cpu", "data_dir": data_dir}
    page = run_study(study, "smoke", seeds=1, on_message=messages.append, **places)
    assert page.num_failed == 0, messages
    for row in page.rows:
        (run,) = row.runs
        assert {"test_ap", "test_ap50", "test_voc_map", "train_loss", "params", "macs"} <= set(run.values)
        assert "train_error" not in run.values
        assert run.values["test_voc_map"] == row.values()[0]
    assert "plain18" in page.rows[0].arch_text
    assert "Two tiny detectors" in (tmp_path / "report" / "report.html").read_text()
    again = run_study(study, "smoke", seeds=1, report_only=True, **places)
    assert [row.values() for row in again.rows] == [row.values() for row in page.rows]


@pytest.mark.parametrize("scale", ["smoke", "short"])
def test_the_reduced_rows_of_the_paper_keep_the_rate_of_the_recipe_they_take(scale: str) -> None:
    study = get_study("he2015/detection")
    for row in study.rows:
        preset = study.preset_for(row, scale)
        assert preset.recipe == "detection-small"
        assert float(row_overrides(row, preset)["optimizer.lr"]) == RECIPES[preset.recipe].optimizer.lr


def test_the_rows_are_those_of_the_training(study: Study, data_dir: Path) -> None:
    row = resolve_row(study, study.get_row("plain"), "smoke", data_dir, CPU)
    arch = row.arch
    assert isinstance(arch, DenseArch)
    assert (arch.num_classes, arch.image_size, arch.backbone.merge) == (4, (44, 60), "none")
    residual = resolve_row(study, study.get_row("residual"), "smoke", data_dir, CPU)
    assert training_identity(row, 0) != training_identity(residual, 0)
    assert training_identity(row, 0)["arch"]["backbone"] != training_identity(residual, 0)["arch"]["backbone"]
    cost = model_cost(arch)
    assert cost.macs > 0
    network = create_model(arch)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    loss = random_step_loss(network.train(), arch, 2, CPU)
    loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_the_error_for_missing_data_names_the_required_folder(tmp_path: Path) -> None:
    plan = make_study_plan(get_study("he2015/detection"), "full", data_dir=tmp_path)
    reasons = {row.spec.name: row.unavailable_reason for row in plan.rows}
    assert "required: the folder VOC07+12 in the data directory: PASCAL VOC's layout" in reasons["residual-18"]
    assert "COCO2014" in reasons["residual-101-coco"]
    assert all("--data-dir DIR" in reason for reason in reasons.values())
    arch = plan.rows[0].arch
    assert arch is not None
    assert (arch.num_classes, plan.rows[0].num_train, plan.rows[0].num_steps) == (21, 16_551, 80_000)


def test_a_folder_in_the_data_directory_is_opened(data_dir: Path) -> None:
    study = get_study("he2015/detection")
    row = resolve_row(study, study.get_row("residual-18"), "short", data_dir, CPU)
    assert (row.unavailable_reason, row.data, row.num_train, row.num_eval) == ("", "bccd", 4, 2)


def test_metrics_are_in_percent_and_undefined_ones_are_left_out() -> None:
    result = {"ap": 0.25, "ap50": None, "voc_map": 0.5}
    assert evaluation_metrics("detection", result) == {"test_ap": 25.0, "test_voc_map": 50.0}
    with pytest.raises(ValueError, match="a task of classification, detection in a study; got: segmentation"):
        evaluation_metrics("segmentation", {})


def test_a_training_that_diverged_detects_nothing(study: Study, data_dir: Path) -> None:
    plan = make_study_plan(study, "smoke", seeds=1, data_dir=data_dir)
    metadata = SimpleNamespace(params=1, macs=1, status=EntryStatus.DIVERGED)
    values = entry_metrics(plan.jobs[0], metadata, [])  # type: ignore[arg-type]
    assert (values["test_ap"], values["test_voc_map"]) == (0.0, 0.0)
