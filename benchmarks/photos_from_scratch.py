"""Train on photographs from random weights: reslab's default recipe against a minimal torchvision script.

    python benchmarks/photos_from_scratch.py FOLDER --size 64 --epochs 10 --seeds 5 \
        --candidate "adamw: optimizer=adamw optimizer.lr=2e-3"

FOLDER holds `train` and `val` with a folder for each class. Every candidate trains a ResNet-18 for the same number of
epochs on the same split. The torchvision script is the usual one: random resized crops, flips, AdamW with one-cycle at
2e-3, batches of 32, float32. `--candidate` adds reslab with changes of its default recipe. The accuracy is that of the
last epoch on `val`, so that no epoch is selected; with `--shards DIR --classes cat,dog` FOLDER is made from CIFAR-10 in
WebDataset shards, enlarged to `--size`: 560 training and 500 validation images of each class.
"""

import argparse
import io
import shlex
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from side_by_side import add_json_option, report
from tables import Column
from torch import nn

from reslab.data.loader import eval_loader
from reslab.data.registry import open_dataset
from reslab.nn.network import ResidualNetwork
from reslab.training.train import train

BATCH_SIZE = 32
NUM_TRAIN, NUM_VAL = 560, 500
Candidate = Callable[[int], float]


def train_torchvision(folder: Path, size: int, epochs: int, seed: int) -> float:
    """Train torchvision's ResNet-18 with AdamW and one-cycle; return the accuracy on `val` after the last epoch."""
    from torchvision import models, transforms
    from torchvision.datasets import ImageFolder

    torch.manual_seed(seed)
    normalize = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    crop_and_flip = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    train_data = ImageFolder(folder / "train", transforms.Compose([*crop_and_flip, *normalize]))
    val_data = ImageFolder(folder / "val", transforms.Compose([*center, *normalize]))
    batches = torch.utils.data.DataLoader(train_data, BATCH_SIZE, shuffle=True, drop_last=True)
    model = models.resnet18(num_classes=len(train_data.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    return evaluate(model.eval(), torch.utils.data.DataLoader(val_data, 250))


def train_reslab(folder: Path, size: int, epochs: int, overrides: Mapping[str, str], seed: int) -> float:
    """Train reslab's ResNet-18 by the default recipe with changes; return the accuracy after the last epoch."""
    data = open_dataset(folder)
    val = data.split("val")
    # Training evaluates after every epoch: on few images here, because only the last epoch counts.
    splits = {**data.splits, "val": val.subset(range(0, len(val), 50))}
    num_steps = epochs * (len(data.split("train")) // BATCH_SIZE)
    accuracies: list[float] = []

    def evaluate_last(step: int, model: ResidualNetwork) -> dict[str, float]:
        accuracies.append(evaluate(model.eval(), eval_loader(val, 250, model.preprocess, torch.device("cpu"))))
        return {"full_top1": accuracies[-1]}

    with tempfile.TemporaryDirectory() as temporary:
        train(
            "resnet18", replace(data, splits=splits), "photos-scratch", seed=seed, epochs=epochs,
            image_size=size, overrides=overrides, output=Path(temporary) / "run", workers=0,
            on_log=lambda record: None, on_step_end=evaluate_last, hook_every_steps=num_steps,
        )  # fmt: skip
    return accuracies[0]


def evaluate(model: nn.Module, batches: Iterable[Sequence[torch.Tensor]]) -> float:
    """Return the accuracy of a network in evaluation mode on batches that begin with images and labels."""
    correct, count = 0, 0
    with torch.inference_mode():
        for images, labels, *_ in batches:
            correct, count = correct + int((model(images).argmax(1) == labels).sum()), count + len(labels)
    return correct / count


def export_cifar(shards: Path, classes: list[str], folder: Path, size: int) -> None:
    """Write the first images of two or more classes of CIFAR-10 as an image folder, enlarged to `size` pixels."""
    names = (shards / "classes.txt").read_text(encoding="utf-8").split()
    count: Counter[str] = Counter()
    for shard in sorted(shards.glob("train-*.tar")):
        items: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, extension = member.name.rsplit(".", 1)
                file = tar.extractfile(member)
                assert file is not None
                items.setdefault(key, {})[extension] = file.read()
        for item in items.values():
            name = names[int(item["cls"])]
            index, count[name] = count[name], count[name] + 1
            if name in classes and index < NUM_TRAIN + NUM_VAL:
                path = folder / ("train" if index < NUM_TRAIN else "val") / name / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.open(io.BytesIO(item["webp"])).convert("RGB")
                image.resize((size, size), Image.Resampling.BICUBIC).save(path)
        if all(count[name] >= NUM_TRAIN + NUM_VAL for name in classes):
            return


def make_rows(accuracies: Mapping[str, list[float]]) -> list[dict[str, object]]:
    """Return the accuracies of each candidate in percent, and their paired differences from the first one's."""
    base_name, base = next(iter(accuracies.items()))
    rows: list[dict[str, object]] = []
    for name, own in accuracies.items():
        gains = [100 * (value - base_value) for value, base_value in zip(own, base, strict=True)]
        rows.append({"name": name, "accuracy": [100 * value for value in own], "seeds": len(own),
                     "gain": None if name == base_name else gains})  # fmt: skip
    return rows


def make_candidates(args: argparse.Namespace) -> dict[str, Candidate]:
    """Return torchvision's script, reslab's default, and reslab with the changes of each `--candidate`."""
    folder, size, epochs = args.folder, args.size, args.epochs
    candidates: dict[str, Candidate] = {}
    if not args.only_candidates:
        candidates["torchvision"] = lambda seed: train_torchvision(folder, size, epochs, seed)
        candidates["reslab"] = lambda seed: train_reslab(folder, size, epochs, {}, seed)
    for text in args.candidate:
        name, _, changes = text.partition(":")
        overrides = dict(change.split("=", 1) for change in shlex.split(changes))
        candidates[name] = lambda seed, overrides=overrides: train_reslab(folder, size, epochs, overrides, seed)  # type: ignore[misc]
    return candidates


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidate", action="append", default=[], metavar="NAME: KEY=VALUE ...")
    parser.add_argument("--only-candidates", action="store_true", help="leave out torchvision and the default recipe")
    parser.add_argument("--shards", type=Path, help="make FOLDER from CIFAR-10 in these WebDataset shards")
    parser.add_argument("--classes", default="cat,dog")
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.shards is not None and not args.folder.exists():
        export_cifar(args.shards, args.classes.split(","), args.folder, args.size)
    candidates = make_candidates(args)
    accuracies: dict[str, list[float]] = {name: [] for name in candidates}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name, run in candidates.items():
            accuracies[name].append(run(seed))
            print(f"seed {seed}, {name}: {100 * accuracies[name][-1]:.2f} %", flush=True)
    columns = [
        Column("name", "candidate"),
        Column("accuracy", "accuracy, %", ".2f", mean=True),
        Column("seeds", "seeds", "d"),
        Column("gain", f"points above {next(iter(accuracies))}, paired", "+.2f", mean=True),
    ]
    title = f"ResNet-18 at {args.size} pixels, {args.epochs} epochs, batches of {BATCH_SIZE}"
    report(args.json, title, columns, make_rows(accuracies))


if __name__ == "__main__":
    main()
