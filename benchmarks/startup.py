"""Processor time of commands that need no torch, of a prediction, and of `import torch` for comparison; median of 5.

Run: python benchmarks/startup.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

LINES = (
    "--version",
    "--help",
    "models",
    "recipes",
    "runs",
    "studies",
    "transforms",
    "train nosuch",
    "eval nosuch",
    "predict nosuch a.jpg",
    "predict run a.jpg",
)
# With compiled modules, as an installation has them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def processor_seconds(command: list[str], folder: str) -> float:
    """Return the user and system time of a process."""
    before = os.times()
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=False)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Print one line a command."""
    commands = {f"reslab {line}": [sys.executable, "-m", "reslab", *line.split()] for line in LINES}
    commands["import torch"] = [sys.executable, "-c", "import torch"]
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "reslab", "train", "--epochs", "1", "--output", "run"]
        subprocess.run(train, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
        Image.new("L", (8, 8)).save(Path(folder, "a.jpg"))
        for name, command in commands.items():
            seconds = statistics.median(processor_seconds(command, folder) for _ in range(5))
            print(f"{seconds:6.2f} s  {name}")


if __name__ == "__main__":
    main()
