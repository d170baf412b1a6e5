"""`reslab bench`: measure how fast this machine trains a network or predicts with it."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.model_options import (
    MODEL_HELP,
    MODEL_METAVAR,
    AllowCode,
    ModelChoice,
    NamedModel,
    WeightsOption,
    choose_model,
)
from reslab.cli.options import (
    Device,
    InputSize,
    JsonFlag,
    ModelOverrides,
    NumClasses,
    Panel,
    complete_model,
    html_option,
)
from reslab.cli.output import print_json, print_pairs, print_table, write_page
from reslab.cli.summary import parse_input_size, resolve_arch_and_input
from reslab.report.format import format_int, format_number, format_percent, format_shape
from reslab.runtime.allocator import keep_freed_memory
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.zoo import ARCHS

if TYPE_CHECKING:
    from reslab.nn.module_network import Model
    from reslab.nn.network import ResidualNetwork
    from reslab.training.benchmark import TrainStepBenchmark

BENCHMARK_TASKS = ("train", "predict")
_DEFAULT_BATCH_SIZES = {"train": (64,), "predict": (1, 16)}


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar=MODEL_METAVAR, help=MODEL_HELP, autocompletion=complete_model)
    ] = None,
    model: NamedModel = None,
    weights: WeightsOption = None,
    allow_code: AllowCode = False,
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
        html_option("Write an HTML page with chart and table of --task predict."),
    ] = None,
    device: Device = "auto",
    overrides: ModelOverrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure training or inference speed, latency and memory of a network on random images.

    --task train measures steps of SGD with all other options of the recipe fast-cpu, or of fast-gpu on a GPU.
    """
    keep_freed_memory()
    if task not in BENCHMARK_TASKS:
        raise unknown_name("task", task, BENCHMARK_TASKS)
    if task == "train" and (backends or html_path):
        got = "--backend" if backends else "--html"
        raise invalid("--backend and --html with --task predict", got, next_step="add --task predict")
    batch_sizes = _parse_batch_sizes(batch_size) or _DEFAULT_BATCH_SIZES[task]
    choice, _ = choose_model([name] if name else [], model, weights)
    opened = _open_other(choice, task, parse_input_size(input_size) if input_size else None, allow_code)
    measure_inference = partial(
        _benchmark_inference,
        batch_sizes=batch_sizes,
        backends=backends,
        precision=precision,
        compiled=bool(compiled),
        rounds=repeats,
        device=device,
        html_path=html_path,
        as_json=as_json,
    )
    if opened is not None:
        _check_no_axes(opened.arch.name, num_classes, overrides)
        input_shape = parse_input_size(input_size) if input_size else opened.arch.input_size
        measure_inference(opened, input_shape)
        return
    arch, input_shape = resolve_arch_and_input(choice.source, input_size, num_classes, overrides)
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
        measure_inference(_load_or_create_network(choice, arch), input_shape)


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


def _open_other(choice: ModelChoice, task: str, input_size: tuple[int, ...] | None, allow_code: bool) -> "Model | None":
    """Return a model that is not of the zoo; None for one that is. Raises ValueError for it with --task train."""
    from reslab.nn.module_network import as_factory
    from reslab.nn.network import ResidualNetwork
    from reslab.training.model_source import open_model

    if choice.source.partition(".")[0] in ARCHS and not Path(choice.source).exists():
        return None
    is_named = as_factory(choice.source) is not None
    opened = open_model(
        choice.source, weights=choice.weights, allow_code=allow_code, random_weights=is_named, input_size=input_size
    )
    if isinstance(opened, ResidualNetwork):
        return None
    if task == "train":
        step = "add --task predict, or `reslab train` it and read its images per second"
        raise invalid("a network of the zoo with --task train", str(choice), next_step=step)
    return opened


def _check_no_axes(name: str, num_classes: int | None, overrides: list[str] | None) -> None:
    if num_classes is not None or overrides:
        got = f"--set {overrides[0]}" if overrides else f"--num-classes {num_classes}"
        raise invalid(f"a network of the zoo to change, and {name} as it is", got, next_step="leave it out")


def _load_or_create_network(choice: ModelChoice, arch: Arch) -> "ResidualNetwork":
    """Return the trained network of a run or its weights, else a fresh one, which is as fast."""
    from reslab.nn.network import ResidualNetwork
    from reslab.training.model_source import open_model

    is_trained = choice.weights is not None or Path(choice.source).exists()
    trained = open_model(choice.source, weights=choice.weights) if is_trained else None
    return trained if isinstance(trained, ResidualNetwork) and trained.arch == arch else ResidualNetwork(arch)


def _benchmark_inference(
    network: "Model",
    input_shape: tuple[int, ...],
    *,
    batch_sizes: tuple[int, ...],
    backends: str | None,
    precision: str,
    compiled: bool,
    rounds: int,
    device: str,
    html_path: Path | None,
    as_json: bool,
) -> None:
    from reslab.deploy.backends.registry import GRAPH_BACKENDS
    from reslab.deploy.benchmark import benchmark_backends, default_backends, default_precisions
    from reslab.nn.module_network import GraphModel
    from reslab.runtime.device import choose_device, hardware_info

    resolved_device = choose_device(device)
    backend_names = [item.strip() for item in backends.split(",")] if backends else default_backends(resolved_device)
    precisions = (
        default_precisions(resolved_device) if precision == "auto" else [item.strip() for item in precision.split(",")]
    )
    if isinstance(network, GraphModel):  # it has one backend and one precision
        backend_names = backend_names if backends else [GRAPH_BACKENDS[network.path.suffix]]
        precisions = precisions if precision != "auto" else [network.precision]
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
