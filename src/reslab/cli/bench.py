"""`reslab bench NAME|RUN`: how fast this machine trains a network, or answers with it, on random images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Device, Json, Settings
from reslab.cli.output import print_json, print_pairs, print_table, say
from reslab.cli.show import describe
from reslab.report.format import format_int, format_number, format_percent, format_shape
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name

if TYPE_CHECKING:
    from reslab.nn.network import ResidualNetwork
    from reslab.training.benchmark import StepSpeed

TASKS = ("train", "predict")
_BATCHES = {"train": (64,), "predict": (1, 16)}


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network (`reslab models`), a run, or its weights.")],
    task: Annotated[
        str, typer.Option("--task", help="What is measured: train, a training step; predict, answers by engine.")
    ] = "train",
    input_size: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="The input, such as 1x96x96. [default: its own]")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("-b", "--batch", "--batch-size", metavar="N,...", help="Images a step. [default: 64; 1,16]"),
    ] = None,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="Outputs. [default: its own]")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, float32, bf16, fp16 or int8; several apart by commas.")
    ] = "auto",
    engines: Annotated[
        str | None,
        typer.Option("--engines", metavar="NAME,...", help="torch, onnxruntime, openvino. [default: the installed]"),
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network. [default: the recipe's choice]")
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Timings (rounds), of which the median is told.")
    ] = 5,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a picture and the table of --task predict.")
    ] = None,
    device: Device = "auto",
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Measure training steps as the recipe fast-cpu (on a GPU fast-gpu) takes them, or with --task predict the engines:
    images/s, latency, memory."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if task == "train" and (engines or page):
        got = "--engines" if engines else "--page"
        raise invalid("--engines and --page only with --task predict", got, next_step="add --task predict")
    arch, sizes = describe(name, input_size, num_classes, settings)
    batches = _read_batches(batch) or _BATCHES[task]
    if task == "train":
        _bench_steps(arch, sizes, batches, precision, compiled, repeats, device, json)
    else:
        network = _network_of(name, arch)
        _bench_engines(network, sizes, batches, engines, precision, bool(compiled), repeats, device, page, json)


def _read_batches(text: str | None) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise invalid("--batch as whole numbers apart by commas", repr(text), "--batch 1,16") from None
    if any(number < 1 for number in found):
        raise invalid("a batch of at least 1", text, "1")
    return found


def _bench_steps(
    arch: Arch,
    sizes: tuple[int, int, int],
    batches: tuple[int, ...],
    precision: str,
    compiled: bool | None,
    repeats: int,
    device: str,
    json: bool,
) -> None:
    from reslab.runtime.device import choose_device, hardware
    from reslab.training.benchmark import measure_step, quick_settings

    place = choose_device(device)
    recipes = [quick_settings(place, each.strip(), compiled) for each in precision.split(",")]
    found = [measure_step(arch, sizes, batch, recipe, place, repeats) for recipe in recipes for batch in batches]
    facts = hardware(place)
    if json:
        results = [asdict(each) for each in found]
        print_json({"model": arch.name, "task": "train", "input": sizes, "results": results, "hardware": facts})
        return
    head = ["engine", "precision", "batch", "images/s", "slowest to quickest", "ms a step", "memory", "matrix rate"]
    print_table(head, [_row(each) for each in found])
    print()
    print_pairs(_summary(arch.name, sizes, found, facts))


def _row(speed: "StepSpeed") -> tuple[str, ...]:
    slow, quick = speed.images_per_second_range
    return (
        speed.engine,
        speed.precision + (", channels-last" if speed.channels_last else ""),
        format_int(speed.batch),
        format_number(speed.images_per_second),
        f"{format_number(slow)} to {format_number(quick)}",
        format_number(speed.latency_ms_p50),
        "–" if speed.memory_bytes is None else f"{speed.memory_bytes / 2**20:,.0f} MiB",
        format_percent(speed.share, 1),
    )


def _summary(
    name: str, sizes: tuple[int, int, int], found: list["StepSpeed"], hardware: dict[str, Any]
) -> list[tuple[str, str]]:
    speed = found[0]
    rates = {each.precision: f"{each.matrix_flops_per_second / 1e9:,.0f} GFLOP/s in {each.precision}" for each in found}
    return [
        (
            "measured",
            f"a training step of {name} at {format_shape(sizes)}, random images, median of {speed.repeats} timings",
        ),
        ("matrix rate", f"{', '.join(rates.values())} (a matrix product); the share counts 6 x multiply-adds a step"),
        ("on", f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads"),
    ]


def _network_of(name: str, arch: Arch) -> "ResidualNetwork":
    """The trained network of a run or its weights, else one with fresh weights: the speed is the same."""
    from reslab.nn.network import ResidualNetwork
    from reslab.training.run import load

    trained = load(name) if Path(name).exists() else None
    return trained if trained is not None and trained.arch == arch else ResidualNetwork(arch)


def _bench_engines(
    network: "ResidualNetwork",
    sizes: tuple[int, int, int],
    batches: tuple[int, ...],
    engines: str | None,
    precision: str,
    compiled: bool,
    rounds: int,
    device: str,
    page: Path | None,
    json: bool,
) -> None:
    from reslab.deploy.benchmark import default_engines, default_precisions, measure_engines
    from reslab.runtime.device import choose_device, hardware

    place = choose_device(device)
    named = [each.strip() for each in engines.split(",")] if engines else default_engines(place)
    wanted = default_precisions(place) if precision == "auto" else [each.strip() for each in precision.split(",")]
    found = measure_engines(network, sizes, batches, named, wanted, place, rounds, compiled)
    results, facts = [asdict(each) for each in found], hardware(place)
    if page is not None:
        _write_page(page, network.arch.name, sizes, results, facts, rounds)
    if json:
        told = {"model": network.arch.name, "task": "predict", "input": sizes, "results": results, "hardware": facts}
        print_json({**told, "page": None if page is None else str(page)})
        return
    from reslab.report.pages.benchmark import BENCHMARK_COLUMNS, benchmark_cells

    print_table(BENCHMARK_COLUMNS, [benchmark_cells(each) for each in results])
    print()
    print_pairs(list(_told(network.arch.name, sizes, facts, rounds).items()))


def _told(name: str, sizes: tuple[int, int, int], hardware: dict[str, Any], rounds: int) -> dict[str, str]:
    return {
        "measured": f"answers of {name} at {format_shape(sizes)}, random images, {rounds} alternating rounds",
        "on": f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads",
    }


def _write_page(
    page: Path,
    name: str,
    sizes: tuple[int, int, int],
    results: list[dict[str, Any]],
    hardware: dict[str, Any],
    rounds: int,
) -> None:
    from reslab.report.pages.benchmark import BenchmarkPage
    from reslab.report.render import render_benchmark_page

    shown = BenchmarkPage(f"{name} at {format_shape(sizes)}", results, _told(name, sizes, hardware, rounds))
    page.write_text(render_benchmark_page(shown), encoding="utf-8")
    say(f"page: {page}")
