"""Train every shortcut and order of chapter 9 on the digits with five seeds; write shortcuts_and_orders.csv beside it.

python docs/course/prepare/shortcuts_and_orders.py    (about five minutes on one core)
"""

import csv
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import reslab

SEEDS = range(5)
SMALL = {
    "depths": (6, 6, 6),
    "widths": (4, 8, 16),
    "stem": "conv3(4) norm act",
    "in_channels": 1,
    "num_classes": 10,
    "image_size": (8, 8),
}
ROWS: dict[str, dict[str, Any]] = {
    "original": {},
    "scale(0.5,0.5)": {"merge": "scale(0.5,0.5)"},
    "gate(0)": {"merge": "gate(0)"},
    "gate(-1)": {"merge": "gate(-1)"},
    "gate(-2)": {"merge": "gate(-2)"},
    "gate(-4)": {"merge": "gate(-4)"},
    "gate(-6)": {"merge": "gate(-6)"},
    "shortcut-gate(0)": {"merge": "shortcut-gate(0)"},
    "shortcut-gate(-6)": {"merge": "shortcut-gate(-6)"},
    "conv1x1-all": {"shortcut": "conv1x1-all"},
    "dropout(0.5) add": {"merge": "dropout(0.5) add"},
    "bn-after-add": {"order": "bn-after-add"},
    "relu-before-add": {"order": "relu-before-add"},
    "relu-preact": {"order": "relu-preact"},
    "full-preact": {"order": "full-preact"},
}


def train_row(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Train 38 layers with each seed; return mean and standard deviation of training loss and test error."""
    model = reslab.create_model("resnet110_cifar", **SMALL, **settings)
    results = [
        reslab.train(
            model.arch,
            "digits",
            epochs=3,
            seed=seed,
            output=folder / str(seed),
            overrides={"eval_train": True},
            on_log=lambda record: None,
        ).result
        for seed in SEEDS
    ]
    losses = [result["train_loss"] for result in results]
    errors = [100 * (1 - result["top1"]) for result in results]
    return {
        "train_loss": f"{mean(losses):.2f}",
        "train_loss_std": f"{stdev(losses):.2f}",
        "test_error": f"{mean(errors):.1f}",
        "test_error_std": f"{stdev(errors):.1f}",
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        rows = []
        for number, (name, settings) in enumerate(ROWS.items()):
            rows.append({"row": name} | train_row(settings, Path(temporary) / str(number)))
    with (Path(__file__).parent / "shortcuts_and_orders.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
