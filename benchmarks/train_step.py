"""A training step: reslab, the plain loop of the tutorials, and torchvision, timm, Lightning and Keras if installed.

    python benchmarks/train_step.py resnet18_d2l        1x96x96, batch 64
    python benchmarks/train_step.py resnet20_cifar      3x32x32, batch 128
    python benchmarks/train_step.py resnet50            3x224x224, batch 16

All candidates see the same random batch, already in memory, and take plain SGD steps (`torch.optim.SGD`, lr 0.05). The
other libraries' networks run in channels-last, in float32 and under autocast to bf16, because which is faster depends
on the processor. `--only ours,plain` runs only these candidates.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torchvision
from side_by_side import Step, clock_name, make_parser, report_rates, run_rounds, set_up
from torch import Tensor, nn
from torch.nn import functional
from tutorial_networks import cifar_resnet20, d2l_resnet18, plain_step

from reslab.nn.factory import create_model
from reslab.spec.optim import OptimizerConfig
from reslab.spec.recipe import Recipe
from reslab.training.benchmark import resolve_fast_recipe
from reslab.training.loop import TrainStep
from reslab.training.optim.factory import build_optimizer

Build = Callable[[], nn.Module]
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}
LIGHTNING_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}


def torchvision_resnet18() -> nn.Module:
    """Return torchvision's resnet18, with a first convolution for grayscale images."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


def timm_model(name: str, **options: int) -> nn.Module:
    """Return a network of timm."""
    return importlib.import_module("timm").create_model(name, **options)


@dataclass(frozen=True)
class Case:
    """A network of ours with its batch; `plain` builds the tutorials' one, `others` those of other libraries.

    `lightning` builds the network for Lightning Fabric; `keras` is the name of one in keras.applications.
    """

    size: tuple[int, int, int]
    batch_size: int
    num_classes: int
    plain: Build
    others: Mapping[str, Build] = field(default_factory=dict)
    lightning: Build | None = None
    keras: str = ""

    def batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random images and labels."""
        x = torch.randn(self.batch_size, *self.size, device=device)
        return x, torch.randint(self.num_classes, (self.batch_size,), device=device)


CASES = {
    "resnet18_d2l": Case(
        (1, 96, 96), 64, 10, d2l_resnet18,
        {"torchvision": torchvision_resnet18, "timm": lambda: timm_model("resnet18", num_classes=10, in_chans=1)},
        lightning=torchvision_resnet18,
    ),
    "resnet20_cifar": Case((3, 32, 32), 128, 10, cifar_resnet20, {"plain network": cifar_resnet20}),
    "resnet50": Case(
        (3, 224, 224), 16, 1000, torchvision.models.resnet50,
        {"torchvision": torchvision.models.resnet50, "timm": lambda: timm_model("resnet50")},
        lightning=torchvision.models.resnet50, keras="ResNet50",
    ),
}  # fmt: skip


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the tutorials' optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def ours(name: str, x: Tensor, y: Tensor, precision: str = "auto", compiled: bool = False) -> Step:
    """Return reslab's training step with the options of its fast recipe."""
    recipe = resolve_fast_recipe(x.device, precision, compiled=compiled)
    recipe = replace(recipe, optimizer=OptimizerConfig(lr=0.05, momentum=0.0))
    return training_step(create_model(name).to(x.device).train(), recipe, x, y)


def training_step(model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor) -> Step:
    """Return a step of the training loop, without metrics: the other candidates compute none either."""
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    compiled_model = torch.compile(model) if recipe.compile else None
    train_step = TrainStep(recipe.precision, recipe.channels_last, compiled_model=compiled_model)
    optimizer = build_optimizer(model, recipe.optimizer)
    return lambda: train_step.run(model, functional.cross_entropy, optimizer, x, y)


