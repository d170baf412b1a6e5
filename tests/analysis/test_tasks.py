"""Analyses of networks for other tasks than classification: the loss, the error, the blocks, and what is refused."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, jaccard_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.landscape import LandscapeOptions, analyze_landscape
from reslab.analysis.landscape_evaluator import random_direction
from reslab.analysis.layers import find_blocks, layer_outputs, pool_features
from reslab.analysis.lesion import LesionOptions, analyze_lesion
from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.probes import LinearProbeOptions, analyze_probes
from reslab.analysis.registry import ANALYSES, run_analysis, run_each
from reslab.analysis.shapes import CostOptions, analyze_cost
from reslab.analysis.target import AnalysisTarget, EvalBatches, score_model
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.report.analyses import render_analysis
from reslab.spec.config import to_dict
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.tasks.regression import Regression

sys.path.append(str(Path(__file__).parents[1] / "deploy"))
from detectors import build_detector
from task_networks import save_task_networks

DETECTORS = {"boxes": "retinanet_resnet18_fpn_320", "regions": "fasterrcnn_resnet18_c4_320"}
QUICK: Mapping[str, Mapping[str, Any]] = {
    "landscape": {"points_per_axis": 2, "curvature_points": 0, "num_eigenvalues": 0, "dimensions": 1},
    "lesion": {"draws": 1, "path_draws": 0},
    "nearest": {"num_neighbors": 2, "num_queries": 1},
    "attribution": {"num_images": 1, "num_steps": 2},
}
DEPENDS_ON_TASK = ("lesion", "landscape", "attribution", "nearest", "probes", "compare")
"""The analyses whose page is another for each task."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    paths = save_task_networks(folder)
    for name, model in DETECTORS.items():
        paths[name] = folder / f"{name}.safetensors"
        save_weights(paths[name], build_detector(model))
    return paths


@pytest.fixture(scope="module")
def targets(files: dict[str, Path]) -> dict[str, AnalysisTarget]:
    return {name: open_targets([str(path)], data="random", num_images=4, seed=2)[0] for name, path in files.items()}


@pytest.mark.parametrize("task", ["labels", "values", "masks", "boxes", "regions"])
def test_each_analysis_runs_and_is_shown_or_names_those_that_do(task: str, targets: dict[str, AnalysisTarget]) -> None:
    target, name = targets[task], targets[task].task.spec.name
    for analysis in ANALYSES.values():
        pair = [target, target] if analysis.name == "compare" else [target]
        if (analysis.name, task) == ("landscape", "regions"):
            with pytest.raises(ValueError, match=r"a detector of one stage.*; `reslab analyze gradients`"):
                run_analysis(analysis.name, pair)
        elif target.task.spec.target in analysis.targets:
            results = run_analysis(analysis.name, pair, QUICK.get(analysis.name))
            if analysis.name in DEPENDS_ON_TASK:
                assert render_analysis(analysis.name, [to_dict(result) for result in results]).tables
        else:
            with pytest.raises(ValueError, match=rf"{name}; analyses for {name}: shapes, cost, gradients"):
                run_analysis(analysis.name, pair)


def test_which_analyses_do_not_apply_to_which_task() -> None:
    everywhere = {name for name, analysis in ANALYSES.items() if not analysis.needs}
    assert set(ANALYSES) - everywhere == {"probes"}
    assert ANALYSES["probes"].tasks == ["classification", "multi-label", "regression"]


def test_networks_for_several_tasks_are_not_compared(targets: dict[str, AnalysisTarget]) -> None:
    with pytest.raises(ValueError, match="networks for one task; got: multi-label, segmentation"):
        run_each("lesion", [targets["labels"], targets["masks"]])


def _first_input(model: nn.Module) -> list[torch.Tensor]:
    inputs: list[torch.Tensor] = []
    find_blocks(model)[0][1].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    return inputs


@pytest.mark.parametrize("task", ["labels", "values", "masks"])
def test_gradients_are_those_of_the_loss_of_the_task(task: str, targets: dict[str, AnalysisTarget]) -> None:
    target = targets[task]
    result = analyze_gradients(target, GradientOptions(statistics="running"))
    inputs = _first_input(target.model)
    outputs = target.model(target.images.clone().requires_grad_())
    if task == "labels":
        loss = functional.binary_cross_entropy_with_logits(outputs, target.labels)
    elif task == "values":
        task_type = target.task
        assert isinstance(task_type, Regression)
        standardized = (target.labels - torch.tensor(task_type.mean)) / torch.tensor(task_type.std)
        loss = functional.mse_loss(outputs, standardized)
    else:
        loss = functional.cross_entropy(outputs, target.labels)
    (gradient,) = torch.autograd.grad(loss, inputs[0])
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.blocks[0].input_norm == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_gradients_of_a_detector_are_those_of_the_sum_of_its_losses(targets: dict[str, AnalysisTarget]) -> None:
    target = targets["boxes"]
    result = analyze_gradients(target, GradientOptions(statistics="running"))
    network = build_detector(DETECTORS["boxes"])
    inputs = _first_input(network)
    network.training = True  # RetinaNet itself; its norms keep their statistics
    losses = network(list(target.images.clone().requires_grad_()), [dict(label) for label in target.labels])
    loss = torch.stack(list(losses.values())).sum()
    (gradient,) = torch.autograd.grad(loss, inputs[0])
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.blocks[0].input_norm == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert not target.model.training


