"""A training step: ours, the plain loop of the tutorials, and the networks of torchvision, timm and Lightning.

    python benchmarks/train_step.py resnet18_d2l        1x96x96, batch 64
    python benchmarks/train_step.py resnet20_cifar      3x32x32, batch 128, ours compiled too

All see the same random batch, already in memory, and take plain SGD steps (ours with `torch.optim.SGD`, lr 0.05).
`--only ours,plain` leaves contestants out.
"""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from side_by_side import Take, options, report, run
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
    """The tutorials' optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def ours(name: str, x: Tensor, y: Tensor, compiled: bool) -> Take:
    """The step of reslab's loop with the settings of its recipe for speed."""
    recipe = replace(resolve_fast_recipe(x.device, compiled=compiled), optimizer=OptimizerConfig(lr=0.05, momentum=0.0))
    return step_of(create_model(name).to(x.device).train(), recipe, x, y)


def step_of(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor) -> Take:
    """A step as the loop takes it: the tally's counting of hits is not in it, as it is not in the others."""
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    run = torch.compile(model) if recipe.compile else None
    stepping = TrainStep(recipe.precision, recipe.channels_last, compiled_model=run)
    optimizer = build_optimizer(model, recipe.optimizer)
    return lambda: stepping.run(model, functional.cross_entropy, optimizer, x, y)


def plain(build: Callable[[], nn.Module], x: Tensor, y: Tensor) -> Take:
    """The tutorials' network in the tutorials' loop."""
    model = build().to(x.device).train()
    optimizer = sgd(model)
    return lambda: plain_step(model, optimizer, x, y)


def quick(model: nn.Module, x: Tensor, y: Tensor) -> Take:
    """Another library's network in the loop with autocast and channels-last."""
    model = model.to(x.device, memory_format=torch.channels_last).train()
    there, optimizer = x.contiguous(memory_format=torch.channels_last), sgd(model)
    return lambda: autocast_step(model, optimizer, there, y)


def torchvisions(x: Tensor, y: Tensor) -> Take:
    """torchvision's resnet18, its first convolution for gray pictures."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return quick(model, x, y)


def timms(x: Tensor, y: Tensor) -> Take:
    """timm's resnet18."""
    import timm

    return quick(timm.create_model("resnet18", num_classes=10, in_chans=1), x, y)


def lightnings(x: Tensor, y: Tensor) -> Take:
    """torchvision's resnet18 under Lightning's Fabric at bf16-mixed: its step without a Trainer's extras."""
    fabric_module: Any = importlib.import_module("lightning.fabric")
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model = model.to(memory_format=torch.channels_last)
    fabric = fabric_module.Fabric(accelerator=x.device.type, devices=1, precision="bf16-mixed")
    model, optimizer = fabric.setup(model, sgd(model))
    there = x.contiguous(memory_format=torch.channels_last)

    def take() -> None:
        optimizer.zero_grad()
        fabric.backward(functional.cross_entropy(model(there), y))
        optimizer.step()

    return take


def contestants(case: str, device: torch.device) -> tuple[dict[str, Callable[[], Take]], int]:
    """Who takes part, and the images of a batch."""
    size, batch, build = CASES[case]
    x, y = torch.randn(batch, *size, device=device), torch.randint(10, (batch,), device=device)
    found: dict[str, Callable[[], Take]] = {
        "plain float32 loop": lambda: plain(build, x, y),
        "ours": lambda: ours(case, x, y, compiled=False),
        "ours, compiled": lambda: ours(case, x, y, compiled=True),
    }
    if case == "resnet18_d2l":
        found |= {
            "torchvision, autocast": lambda: torchvisions(x, y),
            "timm, autocast": lambda: timms(x, y),
            "Lightning Fabric": lambda: lightnings(x, y),
        }
    return found, batch


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--only", default="", help="contestants whose names begin so, apart by commas")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    makers, batch = contestants(asked.case, device)
    wanted = tuple(asked.only.split(",")) if asked.only else ("",)
    taking: dict[str, Take] = {}
    for name, make in makers.items():
        if name.startswith(wanted):
            with contextlib.suppress(ImportError):
                taking[name] = make()
    size = "x".join(str(side) for side in CASES[asked.case][0])
    clock = "processor time" if asked.processor_time else "wall-clock time"
    title = f"{asked.case}, {size}, batch {batch}: {asked.rounds} rounds, {clock}"
    rates = run(taking, batch, 3, asked)
    report(title, rates, next(iter(taking)), asked.json)


if __name__ == "__main__":
    main()