def plain(build: Build, x: Tensor, y: Tensor) -> Step:
    """Return a step of the tutorials' network in the tutorials' loop: float32, N C H W."""
    model = build().to(x.device).train()
    optimizer = sgd(model)
    return lambda: plain_step(model, optimizer, x, y)


def channels_last(build: Build, x: Tensor, y: Tensor, precision: str) -> Step:
    """Return a step of another library's network in channels-last, under autocast unless in float32."""
    model = build().to(x.device, memory_format=torch.channels_last).train()
    inputs, optimizer, dtype = x.contiguous(memory_format=torch.channels_last), sgd(model), PRECISIONS[precision]

    def step() -> None:
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            plain_step(model, optimizer, inputs, y)

    return step


def lightning_step(build: Build, x: Tensor, y: Tensor, precision: str) -> Step:
    """Return a step of a network of torchvision in Lightning Fabric, without a Trainer's overhead."""
    fabric_module: Any = importlib.import_module("lightning.fabric")
    model = build().to(memory_format=torch.channels_last).train()
    fabric = fabric_module.Fabric(accelerator=x.device.type, devices=1, precision=LIGHTNING_PRECISIONS[precision])
    model, optimizer = fabric.setup(model, sgd(model))
    inputs = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(functional.cross_entropy(model(inputs), y))
        optimizer.step()

    return step


def keras_step(name: str, x: Tensor, y: Tensor, num_classes: int) -> Step:
    """Return `train_on_batch` of a network of Keras on torch, in float32 and N C H W, without its softmax."""
    os.environ["KERAS_BACKEND"] = "torch"
    keras: Any = importlib.import_module("keras")
    keras.config.set_image_data_format("channels_first")
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=tuple(x.shape[1:]), classes=num_classes, classifier_activation=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss)
    return lambda: model.train_on_batch(x, y)


def make_candidates(name: str, device: torch.device) -> dict[str, Callable[[], Step]]:
    """Return the builder of each candidate; those of packages that are not installed raise ImportError."""
    case = CASES[name]
    x, y = case.batch(device)
    builders: dict[str, Callable[[], Step]] = {
        "plain float32 loop": lambda: plain(case.plain, x, y),
        "ours": lambda: ours(name, x, y),
        "ours, compiled": lambda: ours(name, x, y, compiled=True),
    }
    for precision in PRECISIONS:
        for library, build in case.others.items():
            builders[f"{library}, {precision}"] = lambda build=build, precision=precision: channels_last(
                build, x, y, precision
            )
        if case.lightning is not None:
            builders[f"Lightning Fabric, {precision}"] = lambda build=case.lightning, precision=precision: (
                lightning_step(build, x, y, precision)
            )
    if case.keras:
        builders["Keras, float32"] = lambda: keras_step(case.keras, x, y, case.num_classes)
    return builders


def build_candidates(builders: Mapping[str, Callable[[], Step]], only: str) -> dict[str, Step]:
    """Return the steps of the selected candidates, without those of packages that are not installed."""
    prefixes = tuple(only.split(",")) if only else ("",)
    candidates: dict[str, Step] = {}
    for name, build in builders.items():
        if name.startswith(prefixes):
            try:
                candidates[name] = build()
            except ImportError as error:
                print(f"{name}: left out ({error})")
    return candidates


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--only", default="", help="prefixes of candidates to run, separated by commas")
    args = parser.parse_args()
    set_up(args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    candidates = build_candidates(make_candidates(args.case, device), args.only)
    case = CASES[args.case]
    size, precision = "x".join(map(str, case.size)), resolve_fast_recipe(device).precision
    title = (
        f"{args.case}, {size}, batch {case.batch_size}, {args.rounds} rounds, {clock_name(args)}; "
        f"ours is in {precision}, which it chooses here"
    )
    rates = run_rounds(candidates, case.batch_size, 3, args)
    report_rates(title, rates, next(iter(candidates)), args.json, ours=[name for name in rates if name[:4] == "ours"])


if __name__ == "__main__":
    main()
