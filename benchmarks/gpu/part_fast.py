"""Time to accuracy on CIFAR-10: the recipes fast-gpu and fast-gpu-96, several seeds.

The time is that of the training loop alone, from the first step to the last: the network is compiled and the kernels
are chosen before, on steps whose effect is undone, and nothing is evaluated in between. The test set is evaluated once,
at the end, in float32: each image once, and also with test-time augmentation.

Changes of the recipe are first tried on 5,000 of the training images that are held out; the best of `trials`, and then
the shortest of `durations` that is accurate enough, is then trained on all of them with seeds that took no part.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from cifar import NORMALIZE, open_cifar10
from graphs import synchronize
from part_result import PartArgs, PartResult, mean_and_std, parse_part_args
from torch import nn

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset
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
from reslab.training.setup_model import fit_first_layers
from reslab.training.setup_recipe import resolve_precision
from reslab.training.tasks.registry import find_task_type

EVAL_BATCH_SIZE = 1000
SMALL = {"batch_size": 16, "duration": "2 steps", "compile": "false"}
NUM_HELD_OUT = 5000
RESERVE_SECONDS = 50.0
FIRST_TRIAL_SEED = 100
MIN_GAIN = 0.001
"""The least gain in accuracy on the held-out images for which a change is kept; a smaller one may be chance."""
MARGIN = 0.002
"""How far above the goal the mean accuracy on the held-out images must be for a shorter duration to be kept."""


@dataclass(frozen=True)
class Goal:
    """An accuracy to reach with a recipe within some seconds.

    `trials` are changes to try with `num_trial_seeds`, `durations` shorter ones than the recipe's, from the shortest
    on; `tta` is the test-time augmentation that counts.
    """

    recipe: str
    accuracy: float
    seconds: float
    max_seeds: int
    tta: str
    trials: tuple[Mapping[str, str], ...] = ()
    durations: tuple[str, ...] = ()
    num_trial_seeds: int = 2


GOALS = (
    Goal("fast-gpu", 0.94, 5.0, 5, "flip shift(1)", ({},), ("8 epochs", "10 epochs")),
    Goal(
        "fast-gpu-96",
        0.96,
        40.0,
        3,
        "flip shift(1)",
        (
            {},
            {"train_transform": "pad(4,reflect) crop(32) alternating-flip cutout(14,120)"},
            {"optimizer.lr": "0.18"},
        ),
        num_trial_seeds=1,
    ),
)


class FastTraining:
    """A network that is compiled once and trained from scratch for each seed, by the loop of `reslab train`."""

    def __init__(self, recipe: Recipe, axes: Mapping[str, str], data: DatasetSplits, device: torch.device) -> None:
        self.axes, self.data, self.device, self.recipe = dict(axes), data, device, resolve_precision(recipe, device)
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
            model = create_model(self.recipe.model, num_classes=self.data.num_classes, **self.axes)
        fit_first_layers(model, self.data, self.task)
        return model

    def warm_up(self, num_steps: int) -> float:
        """Compile, and let cuDNN and the allocator settle; return the seconds that it took."""
        start = time.perf_counter()
        self._run(self.loop, self.recipe, num_steps)
        synchronize()
        return time.perf_counter() - start

    def train(self, seed: int, recipe: Recipe, data: DatasetSplits) -> tuple[float, int]:
        """Train from the weights of this seed; return the seconds and the number of steps."""
        self.model.load_state_dict(self._make_model(seed).state_dict())
        loop = replace(
            self.loop,
            loader=make_train_loader(recipe, data, seed, self.device),
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

    def evaluate(self, data: DatasetSplits, tta: str = "") -> float:
        """Return the accuracy on the test set, in float32."""
        model = TTATransforms(self.model, tta) if tta else self.model
        batches = eval_loader(data.split("test"), EVAL_BATCH_SIZE, data.preprocess, self.device)
        return float(evaluate_batches(model, batches, self.task, split="test").metrics["top1"])


def with_normalization(data: DatasetSplits, recipe: Recipe) -> DatasetSplits:
    """Return the data with the recipe's mean and deviation of each channel."""
    normalize = recipe.normalize
    return replace(data, preprocess=replace(data.preprocess, mean=normalize.mean, std=normalize.std))


