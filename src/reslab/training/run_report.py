"""The report of a run: what its page shows, gathered as plain data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.nn.cost import layer_table
from reslab.report.page import Mistake, RunPage
from reslab.report.render import render_run
from reslab.runtime.files import write_whole
from reslab.training.evaluation.calibration import calibration_facts
from reslab.training.evaluation.loop import Evaluation
from reslab.training.run import Run

NUM_MISTAKES = 24
_THUMBNAIL_SIDE = 192


def write_report(
    run: Run,
    model: nn.Module,
    data: Data,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val: Evaluation | None = None,
) -> None:
    """Write report.html from the run's facts and log, the network's cost, an evaluation that kept its probabilities,
    and that of the validation split, which a temperature is fitted on."""
    write_whole(run.report_path, render_run(run_page(run, model, data, evaluation, input_size, val)).encode())


def run_page(
    run: Run,
    model: nn.Module,
    data: Data,
    evaluation: Evaluation,
    input_size: tuple[int, ...],
    val: Evaluation | None = None,
) -> RunPage:
    """All that the page of a run shows."""
    layers = cost_table(model, input_size)
    chosen = (run.result or {}).get("chosen", "")
    return RunPage(
        title=f"{run.facts['model']['name']} on {data.name}",
        facts=page_facts(run, input_size),
        scores={**evaluation.to_dict(), **_on_training(run), "split": evaluation.split, "chosen": chosen},
        log=run.log.lines(),
        classes=data.classes,
        confusion=[list(row) for row in evaluation.confusion],
        mistakes=worst_mistakes(evaluation, data.split(evaluation.split)),
        layers=layers,
        depth=run.arch.depth if run.arch else 0,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer["macs"] for layer in layers),
        calibration=calibration_facts(evaluation, val),
    )


def evaluation_page(
    title: str, evaluation: Evaluation, calibration: Mapping[str, Any], facts: Mapping[str, str]
) -> RunPage:
    """The page of an evaluation that kept its probabilities: what a run's report shows of the images it judged."""
    assert evaluation.images is not None
    return RunPage(
        title=title,
        facts=facts,
        scores={**evaluation.to_dict(), "split": evaluation.split},
        classes=evaluation.classes,
        confusion=[list(row) for row in evaluation.confusion],
        mistakes=worst_mistakes(evaluation, evaluation.images),
        calibration=calibration,
        kind="Evaluation",
    )


def _on_training(run: Run) -> dict[str, Any]:
    names = ("train_average_loss", "train_average_top1", "train_loss", "train_top1")
    return {name: value for name, value in (run.result or {}).items() if name in names}


def cost_table(model: nn.Module, input_size: tuple[int, ...]) -> list[dict[str, Any]]:
    """The network's layers as plain data; empty where a module of the user's own cannot be run without computing."""
    try:
        table = layer_table(model, input_size)
    except Exception:
        # A foreign module may do anything in its forward; the rest of the report does not depend on it.
        return []
    return [
        {"name": layer.name, "output_shape": layer.output_shape, "params": layer.params, "macs": layer.macs}
        for layer in table
    ]


def worst_mistakes(evaluation: Evaluation, images: Images, most: int = NUM_MISTAKES) -> list[Mistake]:
    """The wrong answers given with the highest probability, the surest first."""
    assert evaluation.probabilities is not None
    assert evaluation.labels is not None
    sure, called = evaluation.probabilities.max(1)
    wrong = (called != evaluation.labels).nonzero().flatten()
    order = wrong[sure[wrong].argsort(descending=True, stable=True)][:most]
    return [
        Mistake(_pixels(images.raw(i)), int(evaluation.labels[i]), int(called[i]), float(sure[i]), images.name(i))
        for i in order.tolist()
    ]


def _pixels(raw: torch.Tensor) -> np.ndarray:
    """uint8 (C, H, W) as (H, W) or (H, W, 3); of large pictures every k-th pixel, which the report shrinks further."""
    step = max(1, min(raw.shape[-2:]) // (2 * _THUMBNAIL_SIDE))
    raw = raw[:, ::step, ::step].cpu()
    return raw[0].numpy() if len(raw) != 3 else raw.permute(1, 2, 0).contiguous().numpy()


def _ranks(facts: dict[str, Any]) -> str:
    num = facts.get("num_ranks", 1)
    return f", {num} ranks" if num > 1 else ""


def _speed(result: Mapping[str, Any]) -> str:
    alone = result.get("images_per_second_without_loading")
    told = f"{result.get('images_per_second', 0):,.0f} images/s"
    return told if alone is None else f"{told}; {alone:,.0f} without waiting for data"


def page_facts(run: Run, input_size: tuple[int, ...]) -> dict[str, str]:
    """What the numbers on the page depend on, in words."""
    facts, recipe = run.facts, run.recipe
    data, hardware, versions = facts["data"], facts["hardware"], facts["versions"]
    rate = f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g}, {recipe.schedule.name}"
    shown = {
        "network": f"{facts['model']['name']} ({facts['model']['source']})",
        "input": "x".join(str(side) for side in input_size),
        "first weights": facts["pretrained"] or "random",
        "data": f"{data['name']} ({data['source']})",
        "images": ", ".join(f"{count:,} {split}" for split, count in data["num_images"].items()),
        "left out": f"{len(data['skipped'])} unreadable pictures" if data["skipped"] else "",
        "recipe": f"{recipe.name} ({recipe.source})",
        "training": f"{recipe.length}, batch {recipe.batch}, {rate}, weight decay {recipe.optimizer.weight_decay:g}",
        "loss": facts["loss"] or recipe.loss + (f", taught by {recipe.teacher}" if recipe.teacher else ""),
        "weights": (run.result or {}).get("chosen", ""),
        "augmentation": recipe.augment or "none",
        "precision": f"{recipe.precision}; evaluation float32",
        "seed": str(facts["seed"]),
        "training time": f"{(run.result or {}).get('train_seconds', 0):.1f} s",
        "speed": _speed(run.result or {}),
        "hardware": f"{hardware['device']}, {hardware['processor']}, {hardware['num_threads']} threads{_ranks(facts)}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "system"),
        "command": facts["command"],
        "commit": facts["commit"] or "",
        "notes": "; ".join(facts["notes"]),
    }
    return {name: text for name, text in shown.items() if text}
