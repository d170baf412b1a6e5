"""Segmentation: loss and metrics against references, and runs on folders of images with masks."""

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch import on_ranks
from PIL import Image
from segmentation_runs import CLASSES, TINY, cells_run, disk, pixel_run, write_cells, write_image, write_mask
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import fcn_resnet50

from reslab.data.masks import VOID
from reslab.data.registry import open_dataset
from reslab.metrics.segmentation import segmentation_confusion
from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors
from reslab.nn.factory import create_model
from reslab.nn.segmentation import SegmentationOutput
from reslab.spec.dense import ModelKind, SegmentationArch
from reslab.spec.recipes import RECIPES
from reslab.spec.recipes.dense import SEGMENTATION
from reslab.spec.zoo.dense import dense_arch_for
from reslab.training.checkpoint import InterimWeightsWarning
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.prediction_files import save_predictions
from reslab.training.freezing import Freezing
from reslab.training.loop import TrainStep
from reslab.training.run import Run
from reslab.training.tasks.segmentation import PixelCrossEntropy, Segmentation, SegmentationEvaluation
from reslab.training.train import train

pytestmark = pytest.mark.real_plots

Timeless = Callable[[Run], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return cells_run(cells, tmp_path_factory.mktemp("runs") / "cells")


def test_two_ranks_have_the_losses_and_the_scores_of_one(cells: Path, tmp_path: Path) -> None:
    """In float64, as the sums are in another order; the images have different numbers of void pixels."""
    code = f"""
from pathlib import Path
from segmentation_runs import pixel_run
run = pixel_run(Path({str(cells)!r}), Path({str(tmp_path)!r}) / "two")
answer = run.result
"""
    results = on_ranks(code, tmp_path)
    one, two = pixel_run(cells, tmp_path / "one"), Run(tmp_path / "two")
    for key, tolerance in (("loss", 1e-8), ("pixel_accuracy", 1e-6)):  # which is in float32
        losses = [[line[key] for line in run.log.records() if line["kind"] == "train"] for run in (one, two)]
        assert len(set(losses[0])) == 4
        assert losses[1] == pytest.approx(losses[0], rel=tolerance, abs=0)
    assert one.result is not None
    names = ("miou", "pixel_accuracy", "loss")
    for result in results:
        assert [result[name] for name in names] == pytest.approx([one.result[name] for name in names], rel=1e-8)


def random_batch(num_images: int = 4, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(num_images, num_classes, 6, 5, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, num_classes, (num_images, 6, 5), generator=generator)
    return logits, targets


def with_void(targets: Tensor) -> Tensor:
    """Image i has i void rows; the last image is void throughout."""
    targets = targets.clone()
    for i in range(len(targets)):
        targets[i, :i] = VOID
    targets[-1] = VOID
    return targets


def brute_force_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The definition, pixel by pixel."""
    total = logits.new_zeros(())
    for image, mask in zip(logits, targets, strict=True):
        pixels = [(r, c) for r in range(mask.shape[0]) for c in range(mask.shape[1]) if mask[r, c] != VOID]
        for r, c in pixels:
            log_p = image[:, r, c] - image[:, r, c].exp().sum().log()
            total = total - weights[mask[r, c]] * log_p[mask[r, c]] / len(pixels)
    return total / len(logits)


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_the_loss_and_its_gradient_are_those_of_the_definition(weights: tuple[float, ...] | None) -> None:
    logits, targets = random_batch()
    targets, weight_tensor = with_void(targets), None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected_weights = torch.ones(3, dtype=torch.float64) if weight_tensor is None else weight_tensor
    losses, gradients = [], []
    for loss in (PixelCrossEntropy(weight_tensor), partial(brute_force_loss, weights=expected_weights)):
        z = logits.clone().requires_grad_()
        value = loss(z, targets)
        value.backward()
        losses.append(value.detach())
        assert z.grad is not None
        gradients.append(z.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_without_void_the_loss_is_the_mean_over_pixels_with_half_of_the_auxiliary_one() -> None:
    """The criterion of torchvision's references/segmentation/train.py."""
    logits, targets = random_batch()
    aux = logits.flip(0)
    main_loss, aux_loss = (functional.cross_entropy(z, targets, ignore_index=255) for z in (logits, aux))
    torch.testing.assert_close(PixelCrossEntropy()(logits, targets), main_loss)
    both = PixelCrossEntropy()(SegmentationOutput(logits, aux), targets)
    torch.testing.assert_close(both, main_loss + 0.5 * aux_loss)


def test_a_batch_of_void_has_no_loss_and_no_gradient() -> None:
    logits, targets = random_batch()
    z = logits.requires_grad_()
    loss = PixelCrossEntropy()(z, torch.full_like(targets, VOID))
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_micro_batches_add_up_to_the_batch() -> None:
    model = nn.Conv2d(3, 3, 3, padding=1).double()
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets = with_void(random_batch()[1])
    gradients = []
    for steps in (1, 3):  # of 2, 1 and 1 images
        model.zero_grad()
        TrainStep(grad_accum_steps=steps).backward(model, PixelCrossEntropy(), x, targets)
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_step_is_that_of_the_reference_training_of_torchvision() -> None:
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    ours = create_model("fcn_resnet50", num_classes=3)
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 3, 40, 40, generator=generator), torch.randint(0, 3, (2, 40, 40), generator=generator)
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    optimizers = [torch.optim.SGD(model.train().parameters(), **settings) for model in (theirs, ours)]
    torch.manual_seed(6)  # of the dropout in the heads
    outputs = theirs(x)
    losses = [functional.cross_entropy(outputs[name], y, ignore_index=255) for name in ("out", "aux")]
    (losses[0] + 0.5 * losses[1]).backward()
    optimizers[0].step()
    torch.manual_seed(6)
    task = Segmentation(CLASSES)
    step = TrainStep(batch_metrics=task.batch_metrics, main_output=task.main_output)
    metrics = step.run(ours, task.default_loss(), optimizers[1], x, y)
    torch.testing.assert_close(metrics["loss"], losses[0].detach() + 0.5 * losses[1].detach())
    torch.testing.assert_close(metrics["pixel_accuracy"], (outputs["out"].argmax(1) == y).float().mean())
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=1e-4, atol=1e-6)


