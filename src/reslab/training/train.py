"""`train`: from a network, data and a recipe to the folder of a run.

The report of a run: what its page shows, gathered as plain data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reslab.data.dataset import Data
from reslab.data.image_datasets import Images
from reslab.data.loader import TrainBatches
from reslab.nn.checkpoints.pretrained import Pretrained
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.cost import layer_table
from reslab.report.pages.run_text import MisclassifiedImage, RunPage
from reslab.report.render import render_run_page
from reslab.runtime.device import choose_device, num_threads_for, threads
from reslab.runtime.distributed import Ranks, join, own_device
from reslab.runtime.files import room_for, write_whole
from reslab.runtime.interrupts import Interrupted
from reslab.runtime.torchrun import read_place
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.training.auto_batch import fitted
from reslab.training.evaluation.calibration import calibration_facts
from reslab.training.evaluation.loop import Evaluation
from reslab.training.loop import Loss
from reslab.training.meters import last_epoch, speed_without_loading
from reslab.training.options import Asked, read_batch, split_settings
from reslab.training.resume import reopened, resume_run
from reslab.training.run import Run, header_facts, holds_something
from reslab.training.run_logger import Scalars, Show, default_show, has_tensorboard, require_tensorboard
from reslab.training.setup import Prepared, begin
from reslab.training.trainer import Course, Probe, make_course

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
    write_whole(run.report_path, render_run_page(run_page(run, model, data, evaluation, input_size, val)).encode())


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
    chosen = (run.result or {}).get("selection", "")
    return RunPage(
        title=f"{run.facts['model']['name']} on {data.name}",
        metadata=page_facts(run, input_size),
        metrics={**evaluation.to_dict(), **_on_training(run), "split": evaluation.split, "selection": chosen},
        log=run.log.lines(),
        classes=data.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion],
        misclassified=worst_mistakes(evaluation, data.split(evaluation.split)),
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
        metadata=facts,
        metrics={**evaluation.to_dict(), "split": evaluation.split},
        classes=evaluation.classes,
        confusion_matrix=[list(row) for row in evaluation.confusion],
        misclassified=worst_mistakes(evaluation, evaluation.images),
        calibration=calibration,
        kind="Evaluation",
    )


def _on_training(run: Run) -> dict[str, Any]:
    names = ("train_loss_running", "train_top1_running", "train_loss", "train_top1")
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


def worst_mistakes(evaluation: Evaluation, images: Images, most: int = NUM_MISTAKES) -> list[MisclassifiedImage]:
    """The wrong answers given with the highest probability, the surest first."""
    assert evaluation.probabilities is not None
    assert evaluation.labels is not None
    sure, called = evaluation.probabilities.max(1)
    wrong = (called != evaluation.labels).nonzero().flatten()
    order = wrong[sure[wrong].argsort(descending=True, stable=True)][:most]
    return [
        MisclassifiedImage(
            _pixels(images.raw(i)), int(evaluation.labels[i]), int(called[i]), float(sure[i]), images.name(i)
        )
        for i in order.tolist()
    ]


def _pixels(raw: torch.Tensor) -> np.ndarray:
    """uint8 (C, H, W) as (H, W) or (H, W, 3); of large pictures every k-th pixel, which the report shrinks further."""
    step = max(1, min(raw.shape[-2:]) // (2 * _THUMBNAIL_SIDE))
    raw = raw[:, ::step, ::step].cpu()
    return raw[0].numpy() if len(raw) != 3 else raw.permute(1, 2, 0).contiguous().numpy()


def _ranks_run_report(facts: dict[str, Any]) -> str:
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
        "recipe": f"{recipe.name} ({recipe.reference})",
        "training": f"{recipe.duration}, batch {recipe.batch_size}, {rate}, weight decay {recipe.optimizer.weight_decay:g}",
        "loss": facts["loss"] or recipe.loss + (f", taught by {recipe.teacher}" if recipe.teacher else ""),
        "weights": (run.result or {}).get("selection", ""),
        "augmentation": recipe.train_transform or "none",
        "precision": f"{recipe.precision}; evaluation float32",
        "seed": str(facts["seed"]),
        "training time": f"{(run.result or {}).get('train_seconds', 0):.1f} s",
        "speed": _speed(run.result or {}),
        "hardware": f"{hardware['device']}, {hardware['processor']}, {hardware['num_threads']} threads"
        + _ranks_run_report(facts),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "system"),
        "command": facts["command"],
        "commit": facts["commit"] or "",
        "notes": "; ".join(facts["notes"]),
    }
    return {name: text for name, text in shown.items() if text}


def train(
    model: str | Arch | nn.Module | None = None,
    data: Any = None,
    recipe: str | Recipe | None = None,
    *,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    epochs: float | None = None,
    batch: int | str | None = None,
    lr: float | None = None,
    settings: Mapping[str, Any] | None = None,
    pretrained: Pretrained | None = None,
    loss: Loss | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    num_images: int | None = None,
    skip_bad_images: bool = False,
    device: str | torch.device = "auto",
    workers: int | None = None,
    show: Show | None = None,
    probe: Probe | None = None,
    probe_every_steps: int = 0,
    save_every_seconds: float = 60.0,
    snapshots: str | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train `model` on `data` by `recipe` and return the run: weights, log, report, and what they came from.

    What is not said is chosen to suit the data (None is the bundled digits). `model` is a name, an `Arch` or any module
    from (N, C, H, W) to (N, classes); `data` a name, a folder, a map-style data set or (images, labels). `settings`
    override the recipe (`"optimizer.lr"`) and the network (`"model.order"`); another `batch` scales the learning rate
    with it, `"auto"` is the recipe's, taken in the parts that fit the memory. `loss(outputs, labels)` replaces
    cross-entropy. `output` is the run's folder, `resume` goes on with the run in it; only length, paths, device and
    workers may then differ. `num_images` takes so many of the training pictures. The weights kept are the best on the
    validation split, else the last; `snapshots` (`"1 epoch"`, `"500 steps"`) keeps them along the way too, those of
    step 0 among them (`Run.snapshots`). `show` receives every line of the log, notes and progress; `probe(step, model)`
    adds a line every `probe_every_steps` steps; with `tensorboard` (an extra) the numbers of the log are written to the
    run's folder `tensorboard` too.

    Under torchrun every rank calls this with the same arguments and takes its part of each batch; rank 0 alone writes
    and shows, every rank probes. A job that torchrun restarts goes on where its state is, as with `resume`.

    Raises ValueError for what means nothing, before anything is written; `Diverged` where the loss is not finite;
    `DiskFull`; `Interrupted` on Ctrl-C. In each of these the last good state is kept.
    """
    if tensorboard:
        require_tensorboard()
    ranks = _ranks(device, output)
    resume = resume or ranks.place.restarts > 0
    batch, auto = read_batch(batch)
    chosen, axes = split_settings(settings, epochs, batch, lr)
    first = (model, data, recipe, seed, chosen, axes, pretrained, loss, data_dir, val_fraction, skip_bad_images)
    asked = Asked(*first, num_images=num_images, snapshots=snapshots, auto_batch=auto)
    if resume and output is None:
        raise invalid("output, the folder of the run to go on with", "resume without it", next_step="add --output DIR")
    prepared = fitted(_prepare(asked, output, resume, ranks), asked, ranks)
    show = (show or default_show()) if ranks.first else _silent
    course = make_course(prepared, asked, ranks, workers, show, save_every_seconds)
    course.probe, course.probe_every_steps = probe, probe_every_steps
    course.telling.scalars = _scalars(course.run, tensorboard) if ranks.first else None
    for note in (*prepared.notes, *_take_up(course, resume)):
        show({"kind": "note", "text": note})
    show(_start_line(course))
    with threads(num_threads_for(prepared.input_size, ranks.device)):
        if not course.go():
            raise Interrupted(_stopped(course))
        if course.stopping.over:
            show({"kind": "note", "text": course.stopping.told(course.step, course.total)})
        return _finish(course, prepared)


