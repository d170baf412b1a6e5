"""Time to accuracy: train over several seeds and compare accuracy and training time with an aim.

    python benchmarks/records/2026-11-29_fashion-muon/record.py --data-dir /usr/share/datasets/fashion-mnist --keep

A record is a folder `benchmarks/records/DATE_IDEA/` with `record.py`, whose docstring states the claim and how the
settings were chosen, and `result.json` and `log.txt`, which `--keep` and the suite write. README.md shows the figures
at the marker `<!-- table: DATE_IDEA -->`.

Training time is that of all steps with their data, without evaluation, reading the data and writing the run.
"""

import argparse
import datetime
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslab.runtime.allocator import keep_freed_memory

keep_freed_memory()  # as reslab's commands do, before torch is imported

from side_by_side import machine_info  # noqa: E402
from tables import Column, make_result  # noqa: E402

from reslab.training.evaluation.evaluate import evaluate  # noqa: E402
from reslab.training.train import train  # noqa: E402


@dataclass(frozen=True)
class Aim:
    """A mean test accuracy of at least `accuracy` in at most `seconds` of training (mean), over all seeds.

    Without `seconds` the time is only reported.
    With `tta` the accuracy is that of test-time augmentation (`"flip"`), whose time does not count.
    """

    data: str
    accuracy: float
    seconds: float | None
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    tta: str = ""


COLUMNS = [
    Column("seed", "seed"),
    Column("accuracy", "test accuracy", ".4f"),
    Column("seconds", "training, s", ".1f"),
]


def run_record(script: str, description: str | None, aim: Aim) -> None:
    """Measure the record of a script `record.py`, with the options of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--data", help="the dataset's name, folder or shards (default: its name)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="write result.json and log.txt beside the script")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the settings")
    args = parser.parse_args()
    folder = Path(script).resolve().parent
    lines: list[str] = []
    figures = measure(aim, args, lines.append) | {"command": f"python benchmarks/records/{folder.name}/record.py"}
    text = json.dumps(figures, indent=1) + "\n"
    if args.json is not None:
        args.json.write_text(text)
    if args.keep:
        (folder / "result.json").write_text(text)
        (folder / "log.txt").write_text("\n".join(lines) + "\n")


def measure(aim: Aim, args: argparse.Namespace, log: Callable[[str], object]) -> dict[str, Any]:
    """Train with every seed; print and log a line each and return the figures."""

    def print_line(line: str) -> None:
        print(line, flush=True)
        log(line)

    overrides = {**aim.overrides, **dict(override.split("=", 1) for override in args.set)}
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                aim.model, args.data or aim.data, aim.recipe, seed=seed, data_dir=args.data_dir,
                overrides=overrides, output=Path(folder) / "run", on_log=lambda record: None,
            )  # fmt: skip
            assert run.result is not None
            accuracy, seconds = run.result["top1"], run.result["train_seconds"]
            if aim.tta:
                accuracy = evaluate(run, tta=aim.tta).metrics["top1"]
        rows.append({"seed": str(seed), "accuracy": accuracy, "seconds": seconds})
        print_line(f"seed {seed}: accuracy {accuracy:.4f}, {seconds:.1f} s of training")
    machine = machine_info()
    for line in summarize(rows, aim):
        print_line(line)
    print_line(", ".join(f"{name} {value}" for name, value in machine.items()))
    limit = "" if aim.seconds is None else f" in {aim.seconds:g} s"
    title = f"{aim.recipe} on {aim.data}, aim: a mean accuracy of {aim.accuracy}{limit}"
    return make_result(title, COLUMNS, rows, has_mean=True) | {
        "date": datetime.date.today().isoformat(),
        "aim": {"accuracy": aim.accuracy, "seconds": aim.seconds},
        "machine": machine,
    }


def summarize(rows: Sequence[Mapping[str, Any]], aim: Aim) -> list[str]:
    """Return a line for the accuracy and one for the training time of all seeds."""
    accuracies, seconds = ([row[key] for row in rows] for key in ("accuracy", "seconds"))
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    mean_accuracy, mean_seconds = statistics.mean(accuracies), statistics.mean(seconds)
    limit = "" if aim.seconds is None else f"; aim {aim.seconds} s"
    return [
        f"accuracy: mean {mean_accuracy:.4f}, standard deviation {spread:.4f}; aim {aim.accuracy}",
        f"training: mean {mean_seconds:.1f} s, {min(seconds):.1f} to {max(seconds):.1f}{limit}",
    ]
