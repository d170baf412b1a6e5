"""Small runs on images with boxes, which one rank and two are compared on."""

import sys
from pathlib import Path
from typing import Any

from reslab.training.run import Run
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from box_files import CLASSES, write_coco, write_image, write_voc, write_yolo  # noqa: F401

TINY = {
    "model.depths": "1,1,1",
    "model.widths": "4,8,8",
    "model.stem": "conv3/2(4) norm act",
    "model.min_size": 48,
    "model.max_size": 64,
    "model.pyramid_channels": 8,
    "model.roi_batch_size": 16,
    "precision": "float32",
}


def boxes_run(data: Path, output: Path, **options: Any) -> Run:
    """Train a tiny detector; `detector` chooses its method."""
    overrides = {**TINY, "model.detector": options.pop("detector", "retinanet"), **options.pop("overrides", {})}
    options = {"model": "resnet20_cifar", "epochs": 2, "batch_size": 2, "overrides": overrides, **options}
    return train(data=data, output=output, seed=3, on_log=lambda line: None, device="cpu", workers=0, **options)
