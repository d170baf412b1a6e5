"""Processor time of commands and imports, from the start of the process to its end; median of the rounds.

Run: python benchmarks/startup.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from side_by_side import add_json_option, report
from tables import Column

FIRST_STEP = """
import os, tempfile, reslab
reslab.train(on_step_end=lambda step, model: os._exit(0), hook_every_steps=1, output=tempfile.mkdtemp(dir=".") + "/run")
"""
# What is measured -> the arguments of Python, in a folder with a run and an image.
COMMANDS = {
    "`import reslab`": ("-c", "import reslab"),
    "`import torch`": ("-c", "import torch"),
    **{
        f"`reslab {line}`": ("-m", "reslab", *line.split())
        for line in ("--version", "--help", "models", "recipes", "runs", "studies", "transforms", "train nosuch",
                     "eval nosuch", "predict nosuch a.jpg", "predict run a.jpg")
    },
    "`reslab.train()`, handwritten digits, to the end of the first step": ("-c", FIRST_STEP),
}  # fmt: skip
# With compiled modules, as an installation has them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["OMP_NUM_THREADS"] = "1"


def processor_seconds(arguments: tuple[str, ...], folder: str) -> float:
    """Return the user and system time of a Python process."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, check=False)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "reslab", "train", "--epochs", "1", "--output", "run"]
        subprocess.run(train, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
        Image.new("L", (8, 8)).save(Path(folder, "a.jpg"))
        for _ in range(args.rounds):
            for name, arguments in COMMANDS.items():
                seconds[name].append(processor_seconds(arguments, folder))
    rows = [{"name": name, "seconds": values} for name, values in seconds.items()]
    columns = [Column("name", "command"), Column("seconds", "seconds", ".2f")]
    report(args.json, f"one thread, processor time, {args.rounds} rounds", columns, rows)


if __name__ == "__main__":
    main()
