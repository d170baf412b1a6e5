"""`reslab demo`: train a residual network and its plain twin, and compare them in a report."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import Device, JsonFlag, Seed, complete_model, output_option
from reslab.cli.output import print_json, print_table, write_page
from reslab.cli.progress import ProgressDisplay
from reslab.report.format import format_duration, format_int, format_percent
from reslab.runtime.allocator import keep_freed_memory
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import parse_model_name

if TYPE_CHECKING:
    from reslab.data.dataset import DatasetSplits
    from reslab.report.pages.demo import DemoNetwork
    from reslab.training.run import Run

DATASET = "digits"
GRADIENT_BATCH_SIZE = 256


def demo(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=complete_model,
            help="Residual network; its plain twin is derived from it.",
        ),
    ] = "resnet56_cifar",
    epochs: Annotated[
        float, typer.Option("--epochs", metavar="FLOAT", help="Number of epochs of each of the two trainings.")
    ] = 20,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        output_option("DIR", "Folder of the two runs and the report.", "runs/TIME-demo"),
    ] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train a deep residual network and its plain twin on handwritten digits, and compare them in a report."""
    keep_freed_memory()
    archs = residual_and_plain(model)
    folder = output or _new_run_folder()
    from reslab.training.run_data import open_train_data
    from reslab.training.run_folder import require_empty_dir

    require_empty_dir(folder)
    data = open_train_data(DATASET)
    networks = []
    with ProgressDisplay() as display:
        for name, arch in archs.items():
            run, network = train_network(
                arch, data, folder / name, epochs=epochs, seed=seed, device=device, display=display
            )
            networks.append(network)
    report_path = write_demo_report(folder, run, data, networks)
    if as_json:
        print_json({"report": str(report_path), "networks": [_network_payload(network) for network in networks]})
        return
    print_table(["network", "depth", "parameters", "accuracy", "time"], [_network_row(network) for network in networks])


def residual_and_plain(model: str) -> dict[str, Arch]:
    """Return the residual network of this name and its plain twin, for the digits.

    Raises ValueError for an unknown name and for a network without shortcuts.
    """
    arch = ARCHS[parse_model_name(model).arch]
    model, arch = arch.name, replace(arch, in_channels=1, num_classes=10, image_size=(8, 8))
    if arch.merge == "none" or not arch.depths:
        raise invalid("a network with shortcuts", model, "resnet56_cifar")
    plain_name = model.replace("resnet", "plain", 1)
    return {
        "residual": arch,
        "plain": replace(arch.without_shortcuts(), name=plain_name if plain_name in ARCHS else f"plain {model}"),
    }


def train_network(
    arch: Arch,
    data: "DatasetSplits",
    output: Path,
    *,
    epochs: float,
    seed: int,
    device: str,
    display: ProgressDisplay,
) -> "tuple[Run, DemoNetwork]":
    """Train one network and measure its gradient norms before the first step and after the last."""
    import torch

    from reslab.nn.network import ResidualNetwork
    from reslab.report.pages.demo import DemoNetwork
    from reslab.training.train import train

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ResidualNetwork(arch)
    initial_gradient_norms = _gradient_norms(network, data)
    # The dataset by its name, which the run records, so that `serve` and `eval` can open the images again.
    run = train(network, DATASET, seed=seed, epochs=epochs, output=output, device=device, on_log=display)
    assert run.result is not None
    demo_network = DemoNetwork(
        arch.name,
        run.log.records(),
        initial_gradient_norms,
        run.result["top1"],
        run.result["train_seconds"],
        gradient_norms_trained=_gradient_norms(network, data),
        depth=arch.depth,
        params=sum(parameter.numel() for parameter in network.parameters()),
    )
    return run, demo_network


def _gradient_norms(network: Any, data: "DatasetSplits") -> list[tuple[str, float]]:
    """Return the norm of the loss gradient at the input of each block, for the first training images."""
    from reslab.analysis.gradients import block_gradient_norms
    from reslab.data.loader import eval_loader

    device = next(network.parameters()).device
    x, y, _ = next(iter(eval_loader(data.split("train"), GRADIENT_BATCH_SIZE, data.preprocess, device)))
    return block_gradient_norms(network, x, y)


def write_demo_report(folder: Path, run: "Run", data: "DatasetSplits", networks: "list[DemoNetwork]") -> Path:
    """Write report.html; the facts that both runs share are taken from `run`."""
    from reslab.report.pages.demo import DemoPage
    from reslab.training.run_report import page_metadata

    metadata = page_metadata(run, run.arch.input_size if run.arch else ())
    shared_keys = ("data", "images", "training", "augmentation", "precision", "seed", "hardware", "versions", "command")
    page = DemoPage(
        "A deep network with and without shortcuts",
        networks,
        metadata={name: metadata[name] for name in shared_keys if name in metadata},
        num_samples=len(data.split(data.eval_split)),
    )
    report_path = folder / "report.html"
    write_page(report_path, page)
    return report_path


def _new_run_folder() -> Path:
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-demo"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())


def _network_row(network: "DemoNetwork") -> tuple[str, ...]:
    counts = (str(network.depth), format_int(network.params))
    return (network.name, *counts, format_percent(network.top1), format_duration(network.train_seconds))


def _network_payload(network: "DemoNetwork") -> dict[str, Any]:
    names = ("name", "depth", "params", "top1", "train_seconds", "gradient_norms", "gradient_norms_trained")
    return {name: getattr(network, name) for name in names}
