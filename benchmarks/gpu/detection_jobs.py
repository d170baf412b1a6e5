"""The trainings of the part `detection`: which there are, in which order, and how one is run."""

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from detection_bccd import link_splits
from PIL import Image

from reslab.data.boxes import BoxImageDataset
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import FileImageDataset, decode_all
from reslab.data.registry import open_dataset
from reslab.spec.papers import get_study
from reslab.studies.resolve import row_overrides
from reslab.training.train import train

RETINANET, FASTER_RCNN = "retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320"
RECIPE, RECIPE_EPOCHS, LONG_EPOCHS = "detection-small", 15.0, 45.0
STUDY, STUDY_ROWS, STUDY_EPOCHS = "he2015/detection", ("residual-18", "plain-18"), 10.0
SEEDS, CHOICE_SEED = (0, 1, 2), 10
TRANSFORMS = ("flip", "flip vertical-flip", "flip vertical-flip color-jitter(0.2,0.2,0.2)")
BACKBONE, BACKBONE_EPOCHS, BACKBONE_SIZE, BACKBONE_BATCH = "resnet18", 15.0, 64, 512
SPLITS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "test": {"train": ("train", "val"), "test": ("test",)},
    "val": {"train": ("train",), "val": ("val",)},
    "study": {"train": ("train",), "val": ("val",), "test": ("test",)},
}
"""The splits of trainings that are evaluated on test images, of choices, and of the study, from those of BCCD."""
NUM_STEPS_PER_EPOCH = {"test": 36, "val": 25, "study": 25}
_FASTER_RCNN_COST = 1.5  # of a step, relative to RetinaNet
_LAST_EVALUATION_ONLY = ("eval_interval", "100000")
_TINY = {
    "model.depths": "1,1,1,1", "model.widths": "4,8,8,8", "model.stem": "conv3/2(4) norm act", "model.min_size": "32",
    "model.max_size": "32", "model.pyramid_channels": "64", "batch_size": "2", "duration": "2 steps",
    "precision": "float32",
}  # fmt: skip
_TINY_REGIONS = {"model.roi_batch_size": "8", "model.proposals": "16,8"}


class Group(StrEnum):
    """What a training is for; the value is the title of its rows."""

    RECIPE = "RetinaNet, the recipe detection-small (aim: AP50 0.87)"
    STUDY = "study he2015/detection at scale short"
    CHOICE = "RetinaNet, choice of the transform of the long training, on validation images"
    LONG = "RetinaNet, three times the epochs (aim: AP50 0.90)"
    FASTER_RCNN = "Faster R-CNN, the recipe detection-small"
    BACKBONE = "ResNet-18 on CIFAR-10"
    PRETRAINED = "RetinaNet, the recipe detection-small, backbone from CIFAR-10"
    FASTER_RCNN_LONG = "Faster R-CNN, three times the epochs"


@dataclass(frozen=True)
class Job:
    """A training: of a detector with a seed, or of the backbone. `after` is the group that must have ended before."""

    group: Group
    name: str
    seed: int
    epochs: float
    splits: str = "test"
    transform: str = ""
    after: Group | None = None

    @property
    def cost(self) -> float:
        """The steps, in those of RetinaNet; of the backbone, a guess."""
        weight = _FASTER_RCNN_COST if self.name == FASTER_RCNN else 1.0
        return weight * self.epochs * NUM_STEPS_PER_EPOCH[self.splits]


def list_jobs(*, has_cifar10: bool, small: bool) -> list[Job]:
    """Return all trainings, the most valuable first; the small ones have one seed."""
    seeds = SEEDS[:1] if small else SEEDS
    jobs = [Job(Group.RECIPE, RETINANET, seed, RECIPE_EPOCHS) for seed in seeds]
    jobs += [Job(Group.STUDY, row, seed, STUDY_EPOCHS, "study") for seed in seeds for row in STUDY_ROWS]
    transforms = TRANSFORMS[:2] if small else TRANSFORMS
    jobs += [Job(Group.CHOICE, RETINANET, CHOICE_SEED, LONG_EPOCHS, "val", transform) for transform in transforms]
    jobs += [Job(Group.LONG, RETINANET, seed, LONG_EPOCHS, after=Group.CHOICE) for seed in seeds]
    jobs += [Job(Group.FASTER_RCNN, FASTER_RCNN, seed, RECIPE_EPOCHS) for seed in seeds]
    if has_cifar10:
        jobs.append(Job(Group.BACKBONE, BACKBONE, 0, BACKBONE_EPOCHS))
        jobs += [Job(Group.PRETRAINED, RETINANET, seed, RECIPE_EPOCHS, after=Group.BACKBONE) for seed in seeds]
    jobs += [Job(Group.FASTER_RCNN_LONG, FASTER_RCNN, seed, LONG_EPOCHS, after=Group.CHOICE) for seed in seeds]
    return jobs


def make_run(cifar10: Path | None, folder: Path, small: bool) -> Callable[[Job], dict[str, Any]]:
    """Return the function that runs a job in this process; `folder`, which all share, has the data and the backbone."""
    torch.set_num_threads(1 if small else 2)
    open_splits = functools.cache(lambda splits: open_in_memory(folder / f"data-{splits}"))

    def run(job: Job) -> dict[str, Any]:
        start = time.perf_counter()
        if job.group is Group.BACKBONE:
            assert cifar10 is not None
            values = train_backbone(job, cifar10, folder / "backbone", small)
        else:
            values = train_detector(job, open_splits(job.splits), folder, small)
        return values | {"s": time.perf_counter() - start}

    return run


