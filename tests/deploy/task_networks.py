"""Networks of several tasks with random weights, as files that can be served."""

from pathlib import Path
from typing import Any

import torch

from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.segmentation import SegmentationNetwork
from reslab.spec.preprocess import Preprocess

PREPROCESS = Preprocess(3, "", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
TASKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "labels": ("resnet20_cifar", {"depths": (1, 1, 1)}, {"name": "multi-label", "thresholds": [0.3, 0.5, 0.999]}),
    "values": (
        "resnet20_cifar",
        {"depths": (1, 1, 1)},
        {"name": "regression", "mean": [40.0, 0.0, 1.0], "std": [12.0, 0.5, 3.0]},
    ),
    "masks": (
        "fcn_resnet50",
        {"backbone.depths": (1, 1, 1, 1), "backbone.widths": (8, 8, 8, 16)},
        {"name": "segmentation"},
    ),
}


def save_task_networks(folder: Path) -> dict[str, Path]:
    """Save a network of each task and return the files."""
    paths = {}
    for name, (model, axes, task) in TASKS.items():
        torch.manual_seed(1)
        network = create_model(model, num_classes=3, image_size=(32, 32), **axes)
        if isinstance(network, SegmentationNetwork):  # with random weights one class would win everywhere
            with torch.no_grad():
                network.classifier[-1].weight.mul_(100)
                network.classifier[-1].bias.zero_()
        network.set_metadata(classes=("ant", "bee", "cat"), preprocess=PREPROCESS, task=task)
        paths[name] = folder / f"{name}.safetensors"
        save_weights(paths[name], network)
    return paths
