"""Detection of blood cells: RetinaNet and Faster R-CNN on ResNet-18, from scratch or from a classification run.

`python benchmarks/detection_bccd.py BCCD --output DIR`: BCCD is a folder with JPEGImages/, Annotations/ and ImageSets/.
Each is evaluated on the images, and with test-time augmentation on the images and their three mirror images.
With `--tune` it trains on `train` and evaluates on `val`; otherwise it trains on both, with the weights of the last
step, and evaluates once on `test`. Time is that of the processor (user and system, all threads), of training and of
the evaluation after each epoch. `--backbone RUN` starts from a classification run.
"""

import argparse
import os
from pathlib import Path

from side_by_side import add_json_option, report
from tables import Column

TTA = "flip vertical-flip"
METRICS = {"ap50": "AP50", "ap": "AP", "ap75": "AP75", "voc_map": "VOC mAP", "tta_ap50": "AP50, four views",
           "tta_ap": "AP, four views", "minutes": "processor minutes"}  # fmt: skip
MODELS = ("retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320")


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


def measure(model: str, data: Path, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train and evaluate one network; return its metrics and the minutes of the processor that training took."""
    from reslab.training.evaluation.evaluate import evaluate
    from reslab.training.train import train

    overrides = dict(item.split("=", 1) for item in args.set)
    start = os.times()
    run = train(
        model,
        data,
        "detection-small",
        epochs=args.epochs,
        seed=seed,
        pretrained=args.backbone,
        overrides=overrides,
        output=args.output / f"{model}-seed{seed}",
    )
    stop = os.times()
    minutes = sum(stop[:4]) - sum(start[:4])
    result = run.result
    assert result is not None
    augmented = evaluate(run, tta=TTA).to_dict()
    numbers = {name: result[name] for name in ("ap50", "ap", "ap75", "voc_map")} | {"minutes": minutes / 60}
    numbers |= {f"tta_{name}": augmented[name] for name in ("ap50", "ap")}
    text = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if name != "minutes")
    print(f"{model}, seed {seed}: {text} on {result['num_samples']} {result['split']} images, "
          f"{numbers['minutes']:.1f} processor minutes", flush=True)  # fmt: skip
    return numbers


def main() -> None:
    """Train every network with every seed, and print mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tune", action="store_true", help="train on `train`, evaluate on `val`, use no test image")
    parser.add_argument("--output", type=Path, required=True)
    add_json_option(parser)
    args = parser.parse_args()
    splits = {"train": ("train",), "val": ("val",)} if args.tune else {"train": ("train", "val"), "test": ("test",)}
    data = link_splits(args.data, args.output / "data", splits)
    rows: list[dict[str, object]] = []
    for model in args.models:
        results = [measure(model, data, args, seed) for seed in args.seeds]
        rows.append(
            {"name": model, "seeds": len(results), **{key: [result[key] for result in results] for key in METRICS}}
        )
    columns = [
        Column("name", "network"),
        Column("seeds", "seeds", "d"),
        *(Column(key, heading, ".1f" if key == "minutes" else ".3f", mean=True) for key, heading in METRICS.items()),
    ]
    epochs = f"{args.epochs:g} epochs" if args.epochs else "epochs of the recipe"
    report(args.json, f"{'validation' if args.tune else 'test'} images, {epochs}", columns, rows)


if __name__ == "__main__":
    main()
