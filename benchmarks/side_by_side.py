"""Contestants timed side by side in one process: alternating rounds, the median of each, and what they ran on."""

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

Take = Callable[[], object]


def alternate(
    contestants: Mapping[str, Take],
    images: int,
    rounds: int,
    warm_up: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Images a second of every contestant in every round; in a round each has its turn, one after another."""
    steps = {}
    for name, take in contestants.items():
        for _ in range(warm_up):
            take()
        begun = clock()
        take()
        steps[name] = max(1, round(seconds / (clock() - begun)))
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, take in contestants.items():
            begun = clock()
            for _ in range(steps[name]):
                take()
            rates[name].append(images * steps[name] / (clock() - begun))
    return rates


def table(rates: Mapping[str, list[float]], first: str) -> str:
    """A Markdown table: the median, the slowest and quickest round, and the median of the ratios within a round."""
    lines = [f"| contestant | images/s | slowest to quickest | times {first} |", "| --- | ---: | ---: | ---: |"]
    for name, found in rates.items():
        ratio = statistics.median(mine / other for mine, other in zip(found, rates[first], strict=True))
        span = f"{min(found):,.0f} to {max(found):,.0f}"
        lines.append(f"| {name} | {statistics.median(found):,.1f} | {span} | {ratio:.2f} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Hardware, versions and how busy the machine was: what belongs to every figure."""
    facts = hardware_info(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    versions = {name: _version(name) for name in ("torch", "torchvision", "timm", "lightning")}
    return {**facts, **versions, "python": sys.version.split()[0], "load_average": os.getloadavg()[0]}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def options(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contestant's turn in a round, about")
    parser.add_argument("--threads", type=int, default=0, help="of torch. [default: as torch chooses]")
    parser.add_argument(
        "--processor-time", action="store_true", help="with --threads 1 on a busy machine: others count for little"
    )
    parser.add_argument("--json", type=Path, help="write every round's figure into this file too")
    return parser


def run(taking: Mapping[str, Take], images: int, warm_up: int, asked: argparse.Namespace) -> dict[str, list[float]]:
    """`alternate` as the options ask."""
    clock = time.process_time if asked.processor_time else time.perf_counter
    return alternate(taking, images, asked.rounds, warm_up, asked.seconds, clock)


def report(title: str, rates: Mapping[str, list[float]], first: str, to: Path | None) -> None:
    """Print the table and the machine; every round into `to`."""
    facts = machine()
    print(f"\n{title}\n\n{table(rates, first)}\n")
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    if to is not None:
        to.write_text(json.dumps({"title": title, "images_per_second": rates, "machine": facts}, indent=2) + "\n")
