"""Time to accuracy on CIFAR-10: the recipes fast-gpu and fast-gpu-96, several seeds.

The time is that of the training loop alone, from the first step to the last: the network is compiled and the kernels
are chosen before, on steps whose effect is undone, and nothing is evaluated in between. The test set is evaluated once,
at the end, in float32: each image once, and also with its mirror image.
"""

import sys
import time
from dataclasses import dataclass, replace

import torch
from cifar import NORMALIZE, open_cifar10
from graphs import synchronize
from part_result import PartArgs, PartResult, mean_and_std, parse_part_args
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.data.rng import step_seed, temporary_seed
from reslab.nn.factory import create_model
from reslab.runtime.device import deterministic_mode
from reslab.runtime.distributed import ProcessGroup
from reslab.spec.config import override
from reslab.spec.optim import parse_duration
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import find_recipe
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.loop import TrainLoop
from reslab.training.meters import TrainMeter
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import compute_lr
from reslab.training.run_data import make_train_loader
from reslab.training.setup import build_train_loop
from reslab.training.setup_recipe import resolve_precision
from reslab.training.tasks.registry import find_task_type

EVAL_BATCH_SIZE = 1000
SMALL = {"batch_size": 16, "duration": "2 steps", "compile": "false"}


@dataclass(frozen=True)
class Goal:
    """An accuracy to reach with a recipe within some seconds; `trials` are overrides, each tried with one seed."""

    recipe: str
    accuracy: float
    seconds: float
    max_seeds: int
    trials: tuple[str, ...] = ()

    def jobs(self) -> list[tuple[str, int]]:
        """Return what to train: an override (empty: the recipe as it is) and a seed."""
        return [("", seed) for seed in range(self.max_seeds)] + [(trial, 0) for trial in self.trials]


TRIALS = (
    "duration=8 epochs",
    "duration=16 epochs",
    "optimizer.lr=0.4",
    "optimizer.lr=0.16",
    "optimizer.weight_decay=0.03",
)
GOALS = (
    Goal("fast-gpu", 0.94, 5.0, 5, TRIALS),
    Goal("fast-gpu-96", 0.96, 40.0, 3),
)


class FastTraining:
    """A network that is compiled once and trained from scratch for each seed, by the loop of `reslab train`."""

    def __init__(self, recipe: Recipe, data: DatasetSplits, device: torch.device) -> None:
        self.data, self.device, self.recipe = data, device, resolve_precision(recipe, device)
        self.task = find_task_type(data.task).for_data(data)
        self.model = self._make_model(0)
        loop = build_train_loop(
            self.model,
            self.recipe,
            data,
            self.task,
            seed=0,
            process_group=ProcessGroup(device=device),
            workers=0,
            custom_loss=None,
        )
        self.model = loop.model
        self.loop: TrainLoop = loop.wrapped(self.recipe.compile)

    def _make_model(self, seed: int) -> nn.Module:
        """Return the network that `reslab train` begins with under this seed."""
        with temporary_seed(step_seed(seed, -1)):
            return create_model(self.recipe.model, num_classes=self.data.num_classes)

    def warm_up(self, num_steps: int) -> float:
        """Compile, and let cuDNN and the allocator settle; return the seconds that it took."""
        start = time.perf_counter()
        self._run(self.loop, self.recipe, num_steps)
        synchronize()
        return time.perf_counter() - start

    def train(self, seed: int, recipe: Recipe) -> tuple[float, int]:
        """Train from the weights of this seed; return the seconds and the number of steps."""
        self.model.load_state_dict(self._make_model(seed).state_dict())
        loop = replace(
            self.loop,
            loader=make_train_loader(recipe, self.data, seed, self.device),
            optimizer=build_optimizer(self.model, recipe.optimizer),
            seed=seed,
        )
        num_steps = parse_duration(recipe.duration).num_steps(loop.loader.num_steps_per_epoch)
        synchronize()
        start = time.perf_counter()
        self._run(loop, recipe, num_steps)
        synchronize()
        return time.perf_counter() - start, num_steps

    def _run(self, loop: TrainLoop, recipe: Recipe, num_steps: int) -> None:
        steps_per_epoch = loop.loader.num_steps_per_epoch
        with deterministic_mode():
            loop.run(
                0,
                num_steps,
                lr_at=lambda step: compute_lr(recipe, step, num_steps, steps_per_epoch),
                meter=TrainMeter(),
                after_step=lambda step: False,
            )

    def evaluate(self, tta: str = "") -> float:
        """Return the accuracy on the test set, in float32."""
        model = TTATransforms(self.model, tta) if tta else self.model
        batches = eval_loader(self.data.split("test"), EVAL_BATCH_SIZE, self.data.preprocess, self.device)
        return float(evaluate_batches(model, batches, self.task, split="test").metrics["top1"])


def with_normalization(data: DatasetSplits, recipe: Recipe) -> DatasetSplits:
    """Return the data with the recipe's mean and deviation of each channel."""
    normalize = recipe.normalize
    return replace(data, preprocess=replace(data.preprocess, mean=normalize.mean, std=normalize.std))


def run_goal(goal: Goal, args: PartArgs, result: PartResult, last_goal: bool) -> str:
    """Train seed after seed while the time lasts; return the line of this goal."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = override(find_recipe(goal.recipe), NORMALIZE | (SMALL if args.small else {}), kind="key")
    assert args.data is not None
    training = FastTraining(recipe, with_normalization(open_cifar10(args.data), recipe), device)
    result.note(f"{goal.recipe}: compiled and warmed up in {training.warm_up(2 if args.small else 8):.1f} s")
    reached: list[float] = []
    seconds_needed: list[float] = []
    reserve = 0.0 if last_goal else 60.0
    for trial, seed in goal.jobs()[: 1 if args.small else None]:
        expected = 1.3 * max(seconds_needed, default=goal.seconds)
        if seconds_needed and result.seconds_left - reserve < expected:
            result.note(f"{goal.recipe}: no time for {trial or 'the recipe'}, seed {seed}")
            continue
        key, _, value = trial.partition("=")
        tried = override(training.recipe, {key: value}) if trial else training.recipe
        seconds, num_steps = training.train(seed, tried)
        accuracy, mirrored = training.evaluate(), training.evaluate("flip")
        row = {"change": trial, "seed": seed, "accuracy": accuracy, "with mirror image": mirrored, "s": seconds}
        title = f"{goal.recipe} ({recipe.duration}): {goal.accuracy:.0%} in {goal.seconds:g} s"
        result.add(title, **row, **{"images/s": num_steps * tried.batch_size / seconds})
        if not trial:
            reached.append(accuracy)
            seconds_needed.append(seconds)
    met = sum(accuracy >= goal.accuracy for accuracy in reached)
    percent = mean_and_std([100 * accuracy for accuracy in reached])
    count = f"{met} of {len(reached)} seeds at {goal.accuracy:.0%}"
    return f"{goal.recipe}: {percent} % in {mean_and_std(seconds_needed)} s, {count}"


def main(args: PartArgs) -> int:
    """Try each goal; one that fails leaves the other."""
    result = PartResult(args.result, args.seconds)
    lines = []
    for index, goal in enumerate(GOALS):
        try:
            lines.append(run_goal(goal, args, result, index == len(GOALS) - 1))
        except Exception as error:
            result.note(f"{goal.recipe} failed: {type(error).__name__}: {error}".splitlines()[0][:300])
            lines.append(f"{goal.recipe}: failed")
            if args.small:
                raise
        result.set_line("; ".join(lines))
    result.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_part_args(__doc__)))
