"""He et al. 2015, Fig. 6: plain and residual networks of 20 and 56 layers on CIFAR-10, together on one GPU.

Each network is one CUDA graph a step, on a stream of its own. cuDNN's search is off: with it, replays on four streams
ended in a segmentation fault (torch 2.11, CUDA 13.0). Recipe he2015-cifar (batch 128, 64,000 steps), in TF32
with channels-last in place of float32. If 64,000 steps do not fit into
the time, the schedule is shortened in proportion, and the result says so. The curves are written at every evaluation.
"""

import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from cifar import open_cifar10
from graph_training import GraphTraining
from graphs import synchronize
from part_result import PartArgs, PartResult, mean_and_std, parse_part_args

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import eval_loader
from reslab.data.transforms.normalize import compute_mean_image, encode_mean_image
from reslab.runtime.device import deterministic_mode
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import find_recipe
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.optim.lr_schedule import lr_factor
from reslab.training.tasks.registry import find_task_type

NETWORKS = ("plain20_cifar", "resnet20_cifar", "plain56_cifar", "resnet56_cifar")
FULL_STEPS, MILESTONES = 64_000, (0.5, 0.75)
NUM_EVALUATIONS, TIMED_STEPS = 10, 150
MAX_SEEDS = 5


@dataclass
class Curve:
    """A network of a seed and what was measured of it so far."""

    training: GraphTraining
    name: str
    seed: int
    points: list[dict[str, Any]] = field(default_factory=list)


def open_data(args: PartArgs, device: torch.device) -> tuple[DatasetSplits, TensorImageDataset]:
    """Return the data, normalized by the training images' mean at each pixel, and the training images on the GPU."""
    assert args.data is not None
    data = open_cifar10(args.data)
    train = data.split("train")
    assert isinstance(train, TensorImageDataset)
    mean_image = encode_mean_image(compute_mean_image(train))
    preprocess = replace(data.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3, mean_image=mean_image)
    on_device = replace(train, images=train.images.to(device), labels=train.labels.to(device), names=None)
    return replace(data, preprocess=preprocess), on_device


def shortened(recipe: Recipe, num_steps: int) -> Recipe:
    """Return the recipe with a schedule of `num_steps` in place of 64,000."""
    milestones = tuple(f"{round(part * num_steps)} steps" for part in MILESTONES)
    return replace(recipe, duration=f"{num_steps} steps", schedule=replace(recipe.schedule, milestones=milestones))


def advance_all(curves: list[Curve], recipe: Recipe, num_steps: int) -> None:
    """Take steps of all networks, which stand at the same step, within epochs and learning rates."""
    end = curves[0].training.step + num_steps
    milestones = [parse_duration(text).num_steps(1) for text in recipe.schedule.milestones]
    while (step := curves[0].training.step) < end:
        steps_per_epoch = curves[0].training.num_steps_per_epoch
        bounds = [end, (step // steps_per_epoch + 1) * steps_per_epoch]
        bounds += [bound for bound in milestones if bound > step]
        count = min(bounds) - step
        lr = recipe.optimizer.lr * lr_factor(recipe.schedule, step, FULL_STEPS, steps_per_epoch)
        # A few steps of each in turn, so that their curves grow together.
        while count:
            part = min(count, 10)
            for curve in curves:
                curve.training.advance(part, lr)
            count -= part
    synchronize()


def evaluate_all(curves: list[Curve], data: DatasetSplits, result: PartResult, seconds: float) -> None:
    """Add a point to every curve and write them."""
    task = find_task_type(data.task).for_data(data)
    for curve in curves:
        batches = eval_loader(data.split("test"), 1000, data.preprocess, curve.training.device)
        averages = curve.training.read_averages()
        test_error = 100 * (1 - float(evaluate_batches(curve.training.model, batches, task).metrics["top1"]))
        curve.points.append({"step": curve.training.step, "test_error": test_error, **averages})
    rows = [{"network": curve.name, "seed": curve.seed, **curve.points[-1], "s": seconds} for curve in curves]
    result.set_rows("last evaluation: errors in %, training averages since the one before", rows)
    result.set_data("curves", [{"network": c.name, "seed": c.seed, "points": c.points} for c in curves])


def run_seeds(
    seeds: list[int], recipe: Recipe, data: DatasetSplits, train: TensorImageDataset, args: PartArgs, result: PartResult
) -> list[Curve]:
    """Train all networks of these seeds together to the end of the schedule that the time allows."""
    curves = [
        Curve(GraphTraining(name, seed, recipe, train, data.preprocess, data.num_classes), name, seed)
        for seed in seeds
        for name in NETWORKS
    ]
    timed_steps = 2 if args.small else TIMED_STEPS
    advance_all(curves, recipe, timed_steps)  # also warms up
    start = time.perf_counter()
    advance_all(curves, recipe, timed_steps)
    step_seconds = (time.perf_counter() - start) / timed_steps
    budget = max(0.0, result.seconds_left - 3 * NUM_EVALUATIONS)
    affordable = round(0.9 * budget / step_seconds)
    num_steps = 8 if args.small else min(FULL_STEPS, max(10 * timed_steps, affordable // 100 * 100))
    schedule = shortened(recipe, num_steps)
    scale = "the paper's schedule" if num_steps == FULL_STEPS else f"a schedule shortened from {FULL_STEPS:,}"
    result.note(
        f"{len(curves)} networks together: {1e3 * step_seconds:.2f} ms a step of all, so {num_steps:,} steps, {scale}"
    )
    start = time.perf_counter()
    for number in range(1, NUM_EVALUATIONS + 1):
        target = num_steps * number // NUM_EVALUATIONS
        if target <= curves[0].training.step:
            continue
        advance_all(curves, schedule, target - curves[0].training.step)
        evaluate_all(curves, data, result, time.perf_counter() - start)
        result.set_line(describe(curves, num_steps))
        if result.seconds_left < 2:
            result.note(f"stopped at step {curves[0].training.step:,} of {num_steps:,}: the time is over")
            break
    return curves


def describe(curves: list[Curve], num_steps: int) -> str:
    """Return the test errors of each network, mean over its seeds."""
    texts = []
    for name in NETWORKS:
        errors = [curve.points[-1]["test_error"] for curve in curves if curve.name == name]
        texts.append(f"{name.removesuffix('_cifar')} {mean_and_std(errors)} %")
    return f"test error after {curves[0].training.step:,} of {num_steps:,} steps: {', '.join(texts)}"


def choose_num_seeds(recipe: Recipe, data: DatasetSplits, train: TensorImageDataset, result: PartResult) -> int:
    """Return how many seeds of all networks fit with 64,000 steps, by the time of one; at least one."""
    curves = [
        Curve(GraphTraining(name, 0, recipe, train, data.preprocess, data.num_classes), name, 0) for name in NETWORKS
    ]
    advance_all(curves, recipe, TIMED_STEPS)
    start = time.perf_counter()
    advance_all(curves, recipe, TIMED_STEPS)
    needed = FULL_STEPS * (time.perf_counter() - start) / TIMED_STEPS
    return max(1, min(MAX_SEEDS, int(0.8 * result.seconds_left / needed)))


def main(args: PartArgs) -> int:
    """Train as many seeds as fit."""
    result = PartResult(args.result, args.seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = find_recipe("he2015-cifar")
    if args.small:
        recipe = replace(recipe, batch_size=16)
    data, train = open_data(args, device)
    with deterministic_mode():
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        num_seeds = 1 if args.small else choose_num_seeds(recipe, data, train, result)
        run_seeds(list(range(num_seeds)), recipe, data, train, args, result)
    result.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_part_args(__doc__)))
