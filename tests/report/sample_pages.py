"""Pages to test with: small, but with everything a real one has."""

import numpy as np

from reslab.report.pages.classification import ClassificationResults, MisclassifiedImage
from reslab.report.pages.demo import DemoNetwork, DemoPage
from reslab.report.pages.run import RunPage
from reslab.spec.zoo import ARCHS


def sample_log(epochs: int = 8, loss: float = 2.0, top1: float = 0.4, split: str = "val") -> list[dict[str, object]]:
    """A log that falls and rises smoothly, one training and one evaluation line an epoch."""
    lines: list[dict[str, object]] = []
    for epoch in range(1, epochs + 1):
        now = {"step": 10 * epoch, "epoch": float(epoch)}
        falling, rising = loss / epoch, 1 - (1 - top1) / epoch
        rate = {"lr": 0.1 / epoch, "images_per_second": 1000.0, "seconds": 2.0 * epoch}
        lines.append({"kind": "train", "loss": falling, "top1": rising, **now, **rate})
        lines.append({"kind": "eval", "split": split, "loss": 1.2 * falling, "top1": 0.9 * rising, **now})
    return lines


def sample_confusion(num_classes: int, each: int = 30) -> list[list[int]]:
    """A confusion matrix with mistakes between neighbours."""
    confusion = np.zeros((num_classes, num_classes), dtype=int)
    for index in range(num_classes):
        confusion[index, index] = each - index % 4
        confusion[index, (index + 1) % num_classes] += index % 4
    return confusion.tolist()


def sample_layers(units: int = 3) -> list[dict[str, object]]:
    """The layers of a network of three stages, a stem and a head."""
    layers: list[dict[str, object]] = [{"name": "conv1", "output_shape": (16, 32, 32), "params": 432, "macs": 442368}]
    for stage in (1, 2, 3):
        for unit in range(units):
            shape = (16 * stage, 32 // stage, 32 // stage)
            layers.append({"name": f"layer{stage}.{unit}.conv1", "output_shape": shape, "params": 100, "macs": 1000})
            layers.append({"name": f"layer{stage}.{unit}.bn1", "output_shape": shape, "params": 32, "macs": 0})
    return [*layers, {"name": "fc", "output_shape": (10,), "params": 650, "macs": 640}]


def sample_mistakes(count: int, num_classes: int, side: int = 8) -> list[MisclassifiedImage]:
    """Noise that was called something else."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return [
        MisclassifiedImage(
            image, n % num_classes, (n + 1) % num_classes, 0.5 + 0.4 * n / count, 1 + n / count, f"img/{n:04d}.png"
        )
        for n, image in enumerate(images)
    ]


def sample_run(num_classes: int = 10, **changes: object) -> RunPage:
    """The page of a finished run; `changes` replace its fields."""
    confusion = sample_confusion(num_classes)
    num_samples, num_correct = sum(map(sum, confusion)), sum(row[index] for index, row in enumerate(confusion))
    values: dict[str, object] = {
        "title": "resnet20_cifar on digits",
        "metadata": {"model": "resnet20_cifar", "command": "reslab train --data digits"},
        "metrics": {
            "split": "val", "top1": num_correct / num_samples, "top5": None, "loss": 0.25,
            "num_samples": num_samples, "num_correct": num_correct, "selection_text": "the best of 8 evaluations",
        },
        "log": sample_log(),
        "layers": sample_layers(),
        "depth": 20,
        "params": 269722,
        "macs": 40551424,
        "arch": ARCHS["resnet20_cifar"],
    }  # fmt: skip
    results: dict[str, object] = {
        "classes": tuple(f"class {index}" for index in range(num_classes)),
        "confusion_matrix": confusion,
        "misclassified": sample_mistakes(5, num_classes),
    }
    results |= {name: changes.pop(name) for name in (*results, "calibration") if name in changes}
    page_values = {**values, **changes, "results": ClassificationResults(**results)}  # type: ignore[arg-type]
    return RunPage(**page_values)  # type: ignore[arg-type]


def profile(first: float, last: float, units: int = 9) -> list[tuple[str, float]]:
    """Gradient norms that go evenly from the first unit's to the last's."""
    return [(f"unit {n}", first * (last / first) ** (n / (units - 1))) for n in range(units)]


def sample_demo(residual: float = 0.97, plain: float = 0.91, **changes: object) -> DemoPage:
    """The page of a demonstration in which the accuracies are as given and the losses follow them."""
    networks = [
        DemoNetwork(
            name, sample_log(20, loss=8 * (1 - top1), top1=top1 / 2), norms, top1, 30.0, depth=56, params=855770
        )
        for name, top1, norms in (("resnet56", residual, profile(2, 1)), ("plain56", plain, profile(5000, 1)))
    ]
    return DemoPage(**{"title": "Two networks", "networks": networks, "num_samples": 360, **changes})  # type: ignore[arg-type]
