"""`reslab bench`: measure how fast this machine trains a network or predicts with it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import (
    Device,
    InputSize,
    JsonFlag,
    ModelOverrides,
    NumClasses,
    Panel,
    complete_model,
)
from reslab.cli.output import print_json, print_pairs, print_table, write_page
from reslab.cli.summary import resolve_arch_and_input
from reslab.report.format import format_int, format_number, format_percent, format_shape
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name

if TYPE_CHECKING:
    from reslab.nn.network import ResidualNetwork
    from reslab.training.benchmark import TrainStepBenchmark

BENCHMARK_TASKS = ("train", "predict")
_DEFAULT_BATCH_SIZES = {"train": (64,), "predict": (1, 16)}


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Model (`reslab models`), run or weights file.", autocompletion=complete_model
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task", metavar="train|predict", help="train: a training step; predict: inference by each backend."
        ),
    ] = "train",
    input_size: InputSize = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "-b",
            "--batch-size",
            metavar="INTEGER,...",
            rich_help_panel=Panel.COMPUTE,
            help="Batch sizes to measure.",
            show_default="64; with --task predict 1,16",
        ),
    ] = None,
    num_classes: NumClasses = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME,...",
            rich_help_panel=Panel.COMPUTE,
            help="Precisions to measure: auto, float32, bf16, fp16, int8.",
        ),
    ] = "auto",
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NAME,...",
            rich_help_panel=Panel.COMPUTE,
            help="Backends to measure with --task predict: torch, onnxruntime, openvino.",
            show_default="all installed",
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            rich_help_panel=Panel.COMPUTE,
            help="Compile the network.",
            show_default="as the recipe does",
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option("--repeats", metavar="INTEGER", min=1, help="Number of timing rounds; the median is reported."),
    ] = 5,
    html_path: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            rich_help_panel=Panel.OUTPUT,
            help="Write an HTML page with chart and table of --task predict.",
        ),
    ] = None,
    device: Device = "auto",
    overrides: ModelOverrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure training or inference speed, latency and memory of a network on random images.

    --task train takes training steps with the recipe fast-cpu, on a GPU with fast-gpu.
    """
    if task not in BENCHMARK_TASKS:
        raise unknown_name("task", task, BENCHMARK_TASKS)
    if task == "train" and (backends or html_path):
        got = "--backend" if backends else "--html"
        raise invalid("--backend and --html with --task predict", got, next_step="add --task predict")
    arch, input_shape = resolve_arch_and_input(name, input_size, num_classes, overrides)
    batch_sizes = _parse_batch_sizes(batch_size) or _DEFAULT_BATCH_SIZES[task]
    if task == "train":
        _benchmark_training(
            arch,
            input_shape,
            batch_sizes,
            precision=precision,
            compiled=compiled,
            repeats=repeats,
            device=device,
            as_json=as_json,
        )
    else:
        network = _load_or_create_network(name, arch)
        _benchmark_inference(
            network,
            input_shape,
            batch_sizes,
            backends=backends,
            precision=precision,
            compiled=bool(compiled),
            rounds=repeats,
            device=device,
            html_path=html_path,
            as_json=as_json,
        )


def _parse_batch_sizes(text: str | None) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise invalid("--batch-size as whole numbers separated by commas", repr(text), "--batch-size 1,16") from None
    if any(size < 1 for size in sizes):
        raise invalid("a batch size of at least 1", text, "1")
    return sizes


