"""Check the learning rate that `find_lr` suggests by trainings: against the best of a grid of rates, seed by seed.

    python benchmarks/lr_finder.py --cifar10 DIR --fashion DIR --photos DIR --weights FILE --seeds 5

Four tasks, by the data given: `cifar10` (WebDataset shards; 2,000 training and 2,000 validation images, resnet20_cifar,
6 epochs), `fashion` (Fashion-MNIST, 2,000 and 2,000 images, resnet8_fast, 6 epochs), and with the weights FILE of
resnet20_cifar `finetune` (1,000 and 2,000 images of Fashion-MNIST, 5 epochs) and `photos` (a folder with `train` and
`val`, at 32 pixels, 10 epochs). `--tasks` selects some of them. For every seed the range test
suggests a rate, and the default recipe trains with it and with each rate of the grid. The accuracy is that of the last
epoch on validation images. The best of the grid is chosen by its mean over the seeds on the same images, which favors
the grid. The target: the suggested rate loses at most 2 points.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from side_by_side import add_json_option, report
from tables import Column

from reslab.data.loader import eval_loader
from reslab.data.registry import open_dataset
from reslab.spec.preprocess import Preprocess
from reslab.training.lr_finder import find_lr
from reslab.training.meters import NonFiniteError
from reslab.training.options import TrainOptions
from reslab.training.train import train

CPU = torch.device("cpu")
GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
NUM_IMAGES = 4000  # half of them for validation


@dataclass(frozen=True)
class Task:
    """A training whose learning rate is sought: the options of both `find_lr` and `train`, and the epochs."""

    options: TrainOptions
    epochs: int


def make_tasks(args: argparse.Namespace) -> dict[str, Callable[[], Task]]:
    """Return the selected tasks whose data is given, each as a function that opens its data."""
    given = {
        "cifar10": args.cifar10,
        "fashion": args.fashion,
        "finetune": args.fashion and args.weights,
        "photos": args.photos and args.weights,
    }
    names = [name for name in given if given[name] and (not args.tasks or name in args.tasks.split(","))]
    return {name: partial(_make_task, name, args) for name in names}


def _make_task(name: str, args: argparse.Namespace) -> Task:
    if name == "cifar10":
        data = _first_images(str(args.cifar10), None)
        return Task(TrainOptions("resnet20_cifar", data, "cifar", val_fraction=0.5), epochs=6)
    if name == "photos":
        transforms = {
            "train_transform": "random-resized-crop(32) flip",
            "eval_transform": "resize(36) center-crop(32)",
        }
        options = TrainOptions(
            "resnet20_cifar", args.photos, "photos", recipe_overrides=transforms, arch_overrides=args.arch,
            pretrained=args.weights,
        )  # fmt: skip
        return Task(options, epochs=10)
    data = _first_images("fashion-mnist", args.fashion)
    if name == "fashion":
        arch = {"stem": "conv3/2(32) norm act"}
        return Task(TrainOptions("resnet8_fast", data, "fashion", arch_overrides=arch, val_fraction=0.5), epochs=6)
    options = TrainOptions(
        "resnet20_cifar", data, "photos", recipe_overrides={"train_transform": "pad(2) crop(28)"},
        arch_overrides=args.arch, pretrained=args.weights, val_fraction=0.5, num_images=1000,
    )  # fmt: skip
    return Task(options, epochs=5)


def _first_images(name: str, data_dir: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first training images of a dataset and their labels, uint8 (N, C, H, W) and int64 (N,)."""
    dataset = open_dataset(name, data_dir=data_dir)
    images = dataset.split("train").subset(range(NUM_IMAGES))
    channels = dataset.preprocess.channels
    unchanged = Preprocess(channels, "", (0.0,) * channels, (1 / 255,) * channels)
    batches = [(x, y) for x, y, _ in eval_loader(images, 500, unchanged, CPU)]
    return torch.cat([x for x, _ in batches]).round().to(torch.uint8), torch.cat([y for _, y in batches])


