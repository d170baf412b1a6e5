"""The report of a run or an evaluation: its content as plain data, and the file report.html."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ImageDataset
from reslab.nn.cost import layer_table
from reslab.report.pages.classification import MisclassifiedImage
from reslab.report.pages.run import RunPage
from reslab.report.render import render_page
from reslab.runtime.files import write_atomic
from reslab.training.evaluation.calibration import calibration_metrics
from reslab.training.evaluation.loop import Evaluation, sample_losses
from reslab.training.run import Run

NUM_MISCLASSIFIED = 24
_THUMBNAIL_SIDE = 192


def write_report(
    run: Run,
    model: nn.Module,
    data: DatasetSplits,
    *,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val_evaluation: Evaluation | None = None,
) -> None:
    """Write report.html of a run. The evaluations kept their probabilities; temperature is fitted on the validation."""
    page = build_run_page(run, model, data, evaluation=evaluation, input_size=input_size, val_evaluation=val_evaluation)
    write_atomic(run.report_path, render_page(page).encode())


def build_run_page(
    run: Run,
    model: nn.Module,
    data: DatasetSplits,
    *,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val_evaluation: Evaluation | None = None,
) -> RunPage:
    """Return the content of a run's report: metadata, log, evaluation, mistakes, layers and calibration."""
    layers = cost_table(model, input_size)
    selection_text = (run.result or {}).get("selection_text", "")
    return RunPage(
        title=f"{run.metadata['model']['name']} on {data.name}",
        metadata=page_metadata(run, input_size),
        metrics={
            **evaluation.to_dict(),
            **_train_metrics(run),
            "split": evaluation.split,
            "selection_text": selection_text,
        },
        log=run.log.records(),
        classes=data.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion_matrix],
        misclassified=find_misclassified(evaluation, data.split(evaluation.split)),
        layers=layers,
        depth=run.arch.depth if run.arch else 0,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer["macs"] for layer in layers),
        arch=None if run.arch is None else replace(run.arch, image_size=input_size[1:]),
        calibration=calibration_metrics(evaluation, val_evaluation),
    )


def build_evaluation_page(
    title: str, evaluation: Evaluation, calibration: Mapping[str, Any], metadata: Mapping[str, str]
) -> RunPage:
    """Return the content of an evaluation's report, which a run's report has, too. The probabilities must be kept."""
    assert evaluation.dataset is not None
    return RunPage(
        title=title,
        metadata=metadata,
        metrics={**evaluation.to_dict(), "split": evaluation.split},
        classes=evaluation.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion_matrix],
        misclassified=find_misclassified(evaluation, evaluation.dataset),
        calibration=calibration,
        kind="Evaluation",
    )


def _train_metrics(run: Run) -> dict[str, Any]:
    names = ("train_loss_running", "train_top1_running", "train_loss", "train_top1")
    return {name: value for name, value in (run.result or {}).items() if name in names}


def cost_table(model: nn.Module, input_size: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the layers of the network as plain data; empty if a user's module cannot run on the meta device."""
    try:
        table = layer_table(model, input_size)
    except Exception:
        # A user's module may do anything in its forward; the rest of the report does not depend on it.
        return []
    return [
        {"name": layer.name, "output_shape": layer.output_shape, "params": layer.params, "macs": layer.macs}
        for layer in table
    ]


def find_misclassified(
    evaluation: Evaluation, images: ImageDataset, max_images: int = NUM_MISCLASSIFIED
) -> list[MisclassifiedImage]:
    """Return the top losses: the misclassified images, the highest loss (-log p of the true class) first."""
    assert evaluation.probabilities is not None
    assert evaluation.labels is not None
    confidences, predictions = evaluation.probabilities.max(1)
    wrong_indices = (predictions != evaluation.labels).nonzero().flatten()
    losses = sample_losses(evaluation.probabilities, evaluation.labels)
    indices = wrong_indices[losses[wrong_indices].argsort(descending=True, stable=True)][:max_images]
    return [
        MisclassifiedImage(
            _thumbnail_array(images.preview(i)),
            int(evaluation.labels[i]),
            int(predictions[i]),
            float(confidences[i]),
            float(losses[i]),
            images.name(i),
        )
        for i in indices.tolist()
    ]


def _thumbnail_array(image: torch.Tensor) -> np.ndarray:
    """Return uint8 (C, H, W) as (H, W) or (H, W, 3); of large images only every k-th pixel."""
    stride = max(1, min(image.shape[-2:]) // (2 * _THUMBNAIL_SIDE))
    image = image[:, ::stride, ::stride].cpu()
    return image[0].numpy() if len(image) != 3 else image.permute(1, 2, 0).contiguous().numpy()


def _world_size_text(metadata: dict[str, Any]) -> str:
    world_size = metadata.get("world_size", 1)
    return f", {world_size} ranks" if world_size > 1 else ""


def _throughput_text(result: Mapping[str, Any]) -> str:
    compute_speed = result.get("compute_images_per_second")
    text = f"{result.get('images_per_second', 0):,.0f} images/s"
    return text if compute_speed is None else f"{text}; {compute_speed:,.0f} without waiting for data"


def page_metadata(run: Run, input_size: tuple[int, ...]) -> dict[str, str]:
    """Return what the numbers of the report depend on, as rows of text."""
    metadata, recipe = run.metadata, run.recipe
    data, hardware, versions = metadata["data"], metadata["hardware"], metadata["versions"]
    num_damaged = data.get("num_decode_warnings", 0)
    optimizer = recipe.optimizer
    optimizer_text = (
        f"{optimizer.name}, learning rate {optimizer.lr:g}, {recipe.schedule.name}, "
        f"weight decay {optimizer.weight_decay:g}"
    )
    rows = {
        "network": f"{metadata['model']['name']} ({metadata['model']['reference']})",
        "input": "x".join(str(side) for side in input_size),
        "initial weights": metadata["pretrained"] or "random",
        "data": f"{data['name']} ({data['source']})",
        "images": ", ".join(f"{count:,} {split}" for split, count in data["num_images"].items()),
        "skipped": f"{len(data['skipped_files'])} unreadable images" if data["skipped_files"] else "",
        "damaged": f"{num_damaged} images that decode with a warning" if num_damaged else "",
        "recipe": f"{recipe.name} ({recipe.reference})",
        "training": f"{recipe.duration}, batch size {recipe.batch_size}, {optimizer_text}",
        "loss": metadata["loss"]
        or recipe.loss + (f", distilled from {recipe.distill.teacher}" if recipe.distill.teacher else ""),
        "weights": (run.result or {}).get("selection_text", ""),
        "augmentation": recipe.train_transform or "none",
        "precision": f"{recipe.precision}; evaluation float32",
        "seed": str(metadata["seed"]),
        "training time": f"{(run.result or {}).get('train_seconds', 0):.1f} s",
        "speed": _throughput_text(run.result or {}),
        "hardware": f"{hardware['device']}, {hardware['processor']}, {hardware['num_threads']} threads"
        + _world_size_text(metadata),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "system"),
        "command": metadata["command"],
        "commit": metadata["commit"] or "",
        "messages": "; ".join(metadata["messages"]),
    }
    return {name: text for name, text in rows.items() if text}