def _benchmark_training(
    arch: Arch,
    input_shape: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    *,
    precision: str,
    compiled: bool | None,
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    from reslab.runtime.device import choose_device, hardware_info
    from reslab.training.benchmark import benchmark_train_step, resolve_fast_recipe

    resolved_device = choose_device(device)
    recipes = [resolve_fast_recipe(resolved_device, item.strip(), compiled) for item in precision.split(",")]
    measurements = [
        benchmark_train_step(arch, input_shape, batch_size, recipe, device=resolved_device, repeats=repeats)
        for recipe in recipes
        for batch_size in batch_sizes
    ]
    machine = hardware_info(resolved_device)
    if as_json:
        results = [asdict(item) for item in measurements]
        print_json(
            {"model": arch.name, "task": "train", "input_size": input_shape, "results": results, "hardware": machine}
        )
        return
    columns = [
        "backend",
        "precision",
        "batch size",
        "images/s",
        "slowest to fastest",
        "ms/step",
        "memory",
        "matmul use",
    ]
    print_table(columns, [_training_row(item) for item in measurements])
    print()
    print_pairs(_training_summary(arch.name, input_shape, measurements, machine))


def _training_row(speed: "TrainStepBenchmark") -> tuple[str, ...]:
    slowest, fastest = speed.images_per_second_range
    return (
        speed.backend,
        speed.precision + (", channels-last" if speed.channels_last else ""),
        format_int(speed.batch_size),
        format_number(speed.images_per_second),
        f"{format_number(slowest)} to {format_number(fastest)}",
        format_number(speed.latency_ms_p50),
        "–" if speed.memory_bytes is None else f"{speed.memory_bytes / 2**20:,.0f} MiB",
        format_percent(speed.matmul_utilization, 1),
    )


def _training_summary(
    name: str, input_shape: tuple[int, ...], measurements: list["TrainStepBenchmark"], hardware: dict[str, Any]
) -> list[tuple[str, str]]:
    speed = measurements[0]
    matmul_rates = {
        item.precision: f"{item.matmul_flops_per_second / 1e9:,.0f} GFLOP/s in {item.precision}"
        for item in measurements
    }
    return [
        (
            "measured",
            f"training steps of {name} at {format_shape(input_shape)} on random images, "
            f"median of {speed.repeats} rounds",
        ),
        (
            "matmul use",
            f"{', '.join(matmul_rates.values())} of a matrix product; a step counts as 6 x its multiply-adds",
        ),
        ("machine", f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads"),
    ]


def _load_or_create_network(name: str, arch: Arch) -> "ResidualNetwork":
    """Return the trained network of a run or its weights, else a fresh one, which is as fast."""
    from reslab.nn.network import ResidualNetwork
    from reslab.training.run import load

    trained = load(name) if Path(name).exists() else None
    return trained if trained is not None and trained.arch == arch else ResidualNetwork(arch)


def _benchmark_inference(
    network: "ResidualNetwork",
    input_shape: tuple[int, ...],
    batch_sizes: tuple[int, ...],
    *,
    backends: str | None,
    precision: str,
    compiled: bool,
    rounds: int,
    device: str,
    html_path: Path | None,
    as_json: bool,
) -> None:
    from reslab.deploy.benchmark import benchmark_backends, default_backends, default_precisions
    from reslab.runtime.device import choose_device, hardware_info

    resolved_device = choose_device(device)
    backend_names = [item.strip() for item in backends.split(",")] if backends else default_backends(resolved_device)
    precisions = (
        default_precisions(resolved_device) if precision == "auto" else [item.strip() for item in precision.split(",")]
    )
    measurements = benchmark_backends(
        network,
        input_shape,
        batch_sizes,
        backends=backend_names,
        precisions=precisions,
        device=resolved_device,
        rounds=rounds,
        compiled=compiled,
    )
    results, machine = [asdict(item) for item in measurements], hardware_info(resolved_device)
    if html_path is not None:
        _write_page(
            html_path,
            network.arch.name,
            input_shape=input_shape,
            results=results,
            hardware=machine,
            rounds=rounds,
        )
    if as_json:
        payload = {
            "model": network.arch.name,
            "task": "predict",
            "input_size": input_shape,
            "results": results,
            "hardware": machine,
        }
        print_json({**payload, "html": None if html_path is None else str(html_path)})
        return
    from reslab.report.pages.benchmark import BENCHMARK_COLUMNS, benchmark_cells

    print_table(BENCHMARK_COLUMNS, [benchmark_cells(item) for item in results])
    print()
    print_pairs(list(_inference_summary(network.arch.name, input_shape, machine, rounds).items()))


def _inference_summary(
    name: str, input_shape: tuple[int, ...], hardware: dict[str, Any], rounds: int
) -> dict[str, str]:
    return {
        "measured": f"inference of {name} at {format_shape(input_shape)} on random images, {rounds} alternating rounds",
        "machine": f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads",
    }


def _write_page(
    html_path: Path,
    name: str,
    *,
    input_shape: tuple[int, ...],
    results: list[dict[str, Any]],
    hardware: dict[str, Any],
    rounds: int,
) -> None:
    from reslab.report.pages.benchmark import BenchmarkPage

    page = BenchmarkPage(
        f"{name} at {format_shape(input_shape)}", results, _inference_summary(name, input_shape, hardware, rounds)
    )
    write_page(html_path, page)