def link_all_splits(source: Path, folder: Path) -> None:
    """Make a folder `data-NAME` for each of `SPLITS`, whose images are those of `source`."""
    for name, splits in SPLITS.items():
        link_splits(source, folder / f"data-{name}", dict(splits))


def open_in_memory(folder: Path) -> DatasetSplits:
    """Open images with boxes, decoded if they have one size: reading files would take longer than a step on a GPU."""
    data = open_dataset(folder, task="detection")
    splits = {name: _decoded(split) for name, split in data.splits.items() if isinstance(split, BoxImageDataset)}
    return replace(data, splits=splits)


def _decoded(split: BoxImageDataset) -> BoxImageDataset:
    images = split.images
    if not isinstance(images, FileImageDataset) or len(set(split.image_sizes())) > 1:
        return split
    names = tuple(images.name(i) for i in range(len(images)))
    return replace(split, images=replace(decode_all(images), names=names))


def train_detector(job: Job, data: DatasetSplits, folder: Path, small: bool) -> dict[str, Any]:
    """Train and evaluate a detector; return its metrics as fractions, its images, seconds and device."""
    model, overrides = detector_settings(job, small)
    output = folder / f"{job.group.name}-{job.name}-{job.seed}-{job.transform.replace(' ', '-')}"
    run = train(
        model,
        data,
        RECIPE,
        seed=job.seed,
        pretrained=folder / "backbone" if job.group is Group.PRETRAINED else None,
        overrides=overrides,
        output=output,
        workers=2 if torch.cuda.is_available() else 0,
        on_log=lambda record: None,
    )
    result, device = run.result, run.metadata["hardware"]["device_name"]
    assert result is not None
    shutil.rmtree(output)
    metrics = {title: result[name] for title, name in METRICS.items()}
    images = f"{result['num_samples']} {result['split']}"
    return {**metrics, "images": images, "train s": result["train_seconds"], "device": device}


METRICS = {"AP50": "ap50", "AP": "ap", "AP75": "ap75", "VOC mAP": "voc_map"}


def detector_settings(job: Job, small: bool) -> tuple[str, dict[str, str]]:
    """Return the network's name and the overrides of a training."""
    if job.group is Group.STUDY:
        study = get_study(STUDY)
        row = study.get_row(job.name)
        preset = study.preset_for(row, "short")
        assert (preset.recipe or row.recipe) == RECIPE
        model, overrides = preset.model or row.model, row_overrides(row, preset)
    else:
        model, overrides = job.name, dict([("duration", f"{job.epochs:g} epochs"), _LAST_EVALUATION_ONLY])
    if job.transform:
        overrides["train_transform"] = job.transform
    if small:
        overrides |= _TINY | ({} if model.startswith("retinanet") else _TINY_REGIONS)
    return model, overrides


def train_backbone(job: Job, cifar10: Path, output: Path, small: bool) -> dict[str, Any]:
    """Train the classification network on CIFAR-10; return its accuracy and seconds."""
    tiny = {name: value for name, value in _TINY.items() if name.startswith("model.") and "size" not in name}
    tiny.pop("model.pyramid_channels")
    run = train(
        job.name,
        cifar10,
        "cifar",
        seed=job.seed,
        epochs=None if small else job.epochs,
        batch_size=16 if small else BACKBONE_BATCH,
        image_size=BACKBONE_SIZE,
        overrides={**tiny, "duration": "2 steps"} if small else {},
        output=output,
        on_log=lambda record: None,
    )
    assert run.result is not None
    device = run.metadata["hardware"]["device_name"]
    num_images = run.metadata["data"]["num_images"]["train"]
    values = {"accuracy": run.result["top1"], "train s": run.result["train_seconds"], "device": device}
    return values | {"training images": num_images}


def make_small(folder: Path) -> Path:
    """Write a few drawn shapes as BCCD has its images: enough to try every training, not to measure anything."""
    data = open_dataset("drawn-shapes")
    lists = folder / "ImageSets" / "Main"
    for path in (folder / "JPEGImages", folder / "Annotations", lists):
        path.mkdir(parents=True)
    for split, source, indices in (
        ("train", "train", range(6)),
        ("val", "train", range(6, 10)),
        ("test", "test", range(4)),
    ):
        images = data.split(source)
        for i in indices:
            pixels, name = images.load_image(i), f"{split}-{i}"
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / "JPEGImages" / f"{name}.png")
            height, width = pixels.shape[1:]
            (folder / "Annotations" / f"{name}.xml").write_text(_voc_xml(images[i][1], data.classes, height, width))
        (lists / f"{split}.txt").write_text("".join(f"{split}-{i}\n" for i in indices))
    return folder


def _voc_xml(target: Mapping[str, Any], classes: tuple[str, ...], height: int, width: int) -> str:
    """Return the annotations of an image as VOC has them: boxes from pixel 1, both ends included."""
    objects = ""
    for (x1, y1, x2, y2), label in zip(target["boxes"].int().tolist(), target["labels"].tolist(), strict=True):
        sides = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        objects += f"<object><name>{classes[label - 1]}</name><bndbox>{sides}</bndbox></object>"
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"
