"""The report of a run or an evaluation: its content as plain data, and the file report.html."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from reslab.nn.cost import layer_table
from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_metric, format_speed
from reslab.report.pages.components import TaskResults
from reslab.report.pages.run import RunPage
from reslab.report.render import render_page
from reslab.runtime.files import write_atomic
from reslab.spec.arch import Arch
from reslab.training.evaluation.evaluation import Evaluation
from reslab.training.run import Run


def write_report(
    run: Run, model: nn.Module, evaluation: Evaluation, results: TaskResults, *, input_size: tuple[int, ...]
) -> None:
    """Write report.html of a run, with the results of an evaluation (`TaskType.results`)."""
    page = build_run_page(run, model, evaluation, results, input_size=input_size)
    write_atomic(run.report_path, render_page(page).encode())


def build_run_page(
    run: Run, model: nn.Module, evaluation: Evaluation, results: TaskResults, *, input_size: tuple[int, ...]
) -> RunPage:
    """Return the content of a run's report: metadata, log, evaluation, results and layers."""
    layers = cost_table(model, input_size)
    selection_text = (run.result or {}).get("selection_text", "")
    return RunPage(
        title=f"{run.metadata['model']['name']} on {run.metadata['data']['name']}",
        metadata=page_metadata(run, input_size),
        metrics={
            **evaluation.to_dict(),
            **_train_metrics(run),
            "split": evaluation.split,
            "selection_text": selection_text,
        },
        log=run.log.records(),
        results=results,
        layers=layers,
        depth=run.arch.depth if run.arch else 0,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer["macs"] for layer in layers),
        arch=replace(run.arch, image_size=input_size[1:]) if isinstance(run.arch, Arch) else None,
    )


def build_evaluation_page(
    title: str, evaluation: Evaluation, results: TaskResults, metadata: Mapping[str, str]
) -> RunPage:
    """Return the content of an evaluation's report, which a run's report has, too."""
    metrics = {**evaluation.to_dict(), "split": evaluation.split}
    return RunPage(title=title, metadata=metadata, metrics=metrics, results=results, kind="Evaluation")


def _train_metrics(run: Run) -> dict[str, Any]:
    """Return the metrics of the training images: train_loss, train_top1, train_loss_running, ..."""
    prefix, others = "train_", ("train_seconds",)
    return {name: value for name, value in (run.result or {}).items() if name.startswith(prefix) and name not in others}


def cost_table(model: nn.Module, input_size: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the layers of the network as plain data; empty if a user's module cannot run on the meta device."""
    try:
        # A copy, as other modules keep tensors that are no buffers (anchors), which would stay on the meta device.
        table = layer_table(model if isinstance(model, ResidualNetwork) else copy.deepcopy(model), input_size)
    except Exception:
        # A user's module may do anything in its forward; the rest of the report does not depend on it.
        return []
    return [
        {"name": layer.name, "output_shape": layer.output_shape, "params": layer.params, "macs": layer.macs}
        for layer in table
    ]


def _world_size_text(metadata: dict[str, Any]) -> str:
    world_size = metadata.get("world_size", 1)
    return f", {world_size} ranks" if world_size > 1 else ""


def _validation_text(run: Run) -> str:
    """Return the metric on the validation split where the report's metrics are those of another."""
    result, metric = run.result or {}, run.task.selection_metric
    val_metrics = result.get("val_metrics")
    if not val_metrics or result["split"] == "val":
        return ""
    value = format_metric(metric, val_metrics[metric.name])
    return f"{metric.title} {value} on {val_metrics['num_samples']:,} images"


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
        "task": run.task.name,
        "recipe": f"{recipe.name} ({recipe.reference})",
        "training": f"{recipe.duration}, batch size {recipe.batch_size}, {optimizer_text}",
        "loss": metadata["loss"]
        or recipe.loss + (f", distilled from {recipe.distill.teacher}" if recipe.distill.teacher else ""),
        "weights": (run.result or {}).get("selection_text", ""),
        "validation": _validation_text(run),
        "augmentation": recipe.train_transform or "none",
        "precision": f"{recipe.precision}; evaluation float32",
        "seed": str(metadata["seed"]),
        "training time": f"{(run.result or {}).get('train_seconds', 0):.1f} s",
        "speed": format_speed(run.result or {}),
        "hardware": f"{hardware['device']}, {hardware['processor']}, {hardware['num_threads']} threads"
        + _world_size_text(metadata),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "system"),
        "command": metadata["command"],
        "commit": metadata["commit"] or "",
        "messages": "; ".join(metadata["messages"]),
    }
    return {name: text for name, text in rows.items() if text}
