"""Time to accuracy: train over several seeds and compare accuracy and training time with a claim.

    python benchmarks/time_to_accuracy.py fashion-0.895 --data-dir /usr/share/datasets/fashion-mnist --seeds 5

A record is a folder `benchmarks/records/DATE_IDEA/` with `record.py`, whose docstring states the claim and how the
settings were chosen, and `result.json` and `log.txt`, which this module writes.

Training time is that of all steps with their data, without evaluation, reading the data and writing the run.
"""

import argparse
import datetime
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslab.runtime.allocator import keep_freed_memory

keep_freed_memory()  # as reslab's commands do, before torch is imported

from side_by_side import machine_info  # noqa: E402
from tables import Column, make_result  # noqa: E402

from reslab.training.train import train  # noqa: E402


@dataclass(frozen=True)
class Claim:
    """A mean test accuracy of at least `accuracy` in at most `seconds` of training (mean), over all seeds."""

    data: str
    accuracy: float
    seconds: float
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None


CLAIMS: dict[str, Claim] = {
    "fashion-0.895": Claim("fashion-mnist", 0.895, 6, "fast-cpu"),
}


COLUMNS = [
    Column("seed", "seed"),
    Column("accuracy", "test accuracy", ".4f", mean=True),
    Column("seconds", "training, s", ".1f", mean=True),
]


def parse_args(description: str | None, names: bool = False) -> argparse.Namespace:
    """Parse the options of a record, or with `names` of this module."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if names:
        parser.add_argument("claim", choices=sorted(CLAIMS))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--data", help="the dataset's name, folder or shards (default: the claim's name)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the claim's settings")
    return parser.parse_args()


def measure(claim: Claim, args: argparse.Namespace) -> dict[str, Any]:
    """Train with every seed; print a line each and return the figures."""
    overrides = {**claim.overrides, **dict(override.split("=", 1) for override in args.set)}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    accuracies, seconds = [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                claim.model, args.data or claim.data, claim.recipe, seed=seed, data_dir=args.data_dir,
                overrides=overrides, output=Path(folder) / "run", on_log=lambda record: None,
            )  # fmt: skip
        assert run.result is not None
        accuracies.append(run.result["top1"])
        seconds.append(run.result["train_seconds"])
        print(f"seed {seed}: accuracy {accuracies[-1]:.4f}, {seconds[-1]:.1f} s of training", flush=True)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    mean_accuracy, mean_seconds = statistics.mean(accuracies), statistics.mean(seconds)
    print(f"accuracy: mean {mean_accuracy:.4f}, standard deviation {spread:.4f}; claim {claim.accuracy}")
    print(f"training: mean {mean_seconds:.1f} s, {min(seconds):.1f} to {max(seconds):.1f}; claim {claim.seconds} s")
    machine = machine_info()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: list[dict[str, Any]] = [{"seed": str(seed), "accuracy": accuracy, "seconds": time}
            for seed, accuracy, time in zip(seeds, accuracies, seconds, strict=True)]  # fmt: skip
    rows.append({"seed": "**mean**", "accuracy": accuracies, "seconds": seconds})
    title = f"{claim.recipe} on {claim.data}, claim: a mean accuracy of {claim.accuracy} in {claim.seconds:g} s"
    figures = {
        **make_result(title, COLUMNS, rows),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "claim": {"accuracy": claim.accuracy, "seconds": claim.seconds},
        "seeds": list(seeds),
        "accuracy": accuracies,
        "train_seconds": seconds,
        "machine": machine,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


if __name__ == "__main__":
    arguments = parse_args(__doc__, names=True)
    measure(CLAIMS[arguments.claim], arguments)
