"""Time several candidates side by side in one process: alternating rounds, the median of each, and the hardware."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from reslab.runtime.device import hardware_info

Step = Callable[[], object]


def alternate(
    candidates: Mapping[str, Step],
    num_images: int,
    rounds: int,
    warm_up: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the images/s of every candidate in every round. In each round the candidates run one after another."""
    num_steps = {}
    for name, step in candidates.items():
        for _ in range(warm_up):
            step()
        start = clock()
        step()
        num_steps[name] = max(1, round(seconds / (clock() - start)))
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, step in candidates.items():
            start = clock()
            for _ in range(num_steps[name]):
                step()
            rates[name].append(num_images * num_steps[name] / (clock() - start))
    return rates


def make_table(rates: Mapping[str, list[float]], baseline: str) -> str:
    """Return a Markdown table: the median, the slowest and fastest round, and the median ratio within a round."""
    lines = [f"| candidate | images/s | slowest to fastest | relative to {baseline} |", "| --- | ---: | ---: | ---: |"]
    for name, own in rates.items():
        ratio = statistics.median(rate / base for rate, base in zip(own, rates[baseline], strict=True))
        spread = f"{min(own):,.0f} to {max(own):,.0f}"
        lines.append(f"| {name} | {statistics.median(own):,.1f} | {spread} | {ratio:.2f} |")
    return "\n".join(lines)


def machine_info() -> dict[str, Any]:
    """Return hardware, versions and load average, which accompany every figure."""
    hardware = hardware_info(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    versions = {name: _version(name) for name in ("torch", "torchvision", "timm", "lightning")}
    return {**hardware, **versions, "python": sys.version.split()[0], "load_average": os.getloadavg()[0]}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate duration of each candidate in a round")
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads (default: chosen by torch)")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time; use with --threads 1 on a busy machine"
    )
    parser.add_argument("--json", type=Path, help="also write the figure of every round to this file")
    return parser


def run_rounds(
    candidates: Mapping[str, Step], num_images: int, warm_up: int, args: argparse.Namespace
) -> dict[str, list[float]]:
    """Run `alternate` with the options in `args`."""
    clock = time.process_time if args.processor_time else time.perf_counter
    return alternate(candidates, num_images, args.rounds, warm_up, args.seconds, clock)


def report(title: str, rates: Mapping[str, list[float]], baseline: str, json_path: Path | None) -> None:
    """Print the table and the machine, and write every round to `json_path`."""
    machine = machine_info()
    print(f"\n{title}\n\n{make_table(rates, baseline)}\n")
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    if json_path is not None:
        json_path.write_text(
            json.dumps({"title": title, "images_per_second": rates, "machine": machine}, indent=2) + "\n"
        )
