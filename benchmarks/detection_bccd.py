"""Detection of blood cells: RetinaNet and Faster R-CNN on ResNet-18, from random weights or from a classification run.

`python benchmarks/detection_bccd.py BCCD --output DIR`: BCCD is a folder with JPEGImages/, Annotations/ and ImageSets/.
Each setting trains on `train` and `val`, with the weights of the last step, and is evaluated once on `test`: the images
alone, and with test-time augmentation the images and their three mirror images. With `--tune` it trains on `train` and
is evaluated on `val`. Time is that of the processor (user and system, all threads), of training and of its
evaluations. The setting `pretrained` takes a classification run (`--backbone RUN`), or trains one on CIFAR-10
(`--cifar10 DIR`). What a training measured is kept in DIR and not measured again, so that seeds can run side by side,
and one more call makes the table.
"""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from side_by_side import add_json_option, report
from tables import Column

RETINANET, FASTER_RCNN = "retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320"
TTA = "flip vertical-flip"
BACKBONE, BACKBONE_SIZE, BACKBONE_BATCH = "resnet18", 64, 256
METRICS = {
    "ap50": "AP50",
    "ap": "AP",
    "ap75": "AP75",
    "voc_map": "VOC mAP",
    "tta_ap50": "AP50, 4 views",
    "tta_ap": "AP, 4 views",
    "minutes": "processor minutes",
}
LARGER = {
    "model.min_size": "416",
    "model.max_size": "416",
    "model.anchor_sizes": "16,32,64,128,256",
    "train_transform": "flip vertical-flip",
    "duration": "16 epochs",
    "eval_interval": "8",
}


@dataclass(frozen=True)
class Setting:
    """A row of the table: a network, overrides of the recipe `detection-small`, and whether it needs a backbone."""

    title: str
    model: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    is_pretrained: bool = False


SETTINGS = {
    "retinanet": Setting("RetinaNet, 15 epochs (the recipe)", RETINANET),
    "retinanet-416": Setting("RetinaNet, 416 pixels, 16 epochs, vertical flips", RETINANET, LARGER),
    "faster-rcnn": Setting("Faster R-CNN, 15 epochs (the recipe)", FASTER_RCNN),
    "pretrained": Setting("RetinaNet, 15 epochs, backbone trained on CIFAR-10", RETINANET, is_pretrained=True),
}


def link_splits(source: Path, folder: Path, splits: dict[str, tuple[str, ...]]) -> Path:
    """Return a dataset in VOC's layout with the images of `source`, whose splits join some of the source's."""
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for name in ("JPEGImages", "Annotations"):
        if not (folder / name).exists():
            (folder / name).symlink_to((source / name).resolve())
    for split, parts in splits.items():
        texts = [(source / "ImageSets" / "Main" / f"{part}.txt").read_text().strip() for part in parts]
        (lists / f"{split}.txt").write_text("\n".join(texts) + "\n")
    return folder


def find_backbone(args: argparse.Namespace) -> Path:
    """Return the classification run that was given, or train it on CIFAR-10."""
    run_path: Path = args.backbone or args.output / "backbone"
    if args.backbone is None and not (run_path / "model.safetensors").exists():
        from reslab.training.train import train

        settings = {"epochs": args.backbone_epochs, "batch_size": BACKBONE_BATCH, "image_size": BACKBONE_SIZE}
        run = train(BACKBONE, args.cifar10, "cifar", output=run_path, **settings)
        print(f"{BACKBONE} on CIFAR-10, {args.backbone_epochs:g} epochs: accuracy {run.main_metric:.2%}", flush=True)
    return run_path


def measure(name: str, data: Path, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train and evaluate one network; return its metrics and the minutes of the processor that training took."""
    kept = args.output / f"{name}-seed{seed}.json"
    if kept.exists():
        numbers: dict[str, float] = json.loads(kept.read_text())
        return numbers
    from reslab.training.evaluation.evaluate import evaluate
    from reslab.training.train import train

    setting = SETTINGS[name]
    overrides = {**setting.overrides, **dict(item.split("=", 1) for item in args.set)}
    backbone = find_backbone(args) if setting.is_pretrained else None
    start = os.times()
    run = train(
        setting.model,
        data,
        "detection-small",
        seed=seed,
        epochs=args.epochs,
        pretrained=backbone,
        overrides=overrides,
        output=args.output / f"{name}-seed{seed}",
    )
    stop = os.times()
    minutes = (sum(stop[:4]) - sum(start[:4])) / 60
    result = run.result
    assert result is not None
    augmented = evaluate(run, tta=TTA).to_dict()
    numbers = {key: result[key] for key in ("ap50", "ap", "ap75", "voc_map")}
    numbers |= {f"tta_{key}": augmented[key] for key in ("ap50", "ap")} | {"minutes": minutes}
    text = ", ".join(f"{METRICS[key]} {value:.3f}" for key, value in numbers.items())
    print(f"{name}, seed {seed}, on {result['num_samples']} {result['split']} images: {text}", flush=True)
    kept.write_text(json.dumps(numbers))
    return numbers


def main() -> None:
    """Train every setting with every seed, and print mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, metavar="NAME", help=", ".join(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cifar10", help="folder of CIFAR-10; without it `pretrained` needs --backbone")
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--backbone-epochs", type=float, default=3)
    parser.add_argument("--epochs", type=float, help="in place of those of each setting")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tune", action="store_true", help="train on `train`, evaluate on `val`, use no test image")
    parser.add_argument("--output", type=Path, required=True)
    add_json_option(parser)
    args = parser.parse_args()
    splits = {"train": ("train",), "val": ("val",)} if args.tune else {"train": ("train", "val"), "test": ("test",)}
    data = link_splits(args.data, args.output / "data", splits)
    has_backbone = bool(args.backbone or args.cifar10)
    possible = [name for name, setting in SETTINGS.items() if has_backbone or not setting.is_pretrained]
    rows: list[dict[str, object]] = []
    for name in args.settings or possible:
        results = [measure(name, data, args, seed) for seed in args.seeds]
        rows.append(
            {
                "name": SETTINGS[name].title,
                "seeds": len(results),
                **{key: [result[key] for result in results] for key in METRICS},
            }
        )
    columns = [
        Column("name", "network"),
        Column("seeds", "seeds", "d"),
        *(Column(key, heading, ".1f" if key == "minutes" else ".3f", mean=True) for key, heading in METRICS.items()),
    ]
    report(args.json, f"{'validation' if args.tune else 'test'} images", columns, rows)


if __name__ == "__main__":
    main()