def brute_force_iou(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    kept = true != VOID
    intersections = [int(((predicted == k) & (true == k) & kept).sum()) for k in range(3)]
    unions = [int((((predicted == k) | (true == k)) & kept).sum()) for k in range(3)]
    return [a / b for a, b in zip(intersections, unions, strict=True) if b]


def test_an_image_of_void_alone_does_not_lower_the_training_accuracy() -> None:
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 1] = 1
    targets = torch.ones(2, 4, 4, dtype=torch.int64)
    targets[1] = 255
    accuracy = Segmentation(("ground", "cell")).batch_metrics(logits, targets)["pixel_accuracy"]
    assert float(accuracy) == 1.0


def test_the_metrics_are_those_of_all_pixels_whatever_the_batches() -> None:
    logits, targets = random_batch(5)
    targets = with_void(targets)
    task, predicted = Segmentation(CLASSES), logits.argmax(1).numpy()
    evaluations = [
        evaluate_batches(
            nn.Identity(),
            [(logits[part], targets[part], torch.arange(5)[part]) for part in map(slice, starts, (*starts[1:], 5))],
            task,
            keep_predictions=True,
        )
        for starts in ((0,), (0, 2, 3))
    ]
    for result in evaluations:
        assert isinstance(result, SegmentationEvaluation)
        assert result.miou == pytest.approx(np.mean(brute_force_iou(predicted, targets.numpy())))
        kept = targets.numpy() != VOID
        assert result.pixel_accuracy == pytest.approx((predicted == targets.numpy())[kept].mean())
        assert [row["iou"] for row in result.per_class()["classes"]] == pytest.approx(
            brute_force_iou(predicted, targets.numpy())
        )
        images = [brute_force_iou(*pair) for pair in zip(predicted, targets.numpy(), strict=True)]
        assert result.images.miou[:-1].tolist() == pytest.approx([np.mean(iou) for iou in images[:-1]])
        assert result.images.miou[-1].isnan()
        order = result.worst_images(9)
        assert sorted(order, key=lambda i: float(result.images.miou[i])) == order
        assert set(order) == {0, 1, 2, 3}
        for i, masks in enumerate(result.require_masks()):
            np.testing.assert_array_equal(np.stack(masks.decompress()), np.stack((predicted[i], targets[i].numpy())))
    assert evaluations[0].confusion_matrix == evaluations[1].confusion_matrix
    assert evaluations[0].loss == pytest.approx(evaluations[1].loss)


