"""Segmentation of persons: a small network pretrained on CIFAR-10 against one from random weights.

`python benchmarks/segmentation_pennfudan.py PENNFUDAN --cifar10 CIFAR10 --output DIR`: PENNFUDAN is a folder with
PNGImages/ and PedMasks/, of which the last 20 images by name are the test images. The network is chosen on a fifth of
the other images (`--tune`); then it is trained on all of them, with the weights of the last step, and evaluated once.
`--backbone RUN` takes a classification run in place of the one that is trained on CIFAR-10.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from side_by_side import add_json_option, report
from tables import Column

NUM_TEST = 20
BACKBONE = "resnet20_cifar"
MODEL = "unet_resnet20_cifar"


def split_folder(source: Path, folder: Path) -> tuple[Path, Path]:
    """Link the images and masks into two datasets: `train`, and `whole` with the test images beside them."""
    images = sorted((source / "PNGImages").iterdir())
    for dataset in ("train", "whole"):
        for index, image in enumerate(images):
            split = "test" if index >= len(images) - NUM_TEST else "train"
            if dataset == "train" and split == "test":
                continue
            for kind, file in (("PNGImages", image), ("PedMasks", source / "PedMasks" / f"{image.stem}_mask.png")):
                link = folder / dataset / split / kind / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(file.resolve())
    return folder / "train", folder / "whole"


def train_backbone(data: str, output: Path, epochs: float) -> Path:
    """Train the backbone to classify CIFAR-10, and return the run."""
    from reslab.training.train import train

    run = train(BACKBONE, data, "cifar", epochs=epochs, overrides={"precision": "float32"}, output=output)
    print(f"{BACKBONE} on CIFAR-10, {epochs:g} epochs: accuracy {run.main_metric:.2%}")
    return run.path


def measure(name: str, data: Path, output: Path, args: argparse.Namespace, **options: Any) -> dict[str, object]:
    """Train on a folder; return the IoU of the persons on its test or validation images, and the processor time."""
    from reslab.training.evaluation.evaluate import evaluate
    from reslab.training.train import train

    start = sum(os.times()[:4])
    run = train(
        args.model,
        data,
        "segmentation",
        epochs=args.epochs,
        image_size=args.size,
        overrides={"precision": "float32"},
        output=output,
        **options,
    )
    evaluation = evaluate(run)
    ious = {row["name"]: row["iou"] for row in evaluation.per_class()["classes"]}
    row = {
        "name": name, "person": ious["person"], "background": ious["background"],
        "pixels": evaluation.pixel_accuracy, "minutes": (sum(os.times()[:4]) - start) / 60,
    }  # fmt: skip
    print(f"{row} on {evaluation.num_samples} {evaluation.split} images", flush=True)
    return row


def main() -> None:
    """Train the backbone, then the network for segmentation with its weights and with random ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cifar10", default="cifar10")
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--backbone-epochs", type=float, default=5)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--tune", action="store_true", help="use a fifth of the training images, and no test image")
    parser.add_argument("--output", type=Path, required=True)
    add_json_option(parser)
    args = parser.parse_args()
    train_data, whole_data = split_folder(args.data, args.output / "data")
    backbone = args.backbone or train_backbone(args.cifar10, args.output / "backbone", args.backbone_epochs)
    data, options = (train_data, {"val_fraction": 0.2}) if args.tune else (whole_data, {})
    rows = [
        measure(name, data, args.output / name.replace(" ", "-"), args, pretrained=pretrained, **options)
        for name, pretrained in (("pretrained on CIFAR-10", backbone), ("random", None))
    ]
    columns = [
        Column("name", "backbone"),
        Column("person", "IoU of persons", ".3f"),
        Column("background", "background", ".3f"),
        Column("pixels", "pixel accuracy", ".3f"),
        Column("minutes", "processor minutes", ".1f"),
    ]
    title = f"{args.model}, {args.size} pixels, {args.epochs:g} epochs, seed 0"
    report(args.json, title, columns, rows)


if __name__ == "__main__":
    main()