def train_at(task: Task, lr: float, seed: int) -> float:
    """Train with a learning rate; return the validation accuracy after the last epoch (0 if the loss diverges)."""
    options = task.options
    overrides = {**options.recipe_overrides, **{f"model.{key}": value for key, value in options.arch_overrides.items()}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        try:
            train(
                options.model, options.data, options.recipe, seed=seed, lr=lr, epochs=task.epochs, output=path,
                overrides=overrides, pretrained=options.pretrained, val_fraction=options.val_fraction,
                num_images=options.num_images, workers=0, on_log=lambda record: None,
            )  # fmt: skip
        except NonFiniteError as error:
            print(f"lr {lr:g}, seed {seed}: {error}")
            return 0.0
        records = [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([record["top1"] for record in records if record["kind"] == "eval"][-1])


def run_task(
    name: str, task: Task, seeds: Sequence[int], grid: Sequence[float], trained: dict[str, float]
) -> list[dict[str, object]]:
    """Return the rows of the table. `trained` has the accuracies known from before, by task, seed and rate."""

    def accuracy(lr: float, seed: int) -> float:
        key = f"{name} seed {seed} lr {lr:g}"
        if key not in trained:
            trained[key] = train_at(task, lr, seed)
        print(f"{key}: {100 * trained[key]:.2f} %", flush=True)
        return trained[key]

    accuracies: dict[float, list[float]] = {lr: [] for lr in grid}
    suggested_lrs: list[float] = []
    suggested: list[tuple[int, float]] = []  # the index of the seed, and the accuracy
    for index, seed in enumerate(seeds):
        result = find_lr(replace(task.options, seed=seed), CPU, workers=0)
        print(f"{name} seed {seed}: {result.verdict}, suggested {result.suggested_lr}", flush=True)
        if result.suggested_lr is not None:
            suggested_lrs.append(result.suggested_lr)
            suggested.append((index, accuracy(result.suggested_lr, seed)))
        for lr in grid:
            accuracies[lr].append(accuracy(lr, seed))
    return make_rows(name, accuracies, suggested_lrs, suggested)


def make_rows(
    name: str,
    accuracies: Mapping[float, list[float]],
    suggested_lrs: Sequence[float],
    suggested: Sequence[tuple[int, float]],
) -> list[dict[str, object]]:
    """Return one row for each rate of the grid and one for the suggested rates, with paired losses to the best."""
    best = max(accuracies, key=lambda lr: statistics.mean(accuracies[lr]))
    trained = {f"{lr:g}{' (best)' if lr == best else ''}": list(enumerate(own)) for lr, own in accuracies.items()}
    trained[f"suggested: {', '.join(f'{lr:.2g}' for lr in suggested_lrs) or 'none'}"] = list(suggested)
    return [
        {"task": name, "rate": label, "seeds": len(own), "accuracy": [100 * value for _, value in own],
         "gap": [100 * (accuracies[best][index] - value) for index, value in own]}
        for label, own in trained.items() if own
    ]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10 in WebDataset shards")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--photos", type=Path, help="image folder to fine-tune on")
    parser.add_argument("--weights", type=Path, help="weights of resnet20_cifar to fine-tune")
    parser.add_argument(
        "--arch", type=lambda text: dict([text.split("=", 1)]), default={}, metavar="AXIS=VALUE",
        help="an axis of the network that the weights require: shortcut=pad-split",
    )  # fmt: skip
    parser.add_argument("--tasks", default="", help="names of tasks, by commas (default: all whose data is given)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", type=lambda text: tuple(map(float, text.split(","))), default=GRID)
    parser.add_argument("--trained", type=Path, help="accuracies of trainings done before; the others are added")
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, object]] = []
    trained = json.loads(args.trained.read_text(encoding="utf-8")) if args.trained and args.trained.exists() else {}
    for name, make_task in make_tasks(args).items():
        rows += run_task(name, make_task(), range(args.first_seed, args.first_seed + args.seeds), args.grid, trained)
        if args.trained:
            args.trained.write_text(json.dumps(trained, indent=2) + "\n", encoding="utf-8")
    columns = [
        Column("task", "task"),
        Column("rate", "learning rate"),
        Column("seeds", "seeds", "d"),
        Column("accuracy", "accuracy, %", ".2f", mean=True),
        Column("gap", "points below the best of the grid, paired", ".2f", mean=True),
    ]
    report(args.json, "validation accuracy after the last epoch", columns, rows)


if __name__ == "__main__":
    main()