def _scalars(run: Run, asked: bool) -> Scalars | None:
    """Where asked for, or begun before."""
    folder = run.path / "tensorboard"
    return Scalars(folder) if asked or (folder.exists() and has_tensorboard()) else None


def _ranks(device: str | torch.device, output: Any) -> Ranks:
    """This process among those of its job, on a device of its own."""
    place = read_place()
    if place.max_restarts and output is None:
        got = f"none, with --max-restarts={place.max_restarts}"
        raise invalid("output, the folder that a restarted job goes on in", got, next_step="add --output DIR")
    return join(own_device(choose_device(device), place), place)


def _prepare(asked: Asked, output: str | Path | None, resume: bool, ranks: Ranks) -> Prepared:
    """The run, begun or taken up by rank 0 and then opened by the others, who find the data where it put them."""

    def lead() -> Prepared:
        if resume and output is not None and holds_something(Path(output)):
            return resume_run(asked, Path(output))
        return begin(asked, output, ranks.device, ranks.place)

    prepared = ranks.lead(lead)
    path = ranks.gather(None if prepared is None else prepared.run.path)[0]
    assert path is not None
    return prepared or reopened(asked, path)


def _silent(line: dict[str, Any]) -> None:
    """Where rank 0 shows everything."""


def _take_up(course: Course, resume: bool) -> list[str]:
    """Go back to the saved state where there is one, else save that of step 0; what a person should be told."""
    notes = [*_count_ranks(course), *_count_workers(course)]
    if course.restore():
        return [*notes, _left(course)]
    course.save()
    return [*notes, "no saved state there: starting from step 0"] if resume else notes


