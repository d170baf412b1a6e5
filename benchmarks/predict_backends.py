"""Inference speed of ResNet-50 in every backend, relative to torchvision's eager model and to the bare runtimes.

    python benchmarks/predict_backends.py --batch-size 16    ResNet-50 at 224x224
    python benchmarks/predict_backends.py --agreement FILE   a third-party CIFAR-10 ResNet-20 on the test images

The weights are random, which takes the same time. In each round every candidate runs once; the figures are medians over
the rounds, the ratios medians of those within a round. int8 is calibrated on random images.
"""

import argparse
import functools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bare_runtimes import RUNTIMES, bare_step
from side_by_side import Step, clock_name, make_parser, report, report_rates, round_ratios, run_rounds, set_up
from tables import Column
from torch import Tensor
from torchvision.models import resnet50

from reslab.data.registry import open_dataset
from reslab.deploy.backends.registry import can_compile, open_backend
from reslab.deploy.benchmark import backend_precision_pairs, default_backends, default_precisions
from reslab.deploy.export.verification import compare_outputs, load_verification_data
from reslab.deploy.predictor import model_task
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess

BASELINE = "torchvision, eager float32"
# The targets relative to the baseline: batch size -> (candidate, factor).
TARGETS = {1: ("openvino, bf16", 3.2), 16: ("openvino, bf16", 3.9)}
MIN_AGREEMENT = 0.995
BARE = ", without reslab"
MIN_OF_BARE = 0.98
BACKBONE = "resnet20_cifar"
IMAGENET = Preprocess(3, "", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def torchvision_step(x: Tensor) -> Step:
    """Return a forward pass of torchvision's model, unchanged."""
    torch.manual_seed(0)
    model = resnet50().eval()

    def step() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return step


def make_candidates(x: Tensor, names: list[str], precisions: list[str]) -> dict[str, Step]:
    """Return the baseline and every backend in every precision, each with the bare runtime beside it.

    torch is also compiled, if there is a compiler.
    """
    network = create_model("resnet50", image_size=tuple(x.shape[-2:]))
    assert isinstance(network, ResidualNetwork)
    candidates: dict[str, Step] = {BASELINE: torchvision_step(x)}
    calibration_images = torch.randn(16, *x.shape[1:])
    cpu = torch.device("cpu")
    for name, precision in backend_precision_pairs(names, precisions, cpu):
        for compiled in (False, True)[: 1 + (name == "torch" and can_compile(cpu))]:
            backend = open_backend(
                network, name, precision, cpu, compiled=compiled, calibration_images=calibration_images
            )
            candidates[f"{name}, {precision}{', compiled' * compiled}"] = functools.partial(backend, x)
        if name in RUNTIMES:
            candidates[f"{name}, {precision}{BARE}"] = bare_step(network, name, precision, x, calibration_images)
    return candidates


def time_batch(args: argparse.Namespace) -> None:
    """Print the table of a batch size, and whether it meets its target."""
    x = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    rates = run_rounds(make_candidates(x, *selected_backends(args)), args.batch_size, 3, args)
    size = f"{args.image_size}x{args.image_size}"
    title = f"ResNet-50 at {size}, batch {args.batch_size}, random weights, {args.rounds} rounds, {clock_name(args)}"
    report_rates(title, rates, BASELINE, args.json)
    print(target_text(args.batch_size, rates))
    for name in rates:
        if name + BARE in rates:
            ratio = statistics.median(round_ratios(rates[name], rates[name + BARE]))
            verdict = "met" if ratio >= MIN_OF_BARE else "MISSED"
            print(f"{name}: {ratio:.3f} times the bare runtime; the target is {MIN_OF_BARE:g}: {verdict}")


def selected_backends(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the backends and precisions of the options, by default those available on this machine."""
    cpu = torch.device("cpu")
    names = args.backend.split(",") if args.backend else default_backends(cpu)
    return names, args.precision.split(",") if args.precision else default_precisions(cpu)


def target_text(batch_size: int, rates: Mapping[str, list[float]]) -> str:
    """Return whether the median ratio within a round meets the target for this batch size."""
    name, target = TARGETS.get(batch_size, ("", 0.0))
    if name not in rates:
        return "no target for this batch size and these backends"
    ratios = sorted(rate / base for rate, base in zip(rates[name], rates[BASELINE], strict=True))
    median = ratios[len(ratios) // 2]
    return f"{name}: {median:.2f} times {BASELINE}; the target is {target:g}: {'met' if median >= target else 'MISSED'}"


def check_agreement(args: argparse.Namespace) -> bool:
    """Print agreement and accuracy drop of every backend on CIFAR-10's test images; return whether all agree enough."""
    network = create_model(BACKBONE, pretrained=args.agreement, shortcut="pad-split")
    assert isinstance(network, ResidualNetwork)
    network.eval().preprocess = IMAGENET
    verification_data = load_verification_data(
        network, None, open_dataset("cifar10", args.data_dir), None, args.num_images
    )
    calibration_images = verification_data.calibration_images()
    task = model_task(network)
    rows: list[dict[str, Any]] = []
    cpu = torch.device("cpu")
    for name, precision in backend_precision_pairs(*selected_backends(args), cpu):
        backend = open_backend(network, name, precision, "cpu", calibration_images=calibration_images)
        comparison = compare_outputs(network, backend, verification_data.batches(), task)
        rows.append({"backend": name, "precision": precision, **comparison.to_dict()})
        print(rows[-1], flush=True)
    columns = [
        Column("backend", "backend"),
        Column("precision", "precision"),
        Column("agreement", "same class", ".2%"),
        Column("exported_value", "accuracy", ".2%"),
        Column("metric_drop", "points lost", "+.2f"),
        Column("max_difference", "largest difference", ".1e"),
    ]
    title = f"{BACKBONE} on CIFAR-10's test images, accuracy in float32 torch {comparison.value:.2%}"
    report(args.json, title, columns, rows)
    return all(row["agreement"] >= MIN_AGREEMENT for row in rows)


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--backend", default="", help="separated by commas (default: all installed)")
    parser.add_argument(
        "--precision", default="", help="separated by commas (default: all that this processor supports)"
    )
    parser.add_argument("--agreement", metavar="FILE", help="weights of a resnet20_cifar to compare the backends with")
    parser.add_argument("--data-dir", type=Path, help="directory of CIFAR-10, for --agreement")
    parser.add_argument("--num-images", type=int, help="number of test images (default: all)")
    args = parser.parse_args()
    set_up(args)
    if not args.agreement:
        time_batch(args)
        return
    met = check_agreement(args)
    print(f"at least {MIN_AGREEMENT:.1%} of the same class everywhere: {'yes' if met else 'NO'}")


if __name__ == "__main__":
    main()
