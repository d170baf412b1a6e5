"""Answers of ResNet-50 by every engine, against torchvision's eager float32 model; and how far the engines agree.

    python benchmarks/predict_backends.py                    ResNet-50 at 224x224, batches 1 and 16, two threads
    python benchmarks/predict_backends.py --agreement FILE   a CIFAR-10 ResNet-20 trained by others, on the test pictures

The weights are random, which costs the same time. A round gives each contestant its turn; the figures are medians over
the rounds, the ratio that within a round. Scales of int8 come from the same random pictures.
"""

import argparse
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from side_by_side import Take, machine, options, report, run
from torch import Tensor
from torchvision.models import resnet50

from reslab.data.registry import open_dataset
from reslab.deploy.backends.registry import can_compile, open_backend
from reslab.deploy.benchmark import backend_precision_pairs, default_backends, default_precisions
from reslab.deploy.export.verify import compare_outputs, load_verification_data
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess

BASE = "torchvision, eager float32"
# What is to be reached, times the base: batch -> (contestant, factor).
AIMS = {1: ("openvino, bf16", 3.2), 16: ("openvino, bf16", 3.9)}
LEAST_AGREEMENT = 0.995
IMAGENET = Preprocess(3, "", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def base(x: Tensor) -> Take:
    """torchvision's model as it comes."""
    torch.manual_seed(0)
    model = resnet50().eval()

    def take() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return take


def contestants(x: Tensor, names: list[str], precisions: list[str]) -> dict[str, Take]:
    """The base, then every engine in every precision it has; torch compiled too, where there is a compiler."""
    network = create_model("resnet50")
    assert isinstance(network, ResidualNetwork)
    found: dict[str, Take] = {BASE: base(x)}
    scales = torch.randn(16, *x.shape[1:])
    cpu = torch.device("cpu")
    for name, precision in backend_precision_pairs(names, precisions, cpu):
        for compiled in (False, True)[: 1 + (name == "torch" and can_compile(cpu))]:
            engine = open_backend(network, name, precision, cpu, calibration_images=scales, compiled=compiled)
            found[f"{name}, {precision}{', compiled' * compiled}"] = functools.partial(engine, x)
    return found


def time_batches(asked: argparse.Namespace) -> None:
    """A table for each batch, and whether its aim was reached."""
    names, precisions = wanted(asked)
    for batch in asked.batch:
        x = torch.randn(batch, 3, asked.side, asked.side)
        rates = run(contestants(x, names, precisions), batch, 3, asked)
        to = asked.json and asked.json.with_stem(f"{asked.json.stem}-{batch}")
        threads = f"{torch.get_num_threads()} threads"
        report(f"ResNet-50 at {asked.side}x{asked.side}, batch {batch}, {threads}", rates, BASE, to)
        print(judged(batch, rates))


def wanted(asked: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The engines and precisions named, else those of this machine."""
    cpu = torch.device("cpu")
    names = asked.engines.split(",") if asked.engines else default_backends(cpu)
    return names, asked.precision.split(",") if asked.precision else default_precisions(cpu)


def judged(batch: int, rates: Mapping[str, list[float]]) -> str:
    """Whether the aim for this batch was reached, by the median of the ratios within a round."""
    name, aim = AIMS.get(batch, ("", 0.0))
    if name not in rates:
        return "no aim for this batch and these engines"
    ratios = sorted(mine / other for mine, other in zip(rates[name], rates[BASE], strict=True))
    found = ratios[len(ratios) // 2]
    return f"{name}: {found:.2f} times {BASE}; the aim is {aim:g}: {'reached' if found >= aim else 'NOT reached'}"


def agreement(asked: argparse.Namespace) -> bool:
    """Every engine and precision on the test pictures of CIFAR-10: the same class, the accuracy lost."""
    network = create_model("resnet20_cifar", pretrained=asked.agreement, shortcut="pad-split")
    assert isinstance(network, ResidualNetwork)
    network.eval().preprocess = IMAGENET
    evidence = load_verification_data(network, None, open_dataset("cifar10", asked.data_dir), None, asked.images)
    scales = evidence.calibration_images()
    rows: list[dict[str, Any]] = []
    cpu = torch.device("cpu")
    for name, precision in backend_precision_pairs(*wanted(asked), cpu):
        engine = open_backend(network, name, precision, "cpu", calibration_images=scales)
        found = compare_outputs(network, engine, evidence.batches())
        rows.append({"engine": name, "precision": precision, **vars(found)})
        print(
            f"| {name} | {precision} | {found.agreement:.2%} | {found.top1:.2%} | {found.exported_top1:.2%} "
            f"| {found.accuracy_drop_points:+.2f} | {found.max_difference:.1e} |",
            flush=True,
        )
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    if asked.json:
        asked.json.write_text(json.dumps({"results": rows, "machine": machine()}, indent=2) + "\n")
    return all(row["num_agreeing"] >= LEAST_AGREEMENT * row["num_images"] for row in rows)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--engines", default="", help="apart by commas. [default: those installed]")
    parser.add_argument("--precision", default="", help="apart by commas. [default: those this processor has]")
    parser.add_argument("--agreement", metavar="FILE", help="weights of a resnet20_cifar to compare the engines on")
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 lies, for --agreement")
    parser.add_argument("--images", type=int, help="so many test pictures. [default: all]")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads or 2)
    if not asked.agreement:
        time_batches(asked)
        return
    print("| engine | precision | same class | accuracy in torch | in the engine | points lost | largest difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    reached = agreement(asked)
    print(f"at least {LEAST_AGREEMENT:.1%} of the same class everywhere: {'yes' if reached else 'NO'}")


if __name__ == "__main__":
    main()