def test_large_masks_are_kept_reduced() -> None:
    batches = [(torch.zeros(1, 3, 20, 900), torch.zeros(1, 20, 900, dtype=torch.int64), torch.zeros(1))]
    (masks,) = evaluate_batches(nn.Identity(), batches, Segmentation(CLASSES), keep_predictions=True).require_masks()
    assert masks.shape == (20, 900)
    assert [mask.shape for mask in masks.shown()] == [(7, 300)] * 2
    assert not evaluate_batches(nn.Identity(), batches, Segmentation(CLASSES)).has_predictions


@pytest.mark.parametrize("file", ["scores.csv", "scores.npz"])
def test_predicted_masks_are_written_with_the_scores(run: Run, tmp_path: Path, file: str) -> None:
    evaluation = evaluate(run, keep_predictions=True)
    assert isinstance(evaluation, SegmentationEvaluation)
    save_predictions(tmp_path / file, evaluation)
    if file.endswith(".csv"):
        with (tmp_path / file).open(newline="") as opened:
            rows = [(row["name"], row["mask"]) for row in csv.DictReader(opened)]
    else:
        arrays = np.load(tmp_path / file)
        rows = list(zip(arrays["names"].tolist(), arrays["mask"].tolist(), strict=True))
    assert [name for name, _ in rows] == list(evaluation.names)
    dataset = open_dataset(run.metadata["data"]["requested"], split_record=run.metadata["data"]["split_record"])
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    for i, (name, mask_path) in enumerate(rows):
        assert mask_path == f"scores-masks/{Path(name).stem}.png"
        with Image.open(tmp_path / mask_path) as image:
            assert image.mode == "P"
            assert image.getpalette()[3:6] == [128, 0, 0]
            mask = torch.from_numpy(np.array(image))
        confusion += segmentation_confusion(mask, dataset.split("val")[i][1], 3)
    assert tuple(map(tuple, confusion.tolist())) == evaluation.confusion_matrix


