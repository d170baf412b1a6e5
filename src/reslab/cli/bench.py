"""`reslab bench`: measure how fast this machine trains a network or predicts with it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.option_groups import MODEL_HELP, MODEL_METAVAR, ModelChoice, ModelOptions
from reslab.cli.options import Device, InputSize, JsonFlag, NumClasses, Panel, complete_model, html_option
from reslab.cli.output import print_json, print_pairs, print_table, write_page
from reslab.cli.overrides import ModelOverrides
from reslab.cli.summary import parse_input_size, resolve_arch_and_input
from reslab.report.format import format_int, format_number, format_percent, format_shape
from reslab.runtime.allocator import keep_freed_memory
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.zoo import ARCHS

if TYPE_CHECKING:
    import torch

    from reslab.nn.module_network import Model
    from reslab.nn.network import ResidualNetwork
    from reslab.training.benchmark import TrainStepBenchmark

BENCHMARK_TASKS = ("train", "predict")
_DEFAULT_BATCH_SIZES = {"train": (64,), "predict": (1, 16)}


@dataclass(frozen=True, kw_only=True)
class ArchOptions:
    """The changes of a network of the zoo."""

    input_size: InputSize = None
    num_classes: NumClasses = None
    overrides: ModelOverrides = None

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The input size, None if it is not given."""
        return parse_input_size(self.input_size) if self.input_size else None


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What is measured, how often and where."""

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
    ] = None
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME,...",
            rich_help_panel=Panel.COMPUTE,
            help="Precisions to measure: auto, float32, bf16, fp16, int8.",
        ),
    ] = "auto"
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="NAME,...",
            rich_help_panel=Panel.COMPUTE,
            help="Backends to measure with --task predict: torch, onnxruntime, openvino.",
            show_default="all installed",
        ),
    ] = None
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            rich_help_panel=Panel.COMPUTE,
            help="Compile the network.",
            show_default="as the recipe does",
        ),
    ] = None
    device: Device = "auto"
    repeats: Annotated[
        int,
        typer.Option("--repeats", metavar="INTEGER", min=1, help="Number of timing rounds; the median is reported."),
    ] = 5
    html_path: Annotated[
        Path | None,
        html_option("Write an HTML page with chart and table of --task predict."),
    ] = None
    as_json: JsonFlag = False

    def batch_sizes(self, task: str) -> tuple[int, ...]:
        """Return the batch sizes to measure. Raises ValueError for a text that has none."""
        return _parse_batch_sizes(self.batch_size) or _DEFAULT_BATCH_SIZES[task]


def bench(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar=MODEL_METAVAR, help=MODEL_HELP, autocompletion=complete_model)
    ] = None,
    model: ModelOptions,
    task: Annotated[
        str,
        typer.Option(
            "--task", metavar="train|predict", help="train: a training step; predict: inference by each backend."
        ),
    ] = "train",
    arch: ArchOptions,
    options: BenchmarkOptions,
) -> None:
    """Measure training or inference speed, latency and memory of a network on random images.

    --task train measures steps of SGD with all other options of the recipe fast-cpu, or of fast-gpu on a GPU.
    """
    keep_freed_memory()
    if task not in BENCHMARK_TASKS:
        raise unknown_name("task", task, BENCHMARK_TASKS)
    if task == "train" and (options.backends or options.html_path):
        got = "--backend" if options.backends else "--html"
        raise invalid("--backend and --html with --task predict", got, next_step="add --task predict")
    options.batch_sizes(task)
    choice, _ = model.choose([name] if name else [])
    opened = _open_other(choice, task, arch.input_shape)
    if opened is not None:
        _check_no_axes(opened.arch.name, arch)
        _benchmark_inference(opened, arch.input_shape or opened.arch.input_size, options)
        return
    resolved, input_shape = resolve_arch_and_input(choice.source, arch.input_size, arch.num_classes, arch.overrides)
    if task == "train":
        _benchmark_training(resolved, input_shape, options)
    else:
        _benchmark_inference(_load_or_create_network(choice, resolved), input_shape, options)


def _parse_batch_sizes(text: str | None) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise invalid("--batch-size as whole numbers separated by commas", repr(text), "--batch-size 1,16") from None
    if any(size < 1 for size in sizes):
        raise invalid("a batch size of at least 1", text, "1")
    return sizes


def _benchmark_training(arch: Arch, input_shape: tuple[int, ...], options: BenchmarkOptions) -> None:
    from reslab.runtime.device import choose_device, hardware_info
    from reslab.training.benchmark import benchmark_train_step, resolve_fast_recipe

    device = choose_device(options.device)
    precisions = [item.strip() for item in options.precision.split(",")]
    recipes = [resolve_fast_recipe(device, precision, options.compiled) for precision in precisions]
    measurements = [
        benchmark_train_step(arch, input_shape, batch_size, recipe, device=device, repeats=options.repeats)
        for recipe in recipes
        for batch_size in options.batch_sizes("train")
    ]
    machine = hardware_info(device)
    if options.as_json:
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


def _open_other(choice: ModelChoice, task: str, input_size: tuple[int, ...] | None) -> "Model | None":
    """Return a model that is not of the zoo; None for one that is. Raises ValueError for it with --task train."""
    from reslab.nn.module_network import as_factory
    from reslab.nn.network import ResidualNetwork
    from reslab.training.model_source import open_model

    if choice.source.partition(".")[0] in ARCHS and not Path(choice.source).exists():
        return None
    is_named = as_factory(choice.source) is not None
    opened = open_model(
        choice.source,
        weights=choice.weights,
        allow_code=choice.allow_code,
        random_weights=is_named,
        input_size=input_size,
    )
    if isinstance(opened, ResidualNetwork):
        return None
    if task == "train":
        step = "add --task predict, or `reslab train` it and read its images per second"
        raise invalid("a network of the zoo with --task train", str(choice), next_step=step)
    return opened


def _check_no_axes(name: str, arch: ArchOptions) -> None:
    if arch.num_classes is not None or arch.overrides:
        got = f"--set {arch.overrides[0]}" if arch.overrides else f"--num-classes {arch.num_classes}"
        raise invalid(f"a network of the zoo to change, and {name} as it is", got, next_step="leave it out")


def _load_or_create_network(choice: ModelChoice, arch: Arch) -> "ResidualNetwork":
    """Return the trained network of a run or its weights, else a fresh one, which is as fast."""
    from reslab.nn.network import ResidualNetwork
    from reslab.training.model_source import open_model

    is_trained = choice.weights is not None or Path(choice.source).exists()
    trained = open_model(choice.source, weights=choice.weights) if is_trained else None
    return trained if isinstance(trained, ResidualNetwork) and trained.arch == arch else ResidualNetwork(arch)


def _benchmark_inference(network: "Model", input_shape: tuple[int, ...], options: BenchmarkOptions) -> None:
    from reslab.deploy.benchmark import benchmark_backends
    from reslab.report.pages.benchmark import BENCHMARK_COLUMNS, BenchmarkPage, benchmark_cells
    from reslab.runtime.device import choose_device, hardware_info

    device, name = choose_device(options.device), network.arch.name
    backends, precisions = _backends_and_precisions(network, device, options)
    measurements = benchmark_backends(
        network,
        input_shape,
        options.batch_sizes("predict"),
        backends=backends,
        precisions=precisions,
        device=device,
        rounds=options.repeats,
        compiled=bool(options.compiled),
    )
    results, machine = [asdict(item) for item in measurements], hardware_info(device)
    summary = _inference_summary(name, input_shape, machine, options.repeats)
    if options.html_path is not None:
        write_page(options.html_path, BenchmarkPage(f"{name} at {format_shape(input_shape)}", results, summary))
    if options.as_json:
        html = None if options.html_path is None else str(options.html_path)
        payload = {"model": name, "task": "predict", "input_size": input_shape, "results": results}
        print_json({**payload, "hardware": machine, "html": html})
        return
    print_table(BENCHMARK_COLUMNS, [benchmark_cells(item) for item in results])
    print()
    print_pairs(list(summary.items()))


def _backends_and_precisions(
    network: "Model", device: "torch.device", options: BenchmarkOptions
) -> tuple[list[str], list[str]]:
    """Return what the user named, else all that is installed; an exported graph has one backend and one precision."""
    from reslab.deploy.backends.registry import GRAPH_BACKENDS
    from reslab.deploy.benchmark import default_backends, default_precisions
    from reslab.nn.module_network import GraphModel

    backends = [item.strip() for item in (options.backends or "").split(",") if item.strip()]
    precisions = [] if options.precision == "auto" else [item.strip() for item in options.precision.split(",")]
    if isinstance(network, GraphModel):
        return backends or [GRAPH_BACKENDS[network.path.suffix]], precisions or [network.precision]
    return backends or default_backends(device), precisions or default_precisions(device)


def _inference_summary(
    name: str, input_shape: tuple[int, ...], hardware: dict[str, Any], rounds: int
) -> dict[str, str]:
    return {
        "measured": f"inference of {name} at {format_shape(input_shape)} on random images, {rounds} alternating rounds",
        "machine": f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads",
    }
