"""A training step: reslab, the plain loop of the tutorials, and the networks of torchvision, timm and Lightning.

    python benchmarks/train_step.py resnet18_d2l        1x96x96, batch 64
    python benchmarks/train_step.py resnet20_cifar      3x32x32, batch 128, also compiled

All candidates see the same random batch, already in memory, and take plain SGD steps (`torch.optim.SGD`, lr 0.05).
`--only ours,plain` runs only these candidates.
"""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from side_by_side import Step, make_parser, report, run_rounds
from torch import Tensor, nn
from torch.nn import functional
from tutorial_networks import autocast_step, cifar_resnet20, d2l_resnet18, plain_step

from reslab.nn.factory import create_model
from reslab.spec.optim import OptimizerConfig
from reslab.spec.recipe import Recipe
from reslab.training.benchmark import resolve_fast_recipe
from reslab.training.loop import TrainStep
from reslab.training.optim.factory import build_optimizer

CASES = {"resnet18_d2l": ((1, 96, 96), 64, d2l_resnet18), "resnet20_cifar": ((3, 32, 32), 128, cifar_resnet20)}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the tutorials' optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def ours(name: str, x: Tensor, y: Tensor, compiled: bool) -> Step:
    """Return reslab's training step with the options of its fast recipe."""
    recipe = replace(resolve_fast_recipe(x.device, compiled=compiled), optimizer=OptimizerConfig(lr=0.05, momentum=0.0))
    return training_step(create_model(name).to(x.device).train(), recipe, x, y)


def training_step(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor) -> Step:
    """Return a step of the training loop, without metrics: the other candidates compute none either."""
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    compiled_model = torch.compile(model) if recipe.compile else None
    train_step = TrainStep(recipe.precision, recipe.channels_last, compiled_model=compiled_model)
    optimizer = build_optimizer(model, recipe.optimizer)
    return lambda: train_step.run(model, functional.cross_entropy, optimizer, x, y)


def plain(build: Callable[[], nn.Module], x: Tensor, y: Tensor) -> Step:
    """Return a step of the tutorials' network in the tutorials' loop."""
    model = build().to(x.device).train()
    optimizer = sgd(model)
    return lambda: plain_step(model, optimizer, x, y)


def fast(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Return a step of another library's network with autocast and channels-last."""
    model = model.to(x.device, memory_format=torch.channels_last).train()
    inputs, optimizer = x.contiguous(memory_format=torch.channels_last), sgd(model)
    return lambda: autocast_step(model, optimizer, inputs, y)


def torchvision_step(x: Tensor, y: Tensor) -> Step:
    """Return a step of torchvision's resnet18, with a first convolution for grayscale images."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return fast(model, x, y)


def timm_step(x: Tensor, y: Tensor) -> Step:
    """Return a step of timm's resnet18."""
    import timm

    return fast(timm.create_model("resnet18", num_classes=10, in_chans=1), x, y)


def lightning_step(x: Tensor, y: Tensor) -> Step:
    """Return a step of torchvision's resnet18 in Lightning Fabric at bf16-mixed, without a Trainer's overhead."""
    fabric_module: Any = importlib.import_module("lightning.fabric")
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model = model.to(memory_format=torch.channels_last)
    fabric = fabric_module.Fabric(accelerator=x.device.type, devices=1, precision="bf16-mixed")
    model, optimizer = fabric.setup(model, sgd(model))
    inputs = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(functional.cross_entropy(model(inputs), y))
        optimizer.step()

    return step


def make_candidates(case: str, device: torch.device) -> tuple[dict[str, Callable[[], Step]], int]:
    """Return the builder of each candidate, and the batch size."""
    size, batch_size, build = CASES[case]
    x, y = torch.randn(batch_size, *size, device=device), torch.randint(10, (batch_size,), device=device)
    builders: dict[str, Callable[[], Step]] = {
        "plain float32 loop": lambda: plain(build, x, y),
        "ours": lambda: ours(case, x, y, compiled=False),
        "ours, compiled": lambda: ours(case, x, y, compiled=True),
    }
    if case == "resnet18_d2l":
        builders |= {
            "torchvision, autocast": lambda: torchvision_step(x, y),
            "timm, autocast": lambda: timm_step(x, y),
            "Lightning Fabric": lambda: lightning_step(x, y),
        }
    return builders, batch_size


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--only", default="", help="prefixes of candidates to run, separated by commas")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    builders, batch_size = make_candidates(args.case, device)
    prefixes = tuple(args.only.split(",")) if args.only else ("",)
    candidates: dict[str, Step] = {}
    for name, build in builders.items():
        if name.startswith(prefixes):
            with contextlib.suppress(ImportError):
                candidates[name] = build()
    size = "x".join(str(side) for side in CASES[args.case][0])
    clock = "processor time" if args.processor_time else "wall-clock time"
    title = f"{args.case}, {size}, batch {batch_size}: {args.rounds} rounds, {clock}"
    rates = run_rounds(candidates, batch_size, 3, args)
    report(title, rates, next(iter(candidates)), args.json)


if __name__ == "__main__":
    main()
