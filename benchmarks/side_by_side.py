"""Time several candidates side by side in one process: alternating rounds, the median of each, and the hardware."""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tables import Column, make_result, render_table

from reslab.runtime.allocator import keep_freed_memory
from reslab.runtime.device import hardware_info

Step = Callable[[], object]
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "keras", "onnxruntime", "openvino")


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


def round_ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio of two candidates within each round."""
    return [value / other for value, other in zip(own, base, strict=True)]


def machine_info() -> dict[str, Any]:
    """Return hardware, versions and load average, which accompany every figure."""
    hardware = hardware_info(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    versions = {name: _version(name) for name in _PACKAGES}
    return {**hardware, **versions, "Python": sys.version.split()[0], "load_average": os.getloadavg()[0]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark of speed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate duration of each candidate in a round")
    parser.add_argument("--threads", type=int, default=0, help="number of torch threads (default: chosen by torch)")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time; use with --threads 1 on a busy machine"
    )
    parser.add_argument(
        "--default-allocator", action="store_true", help="leave the C library's allocator as it is (all candidates)"
    )
    add_json_option(parser)
    return parser


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which every benchmark has."""
    parser.add_argument("--json", type=Path, help="also write the figure of every round to this file")


def set_up(args: argparse.Namespace) -> None:
    """Apply the options of `make_parser` to this process: allocator and threads; seed the random numbers."""
    if not args.default_allocator:
        keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)


def clock_name(args: argparse.Namespace) -> str:
    """Return the name of the clock and of the allocator, where it is not ours, for the title of a table."""
    clock = "processor time" if args.processor_time else "wall-clock time"
    return clock + (", the C library's default allocator" if args.default_allocator else "")


def run_rounds(
    candidates: Mapping[str, Step], num_images: int, warm_up: int, args: argparse.Namespace
) -> dict[str, list[float]]:
    """Run `alternate` with the options in `args`."""
    clock = time.process_time if args.processor_time else time.perf_counter
    return alternate(candidates, num_images, args.rounds, warm_up, args.seconds, clock)


def report_rates(
    title: str,
    rates: Mapping[str, list[float]],
    baseline: str,
    json_path: Path | None,
    ours: Collection[str] = (),
) -> None:
    """Report images/s relative to a baseline; with `ours`, also the fastest of these against the fastest other."""
    columns = [
        Column("name", "candidate"),
        Column("rate", "images/s", ",.1f"),
        Column("ratio", f"relative to {baseline}", ".2f"),
    ]
    rows = [{"name": name, "rate": own, "ratio": round_ratios(own, rates[baseline])} for name, own in rates.items()]
    report(json_path, title, columns, rows, _compare_fastest(rates, ours))


def _compare_fastest(rates: Mapping[str, list[float]], ours: Collection[str]) -> list[str]:
    medians = {name: statistics.median(own) for name, own in rates.items()}
    groups = [name for name in medians if name in ours], [name for name in medians if name not in ours]
    if not all(groups):
        return []
    own, other = (max(names, key=medians.__getitem__) for names in groups)
    ratios = round_ratios(rates[own], rates[other])
    return [f"{own} against the fastest other candidate, {other}: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})."]  # fmt: skip


def report(
    json_path: Path | None,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
    transposed: bool = False,
) -> None:
    """Print the table and the machine, and write every round to `json_path`."""
    result = make_result(title, columns, rows, notes, transposed)
    result |= {"date": datetime.date.today().isoformat(), "machine": machine_info()}
    print(f"\n{title}\n\n{render_table(result)}\n")
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items() if value), flush=True)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
