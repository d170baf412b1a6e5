"""Measure time and peak memory of a training step against depth, width, image size, batch size and processes.

    python benchmarks/growth.py                growth of the CIFAR networks, in float32 and one thread per process
    python benchmarks/growth.py --draw         docs/images/growth.svg from results/growth.json

Every point is measured in a process of its own, in alternating rounds: the peak of the resident memory above that
before the network was built, and the time of a step after a step of warm-up. The exponent of a growth is the slope of a
least-squares line through the logarithms. Several processes share the batch, as in training under torchrun, and are
measured in wall-clock time.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from side_by_side import add_json_option, report
from tables import RESULTS, Column

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "growth.svg"
ALT_TEXT = "Time and peak memory of a training step against layers, width, image side and batch size"


@dataclass(frozen=True)
class Point:
    """A training step of a CIFAR network of 6n+2 layers; `width` is that of its first stage, `size` the side."""

    depth: int = 20
    width: int = 16
    size: int = 32
    batch: int = 8
    processes: int = 1


@dataclass(frozen=True)
class Growth:
    """The field of `Point` that grows, its values, and what the other fields are."""

    label: str
    values: Sequence[int]
    base: Point


GROWTHS = {
    "depth": Growth("layers", (20, 56, 110, 218, 434, 1202), Point(batch=4)),
    "width": Growth("channels of the first stage", (16, 32, 64, 128), Point()),
    "size": Growth("side of the image, pixels", (32, 64, 128, 256), Point(batch=4)),
    "batch": Growth("batch size", (8, 32, 128, 512), Point()),
    "processes": Growth("processes", (1, 2), Point(batch=256)),
}
COLUMNS = [
    Column("growth", "growing"),
    Column("value", "value", ",d"),
    Column("seconds", "a step, s", ".3f"),
    Column("mebibytes", "peak memory of a process, MiB", ",.0f"),
    Column("batch", "batch", "d"),
]


def run_step(point: Point, seconds: float, wall_clock: bool) -> dict[str, float]:
    """Measure a point in this process; several processes are those of torchrun."""
    from reslab.runtime.allocator import keep_freed_memory

    keep_freed_memory()
    import time

    import torch

    from reslab.nn.factory import create_model
    from reslab.runtime.distributed import init_process_group
    from reslab.runtime.memory import MemoryTracker
    from reslab.training.loop import TrainStep
    from reslab.training.losses import build_loss

    device, clock = torch.device("cpu"), time.perf_counter if wall_clock else time.process_time
    torch.manual_seed(0)
    group = init_process_group(device)

    def build(point: Point) -> Any:
        depths, widths = ((point.depth - 2) // 6,) * 3, tuple(point.width * factor for factor in (1, 2, 4))
        stem = f"conv3({point.width}) norm act"
        model = create_model("resnet20_cifar", depths=depths, widths=widths, stem=stem, image_size=(point.size,) * 2)
        model = model.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        count = point.batch // group.world_size
        x, y = torch.randn(count, 3, point.size, point.size), torch.arange(count) % 10
        step = TrainStep(channels_last=True, ddp_model=group.wrap_ddp(model), process_group=group)
        return lambda: step.run(model, build_loss("cross-entropy"), optimizer, x, y)

    build(replace(point, depth=8))()  # the library compiles its kernels for these shapes, which stay in memory
    tracker = MemoryTracker(device)
    step = build(point)
    step()
    start, count = clock(), 0
    while not count or (not wall_clock and clock() - start < seconds) or (wall_clock and count < 3):
        step()  # in wall-clock time a fixed number, so that the processes agree
        count += 1
    return {"seconds": (clock() - start) / count, "mebibytes": (tracker.peak_bytes() or 0) / 2**20}


def measure(point: Point, seconds: float, wall_clock: bool) -> dict[str, float]:
    """Measure a point in new processes, each with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={point.processes}"]
    arguments = [__file__, "--worker", json.dumps(asdict(point)), "--seconds", str(seconds)]
    command = [sys.executable, *(launch if point.processes > 1 else []), *arguments, *["--wall-clock"] * wall_clock]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{point} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def fit_power_law(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return exponent and factor of values = factor x size ^ exponent, by least squares of the logarithms."""
    slope, intercept = statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in values])
    return slope, math.exp(intercept)


def run_rounds(names: Sequence[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the row of every point, with a value for each round."""
    rows = [
        {"growth": name, "value": value, "batch": growth.base.batch if name != "batch" else value,
         "seconds": [], "mebibytes": []}
        for name, growth in ((name, GROWTHS[name]) for name in names) for value in growth.values
    ]  # fmt: skip
    for number in range(args.rounds):
        for row in rows:
            point = replace(GROWTHS[row["growth"]].base, **{row["growth"]: row["value"]})
            wall_clock = args.wall_clock or row["growth"] == "processes"
            for key, value in measure(point, args.seconds, wall_clock).items():
                row[key].append(value)
            print(f"round {number + 1}, {row['growth']} {row['value']}: {row['seconds'][-1]:.3f} s, "
                  f"{row['mebibytes'][-1]:,.0f} MiB", flush=True)  # fmt: skip
    return rows


def lines_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the sizes and the medians of time and memory of a growth."""
    own = [row for row in rows if row["growth"] == name]
    sizes = [float(row["value"]) for row in own]
    return {label: (sizes, [statistics.median(row[key]) for row in own])
            for label, key in (("time", "seconds"), ("memory", "mebibytes"))}  # fmt: skip


def notes(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the exponents of the growths of more than two points."""
    texts = []
    for name in (name for name in names if len(GROWTHS[name].values) > 2):
        exponents = (f"{label} {fit_power_law(*line)[0]:.2f}" for label, line in lines_of(name, rows).items())
        texts.append(f"Exponents for {GROWTHS[name].label}: {', '.join(exponents)}.")
    return texts


def draw(path: Path) -> None:
    """Draw the growths of a result, without that of the processes, of which there are two."""
    from reslab.report.plots.curves import GrowthLine, GrowthPanel, plot_growth
    from reslab.report.plots.export import render_svg_file

    rows = json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))["rows"]
    panels = [
        GrowthPanel(growth.label, growth.values, [
            GrowthLine(label, line[1], *fit_power_law(*line)) for label, line in lines_of(name, rows).items()
        ])
        for name, growth in GROWTHS.items() if len(growth.values) > 2
    ]  # fmt: skip
    path.write_text(render_svg_file(plot_growth(panels), ALT_TEXT), encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growths", default=",".join(GROWTHS), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate duration of a measurement of a point")
    parser.add_argument("--wall-clock", action="store_true", help="measure wall-clock instead of processor time")
    parser.add_argument("--draw", action="store_true", help="only draw the figure")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    add_json_option(parser)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run_step(Point(**json.loads(args.worker)), args.seconds, args.wall_clock)))
        return
    if args.draw:
        draw(FIGURE)
        return
    names = args.growths.split(",")
    rows = run_rounds(names, args)
    clock = "wall-clock time" if args.wall_clock else "processor time (of several processes: wall-clock time)"
    report(
        args.json, f"{args.rounds} rounds, float32, one thread per process, {clock}", COLUMNS, rows, notes(names, rows)
    )


if __name__ == "__main__":
    main()