def test_a_run_from_a_folder_to_a_report(run: Run, cells: Path) -> None:
    result = run.result
    assert result is not None
    assert run.metadata["model"]["kind"] == "segmentation"
    assert run.metadata["model"]["name"] == "unet_resnet20_cifar"
    assert run.arch is not None
    assert run.arch.num_classes == 3
    assert run.metadata["recipe"]["name"] == "segmentation"
    assert read_header(run.weights_path)["task"] == {"name": "segmentation"}
    evaluation = evaluate(run, keep_predictions=True)
    assert evaluation.to_dict() == {name: result[name] for name in evaluation.to_dict()}
    by_file = evaluate(run.weights_path, cells, val_fraction=0.34, batch_size=1)
    assert by_file.to_dict() == pytest.approx(evaluation.to_dict())
    page = run.report_path.read_text()
    assert all(f">{name}</span>" in page for name in CLASSES)
    assert page.count('<div class="triple">') == len(evaluation.worst_images(12)) > 0
    assert "void: does not count" in page


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    run: Run, cells: Path, tmp_path: Path, timeless: Timeless, weights_hash: Callable[[Run], str]
) -> None:
    def stop(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 3:
            raise KeyboardInterrupt
        return {}

    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        cells_run(cells, output, on_step_end=stop, hook_every_steps=3, save_every_seconds=0.0)
    with pytest.warns(InterimWeightsWarning):
        assert evaluate(output, device="cpu").num_samples == evaluate(run).num_samples
    resumed = cells_run(cells, output, resume=True, model="unet-resnet20-cifar")
    assert len(resumed.metadata["resume_commands"]) == 1
    assert weights_hash(resumed) == weights_hash(run)
    assert [line for line in timeless(resumed) if line["kind"] == "eval"] == [
        line for line in timeless(run) if line["kind"] == "eval"
    ]
    with pytest.raises(ValueError, match=r"model.decoder_channels as in the run, 16"):
        cells_run(cells, output, resume=True, overrides={"model.decoder_channels": 32})


def test_a_classification_network_gives_its_weights_to_the_backbone(cells: Path, tmp_path: Path) -> None:
    step = {"duration": "1 step", "optimizer.lr": "1e-30", "optimizer.weight_decay": "0"}
    small = {"model.depths": "1,1,1", **step}
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    options: dict[str, Any] = {"recipe": "cifar", "on_log": lambda line: None, "device": "cpu"}
    data = (images, torch.arange(8) % 2)
    first = train("resnet20_cifar", data, output=tmp_path / "first", overrides=small, **options)
    second = cells_run(
        cells,
        tmp_path / "second",
        model="resnet20_cifar",
        overrides={"model.backbone.depths": "1,1,1", **step},
        pretrained=first.path,
        epochs=None,
    )
    assert second.metadata["model"]["name"] == "fcn_resnet20_cifar"
    before, after = read_tensors(first.weights_path), read_tensors(second.weights_path)
    convolutions = [name for name in before if "conv" in name]
    assert len(convolutions) == 7
    assert all(torch.equal(before[name], after[f"backbone.{name}"]) for name in convolutions)


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("resnet18", {"label_smoothing": "0.1"}, "no smoothing in segmentation"),
        ("resnet18", {"loss": "bce"}, "a loss for segmentation"),
        ("resnet18", {"model.decoder": "fpn"}, "decoder"),
        ("resnet18", {"train_transform": "crop(32) mixup(0.2)"}, "keep their own targets"),
        ("resnet18", {"class_weights": "1,2"}, "class_weights of 3 numbers"),
        (nn.Conv2d(3, 2, 1), {}, r"outputs of shape \(N, 3, H, W\)"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), {}, r"outputs of shape \(N, 3, H, W\)"),
    ],
)
def test_what_does_not_suit_segmentation_is_refused(
    model: Any, overrides: dict[str, str], message: str, cells: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        cells_run(cells, tmp_path / "run", model=model, overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_network_for_segmentation_is_refused_for_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a network for classification; got: fcn_resnet20_cifar.*resnet20_cifar"):
        train("fcn_resnet20_cifar", "digits", output=tmp_path / "run")


def test_balanced_weights_come_from_the_pixels_of_the_training_masks(cells: Path) -> None:
    data = open_dataset(cells, val_fraction=0.34)
    train_images = data.split("train")
    masks = torch.cat([mask.flatten() for _, mask in train_images])
    counts = torch.bincount(masks[masks != VOID], minlength=3)
    recipe = replace(RECIPES["segmentation"], class_weights="balanced")
    loss = Segmentation.for_data(data).build_loss(recipe, data, "cpu")
    assert isinstance(loss, PixelCrossEntropy)
    assert loss.weights is not None
    torch.testing.assert_close(loss.weights, counts.sum() / (3 * counts.float()))


def test_weights_of_torchvision_are_evaluated_by_the_name_of_their_network(cells: Path, tmp_path: Path) -> None:
    theirs = fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    torch.save(theirs.state_dict(), tmp_path / "fcn.pth")
    options: dict[str, Any] = {"val_fraction": 0.34, "eval_transform": "center-crop(36)"}
    with pytest.raises(ValueError, match=r"a map for each class of the data; got: \(4, 21, 36, 36\)"):
        evaluate("fcn_resnet50", cells, pretrained=tmp_path / "fcn.pth", **options)


@pytest.mark.parametrize(
    ("model", "axes", "image_size", "name", "stride"),
    [
        ("resnet18", {}, (256, 300), "fcn_resnet18", 16),
        ("resnet18", {"decoder": "deeplabv3"}, (128, 300), "deeplabv3_resnet18", 8),
        ("resnet20_cifar", {}, (32, 32), "fcn_resnet20_cifar", None),
        ("fcn-resnet50", {}, (32, 32), "fcn_resnet50", 8),
    ],
)
def test_a_backbone_gets_the_default_head(
    model: str, axes: dict[str, str], image_size: tuple[int, int], name: str, stride: int | None
) -> None:
    arch = dense_arch_for(ModelKind.SEGMENTATION, model, image_size, axes)
    assert isinstance(arch, SegmentationArch)
    assert (arch.name, arch.output_stride) == (name, stride)
    assert dense_arch_for(ModelKind.CLASSIFICATION, "resnet18", image_size, axes) is None


def test_images_are_evaluated_whole_at_the_size_of_the_run(cells: Path, tmp_path: Path) -> None:
    """`--size` scales crop and evaluation; a training crop alone leaves the evaluation as it is."""
    run = cells_run(cells, tmp_path / "size", image_size=32, overrides={**TINY, "duration": "1 step"}, epochs=None)
    assert run.recipe.train_transform.startswith("random-resize(0.5,2,32) pad-to(32) crop(32)")
    assert run.metadata["data"]["preprocess"]["transform"] == "resize(32)"
    settings = {**TINY, "duration": "1 step", "train_transform": "pad-to(16) crop(16)"}
    run = cells_run(cells, tmp_path / "crop", overrides=settings, epochs=None)
    assert run.metadata["data"]["preprocess"]["transform"] == ""


def test_the_head_is_trained_before_the_backbone() -> None:
    network = create_model("fcn_resnet20_cifar", depths=(1, 1, 1), aux=True)
    freezing = Freezing(network, ("head: 0%", "last-stage: 50%", "all: 90%"), 1, 10)
    with freezing.active(0):
        trained = {name.partition(".")[0] for name, weight in network.named_parameters() if weight.requires_grad}
        assert trained == {"classifier", "aux_classifier"}
        freezing.on_step_end(5)
        trained = {name.rpartition(".layer")[0] for name, weight in network.named_parameters() if weight.requires_grad}
        assert trained == {"", "backbone"}
        assert not network.backbone.layer2[0].conv1.weight.requires_grad
        assert network.backbone.layer3[0].conv1.weight.requires_grad


@pytest.mark.parametrize("recipe", [recipe.name for recipe in SEGMENTATION])
def test_a_recipe_takes_steps(recipe: str, cells: Path, tmp_path: Path) -> None:
    model = RECIPES[recipe].model or "fcn_resnet50"
    settings = {"model.backbone.depths": "1,1,1,1", "model.backbone.widths": "16,16,16,16", "duration": "2 steps"}
    run = cells_run(cells, tmp_path / "run", model=model, recipe=recipe, overrides=settings, epochs=None, image_size=48)
    assert run.result is not None
    assert run.result["steps"] == 2
    assert run.recipe.name == recipe
    assert run.recipe.train_transform.count("(48)") == 2
    assert run.metadata["data"]["preprocess"]["transform"] == "resize(48)"


def test_the_values_of_masks_are_stated_and_recorded(cells: Path, tmp_path: Path) -> None:
    values = {0: "ground", 1: "cell", 2: "cell", 255: "void"}
    run = cells_run(cells, tmp_path / "run", mask_values=values, epochs=1)
    assert run.metadata["data"]["classes"] == ["ground", "cell"]
    record = run.metadata["data"]["split_record"]
    assert record["mask_values"] == {"0": "ground", "1": "cell", "2": "cell", "255": "void"}
    assert evaluate(run).metrics == {name: run.result[name] for name in evaluate(run).metrics}
    assert cells_run(cells, tmp_path / "run", resume=True, mask_values="0=ground,1=cell,2=cell,255=void", epochs=1)
    with pytest.raises(ValueError, match="mask_values as in the run"):
        cells_run(cells, tmp_path / "run", resume=True, mask_values="0=ground,1=cell,2=ground,255=void")
    with pytest.raises(ValueError, match="got: 255 in 12 of 12 masks"):
        evaluate(run, cells, mask_values="0=ground,1=cell,2=cell")
    other = evaluate(run, cells, split="train", mask_values=values, val_fraction=0.34)
    assert other.metrics == evaluate(run, split="train").metrics
    masks = (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, 32, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="a path, where mask_values is given; got: a tuple; pass masks of the numbers"):
        train(data=masks, mask_values=values)


def test_an_image_that_is_too_small_is_named_before_training(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            sizes = (1, 1) if (split, i) == ("val", 1) else (32, 32)
            write_image(tmp_path / "data" / split / "images" / f"{i}.png", disk(*sizes))
            write_mask(tmp_path / "data" / split / "masks" / f"{i}.png", disk(32, 32)[: sizes[0], : sizes[1]])
    message = r"val/images/1\.png: required: images of at least 4x4.*got: 1x1.*leave it out"
    with pytest.raises(ValueError, match=message):
        train(data=tmp_path / "data", output=tmp_path / "run", overrides=TINY)
    assert not (tmp_path / "run").exists()
