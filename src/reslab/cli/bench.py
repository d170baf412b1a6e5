"""`reslab bench NAME`: how fast this machine trains a network, on random images."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Device, Json, Settings
from reslab.cli.output import print_json, print_pairs, print_table
from reslab.cli.show import describe
from reslab.report.tables import count, number, percent, shape
from reslab.spec.errors import unknown

if TYPE_CHECKING:
    from reslab.training.bench import StepSpeed

TASKS = ("train",)


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A network (`reslab models`), a run, or its weights.")],
    task: Annotated[str, typer.Option("--task", help="What is measured: train, a training step.")] = "train",
    input_size: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="The input, such as 1x96x96. [default: its own]")
    ] = None,
    batch: Annotated[int, typer.Option("-b", "--batch", "--batch-size", min=1, help="Images a step.")] = 64,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="Outputs. [default: its own]")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, float32, bf16 or fp16; several apart by commas.")
    ] = "auto",
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network. [default: the recipe's choice]")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings, of which the median is told.")] = 5,
    device: Device = "auto",
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Measure training steps as the recipe fast-cpu (on a GPU fast-gpu) takes them: images/s, memory, matrix rate."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    arch, sizes = describe(name, input_size, num_classes, settings)
    from reslab.training.bench import measure_step, quick_settings
    from reslab.training.device import choose_device, hardware

    place = choose_device(device)
    recipes = [quick_settings(place, each.strip(), compiled) for each in precision.split(",")]
    found = [measure_step(arch, sizes, batch, recipe, place, repeats) for recipe in recipes]
    facts = hardware(place)
    if json:
        results = [asdict(each) for each in found]
        print_json({"model": arch.name, "task": task, "input": sizes, "results": results, "hardware": facts})
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
        count(speed.batch),
        number(speed.images_per_second),
        f"{number(slow)} to {number(quick)}",
        number(speed.latency_ms_p50),
        "–" if speed.memory_bytes is None else f"{speed.memory_bytes / 2**20:,.0f} MiB",
        percent(speed.share, 1),
    )


def _summary(
    name: str, sizes: tuple[int, int, int], found: list["StepSpeed"], hardware: dict[str, Any]
) -> list[tuple[str, str]]:
    speed = found[0]
    rates = {each.precision: f"{each.matrix_flops_per_second / 1e9:,.0f} GFLOP/s in {each.precision}" for each in found}
    return [
        ("measured", f"a training step of {name} at {shape(sizes)}, random images, median of {speed.repeats} timings"),
        ("matrix rate", f"{', '.join(rates.values())} (a matrix product); the share counts 6 x multiply-adds a step"),
        ("on", f"{hardware['processor']}, {hardware['device_name']}, {hardware['num_threads']} threads"),
    ]