def test_the_landscape_of_a_detector_is_that_of_its_training_loss(
    targets: dict[str, AnalysisTarget], tmp_path: Path
) -> None:
    target, file = targets["boxes"], str(tmp_path / "points.jsonl")
    options = LandscapeOptions(
        dimensions=1, points_per_axis=3, radius=0.3, curvature_points=1, num_eigenvalues=1, cache_file=file
    )
    result = analyze_landscape(target, options)
    direction = random_direction(dict(target.model.named_parameters()), torch.Generator().manual_seed(0))

    def loss_at(alpha: float) -> torch.Tensor:
        network = build_detector(DETECTORS["boxes"])
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter += alpha * direction[name]
        network.requires_grad_().training = True  # RetinaNet itself; its norms keep their statistics
        losses = network(list(target.images), [dict(label) for label in target.labels])
        return torch.stack(list(losses.values())).sum().detach()

    assert result.alphas == (-0.3, 0.0, 0.3)
    assert result.losses[0] == pytest.approx([float(loss_at(alpha)) for alpha in result.alphas], rel=1e-5)
    assert result.loss == result.losses[0][1]
    assert result.error == score_model(target.model, EvalBatches(target)).error
    [curvature] = result.curvature
    assert curvature.smallest is not None
    assert curvature.largest is not None
    assert curvature.smallest < curvature.largest
    assert analyze_landscape(target, options) == result, "read from the file"


def test_two_calls_of_a_sampling_detector_give_the_same_loss(targets: dict[str, AnalysisTarget]) -> None:
    target, options = targets["regions"], GradientOptions(statistics="running")
    assert analyze_gradients(target, options) == analyze_gradients(target, options)


def test_the_error_of_a_segmentation_is_1_minus_the_mean_iou(targets: dict[str, AnalysisTarget]) -> None:
    target = targets["masks"]
    result = analyze_lesion(target, LesionOptions(draws=0, path_draws=0))
    predicted = target.model(target.images).argmax(1).flatten()
    iou = jaccard_score(target.labels.flatten(), predicted, average="macro")
    assert result.error == pytest.approx(1 - iou)
    assert (result.measure.title, result.measure.is_fraction) == ("1 - mIoU", True)
    assert result.chance_error is None
    assert [deletion.block for deletion in result.deletions] == [f"backbone.layer{stage}.0" for stage in range(1, 5)]


def test_the_error_of_a_regression_is_its_mean_absolute_error(targets: dict[str, AnalysisTarget]) -> None:
    target = targets["values"]
    score = score_model(target.model, EvalBatches(target))
    predicted = target.task.decode(target.model(target.images))
    assert score.error == pytest.approx(float((predicted - target.labels).abs().mean()))
    assert analyze_lesion(target, LesionOptions(draws=0, path_draws=0)).measure.title == "MAE"


def test_a_deleted_block_of_a_backbone_changes_the_network_and_is_restored(targets: dict[str, AnalysisTarget]) -> None:
    target = targets["masks"]
    before = target.model(target.images)
    result = analyze_lesion(target, LesionOptions(draws=1, path_draws=0))
    assert any(deletion.loss != result.loss for deletion in result.deletions)
    assert target.model(target.images).equal(before)


def test_probes_of_values_are_ridge_regressions(targets: dict[str, AnalysisTarget]) -> None:
    torch.manual_seed(0)
    model, images = targets["values"].model, torch.randn(40, 3, 32, 32)
    labels = torch.stack((images.mean((1, 2, 3)) * 50, images[:, 0].std((1, 2)) * 9, images[:, 1, 0, 0]), 1)
    target = target_from_module(model, images, labels, task=Regression(("a", "b", "c"), (0.0,) * 3, (1.0,) * 3))
    result = analyze_probes(target, LinearProbeOptions(layers=("layer1.0",)))
    features = pool_features(layer_outputs(model, ["layer1.0"], images)["layer1.0"]).double().numpy()
    fitted = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(features[:20], labels[:20])
    assert result.probes[0].score == pytest.approx(r2_score(labels[20:], fitted.predict(features[20:])))
    assert (result.metric, result.baseline_score, result.is_fraction) == ("R²", 0.0, False)


def test_probes_of_labels_have_mean_average_precision(targets: dict[str, AnalysisTarget]) -> None:
    [target] = open_targets([targets["labels"].name], data="random", num_images=30)
    result = analyze_probes(target, LinearProbeOptions(layers=("layer1.0",)))
    outputs = target.model(target.images[15:]).detach()
    assert result.model_score == pytest.approx(average_precision_score(target.labels[15:], outputs, average="macro"))
    assert result.baseline_score == pytest.approx(float(target.labels[15:].mean(0).mean()))


@pytest.mark.parametrize("name", DETECTORS)
def test_the_layers_of_a_detector_have_all_its_parameters(name: str, targets: dict[str, AnalysisTarget]) -> None:
    target = targets[name]
    result = analyze_cost(target, CostOptions(runs=1))
    assert result.total.params == sum(parameter.numel() for parameter in target.model.parameters())
    assert target.model(list(target.images))  # anchors and weights are still on the processor


def test_images_of_several_sizes_get_one_with_their_masks(tmp_path: Path) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "training"))
    from segmentation_runs import cells_run, write_cells

    run = cells_run(write_cells(tmp_path / "cells"), tmp_path / "run", epochs=1)
    assert isinstance(run, Run)
    [target] = open_targets([str(run.path)])
    assert target.images.shape[-2:] == target.labels.shape[-2:]
    assert target.classes == ("ground", "cell", "rim")
    whole = score_model(target.model, EvalBatches(target, "val"))
    assert 1 - whole.error == pytest.approx(evaluate(run, split="val", device="cpu", workers=0).miou)
    [start], [drawn] = open_targets([f"{run.path}@0"]), open_targets([str(run.path)], weights="init")
    assert all(a.equal(b) for a, b in zip(start.model.parameters(), drawn.model.parameters(), strict=True))