def hold_out(data: DatasetSplits) -> DatasetSplits:
    """Return the data with the last training images as its test split."""
    train = data.split("train")
    assert isinstance(train, TensorImageDataset)
    num_held_out = min(NUM_HELD_OUT, len(train) // 10)
    parts = [
        replace(train, images=train.images[part], labels=train.labels[part], names=None)
        for part in (slice(-num_held_out), slice(-num_held_out, None))
    ]
    return replace(data, splits=dict(zip(("train", "test"), parts, strict=True)))


class GoalRun:
    """The trials and the final seeds of a goal, with one compiled network for each architecture."""

    def __init__(self, goal: Goal, args: PartArgs, result: PartResult, reserve: float) -> None:
        self.goal, self.result, self.small, self.reserve = goal, result, args.small, reserve
        assert args.data is not None
        self.recipe = override(find_recipe(goal.recipe), NORMALIZE | (SMALL if args.small else {}), kind="key")
        self.data = with_normalization(open_cifar10(args.data), self.recipe)
        self.title = f"{goal.recipe} ({self.recipe.duration}): {goal.accuracy:.0%} in {goal.seconds:g} s"
        self.last_seconds = 0.0
        self._trainings: dict[str, FastTraining] = {}

    def has_time(self) -> bool:
        """Return False if another training may not fit."""
        return self.small or self.result.seconds_left - self.reserve > 1.2 * self.last_seconds

    def training(self, change: Mapping[str, str]) -> FastTraining:
        """Return the compiled network of a change of axes of the model."""
        axes = {key.removeprefix("model."): value for key, value in change.items() if key.startswith("model.")}
        key = repr(sorted(axes.items()))
        if key not in self._trainings:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            training = self._trainings[key] = FastTraining(self.recipe, axes, self.data, device)
            seconds = training.warm_up(2 if self.small else 8)
            self.result.note(f"{self.goal.recipe} {axes or ''}: compiled and warmed up in {seconds:.1f} s")
        return self._trainings[key]

    def train(self, change: Mapping[str, str], seed: int, data: DatasetSplits, title: str) -> tuple[float, float]:
        """Train and evaluate once, and add the row; return the accuracy with augmentation and the seconds."""
        training, start = self.training(change), time.perf_counter()
        options = {key: value for key, value in change.items() if not key.startswith("model.")}
        recipe = override(training.recipe, options, kind="key") if options and not self.small else training.recipe
        seconds, num_steps = training.train(seed, recipe, data)
        flipped, augmented = (training.evaluate(data, tta) for tta in ("flip", self.goal.tta))
        text = " ".join(f"{key}={value}" for key, value in change.items())
        row = {"change": text, "seed": seed, "accuracy": training.evaluate(data), "with mirror image": flipped}
        row |= {f"with {self.goal.tta}": augmented, "s": seconds, "images/s": num_steps * recipe.batch_size / seconds}
        self.result.add(title, **row)
        self.last_seconds = time.perf_counter() - start
        return augmented, seconds

    def choose(self) -> Mapping[str, str]:
        """Return the change that is best on the held-out images, with the shortest duration that is accurate enough."""
        goal, data = self.goal, hold_out(self.data)
        title = f"{self.title}, on {len(data.split('test')):,} held-out training images"

        def score(change: Mapping[str, str]) -> float:
            seeds = range(FIRST_TRIAL_SEED, FIRST_TRIAL_SEED + (1 if self.small else goal.num_trial_seeds))
            return statistics.mean(self.train(change, seed, data, title)[0] for seed in seeds)

        scores = {
            index: score(change)
            for index, change in enumerate(goal.trials[: 1 if self.small else None])
            if self.has_time()
        }
        best = max(scores, key=lambda index: scores[index] - (MIN_GAIN if index else 0), default=0)
        for duration in goal.durations[: 1 if self.small else None]:
            shorter = {**goal.trials[best], "duration": duration}
            if self.has_time() and score(shorter) >= goal.accuracy + MARGIN:
                return shorter
        return goal.trials[best] if goal.trials else {}

    def run(self) -> str:
        """Choose, then train seed after seed while the time lasts; return the line of this goal."""
        goal, change = self.goal, self.choose()
        self.result.note(f"{goal.recipe}: chosen on the held-out images: {dict(change) or 'the recipe as it is'}")
        results: list[tuple[float, float]] = []
        for seed in range(1 if self.small else goal.max_seeds):
            if not self.has_time():
                self.result.note(f"{goal.recipe}: no time for seed {seed}")
                continue
            results.append(self.train(change, seed, self.data, self.title))
        if not results:
            return f"{goal.recipe}: no time for a seed"
        met = sum(accuracy >= goal.accuracy for accuracy, _ in results)
        percent = mean_and_std([100 * accuracy for accuracy, _ in results])
        seconds = mean_and_std([seconds for _, seconds in results])
        count = f"{met} of {len(results)} seeds at {goal.accuracy:.0%}"
        return f"{goal.recipe}: {percent} % with {goal.tta} in {seconds} s, {count}"


def main(args: PartArgs) -> int:
    """Try each goal; one that fails leaves the other."""
    result = PartResult(args.result, args.seconds)
    lines = []
    for index, goal in enumerate(GOALS):
        try:
            reserve = 0.0 if index == len(GOALS) - 1 else RESERVE_SECONDS
            lines.append(GoalRun(goal, args, result, reserve).run())
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