def _left(course: Course) -> str:
    if not course.ended:
        return f"resumed at step {course.step} of {course.total}"
    why = f"the run is at step {course.step}, {course.total} were asked for"
    return f"nothing is left to do: {course.stopping.told(course.step, course.total) if course.stopping.over else why}"


def _count_ranks(course: Course) -> list[str]:
    """Say where a run goes on with another number of ranks than it had."""
    run, num = course.run, course.ranks.num
    before = run.facts.get("num_ranks", 1)
    if before == num:
        return []
    if course.ranks.first:
        run.update(num_ranks=num)
    return [f"the run had {before} ranks and goes on with {num}: the same batches, noise and rounding of their own"]


def _count_workers(course: Course) -> list[str]:
    """Say where a run on shards by URL goes on with another number of workers, who deal the shards out otherwise."""
    run, batches = course.run, course.steps.batches
    flow = batches.flow if isinstance(batches, TrainBatches) else None
    if flow is None:
        return []
    before = run.facts.get("workers", flow.workers)
    if course.ranks.first and run.facts.get("workers") != flow.workers:
        run.update(workers=flow.workers)
    if before == flow.workers:
        return []
    return [f"the run had {before} workers and goes on with {flow.workers}: other samples from here on (-j {before})"]


def _start_line(course: Course) -> dict[str, Any]:
    return {
        "kind": "start",
        "run": str(course.run.path),
        "model": course.run.facts["model"]["name"],
        "params": sum(parameter.numel() for parameter in course.model.parameters()),
        "data": course.exam.data.describe(),
        "recipe": course.recipe.name,
        "batch": course.recipe.batch_size,
        "num_ranks": course.ranks.num,
        "precision": course.recipe.precision,
        "device": str(course.exam.device),
        "step": course.step,
        "total": course.total,
        "steps_per_epoch": course.steps_per_epoch,
    }


def _stopped(course: Course) -> str:
    return (
        f"stopped after step {course.step} of {course.total}; the state is saved in {course.run.path}; "
        f"go on with --output {course.run.path} --resume"
    )


def _finish(course: Course, prepared: Prepared) -> Run:
    """Keep the chosen weights, judge them on the held-out split, write the result and the report."""
    course.model.to(memory_format=torch.contiguous_format)
    chosen = course.keep()
    found = course.exam.judge(course.exam.data.held_out, probabilities=True)
    val = _judge_val(course, found)
    train = course.exam.judge("train") if course.recipe.eval_train else None
    course.ranks.lead(lambda: _write_end(course, prepared, found, val, train, chosen))
    return course.run if course.ranks.first else Run(course.run.path)


def _judge_val(course: Course, found: Evaluation) -> Evaluation | None:
    """The kept weights' answers on the validation split, which a temperature is fitted on; None where there is none."""
    if found.split == "val" or "val" not in course.exam.data.splits:
        return found if found.split == "val" else None
    return course.exam.judge("val", probabilities=True)


def _write_end(
    course: Course,
    prepared: Prepared,
    found: Evaluation,
    val: Evaluation | None,
    train: Evaluation | None,
    chosen: str,
) -> None:
    run, model, data = course.run, course.model, course.exam.data
    scores = {**found.to_dict(), "split": found.split, "selection": chosen}
    facts = {"scores": scores, "selection": chosen, **header_facts(run)}
    with room_for(run.weights_path):
        save_weights(run.weights_path, model, facts)
    speed, lines = course.step * course.recipe.batch_size / max(course.seconds, 1e-9), run.log.lines()
    judged = {} if train is None else {"train_loss": train.loss, "train_top1": train.top1}
    ended = course.stopping.told(course.step, course.total)
    run.update(
        result={
            **scores,
            "ended": ended,
            "steps": course.step,
            "train_seconds": course.seconds,
            "images_per_second": speed,
            "images_per_second_without_loading": speed_without_loading(lines),
            **last_epoch(lines, course.steps_per_epoch),
            **judged,
        }
    )
    if "temperature" in run.facts:  # of weights that are no more
        run.update(temperature=None)
    write_report(run, model, data, found, prepared.input_size, val)
