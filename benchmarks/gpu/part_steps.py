"""Training steps on one GPU: `d2l` (resnet18_d2l at 1x96x96) and `resnet50` (3x224x224, against torchvision).

All candidates of a table see the same random batch, already in memory, and take turns, round after round. Ours are
training steps with the options of the recipe fast-gpu (bf16, channels-last), in the settings of training: deterministic
cuDNN kernels, unless the name says `cuDNN's search`. In one CUDA graph is how fast-gpu trains.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from graphs import capture, synchronize
from part_result import PartArgs, PartResult, parse_part_args
from side_by_side import Step, alternate
from torch import Tensor
from torch.nn import functional
from train_step import plain, training_step
from tutorial_networks import d2l_resnet18

from reslab.nn import matmul_convs
from reslab.nn.factory import create_model
from reslab.runtime.device import deterministic_mode
from reslab.spec.optim import OptimizerConfig
from reslab.training.benchmark import resolve_fast_recipe

TUTORIAL_RATE, AIM = 4680, 93_000
MAX_PATCH_SIZE = matmul_convs.MAX_PATCH_SIZE
SGD = OptimizerConfig(lr=0.05, momentum=0.9)


@dataclass(frozen=True)
class Batch:
    """A random batch and the network it is for."""

    model: str
    num_classes: int
    x: Tensor
    y: Tensor


Builder = Callable[[Batch], Step]


def make_batch(model: str, size: tuple[int, ...], num_classes: int, batch_size: int) -> Batch:
    """Return a random batch on the GPU, or without one on the CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, *size, generator=generator).to(device)
    return Batch(model, num_classes, x, torch.randint(num_classes, (batch_size,), generator=generator).to(device))


def with_settings(step: Step, *, search: bool, deterministic: bool, products: bool = True) -> Step:
    """Return the step under these settings of cuDNN and ours, which the candidate before may have left otherwise."""

    def run() -> None:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = search, deterministic
        matmul_convs.MAX_PATCH_SIZE = MAX_PATCH_SIZE if products else 0
        step()

    return run


def ours(*, compiled: bool = False, search: bool = False, graph: bool = False, products: bool = True) -> Builder:
    """Return the builder of our step: eager or compiled, captured in a CUDA graph, without `patch_convs`.

    Not with both `search` and `graph`: replays of kernels that cuDNN's search had chosen ended in illegal memory
    accesses (torch 2.11, CUDA 13.0).
    """

    def build(batch: Batch) -> Step:
        recipe = replace(resolve_fast_recipe(batch.x.device, compiled=compiled), optimizer=SGD, channels_last=True)
        model = create_model(batch.model, num_classes=batch.num_classes).to(batch.x.device).train()
        x = batch.x.contiguous(memory_format=torch.channels_last)
        step = training_step(model, recipe, x, batch.y)
        step = with_settings(step, search=search, deterministic=not search, products=products)
        return capture(step) if graph else step

    return build


def torchvision_resnet50(*, compiled: bool) -> Builder:
    """Return the builder of torchvision's step at its best: channels-last, bf16, cuDNN's search, compiled."""

    def build(batch: Batch) -> Step:
        from torchvision.models import resnet50

        model = resnet50().to(batch.x.device, memory_format=torch.channels_last).train()
        x = batch.x.contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        forward: Any = torch.compile(model) if compiled else model

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                loss = functional.cross_entropy(forward(x), batch.y)
            loss.backward()
            optimizer.step()

        return with_settings(step, search=True, deterministic=False)

    return build


def tutorial(batch: Batch) -> Step:
    """Return the tutorial's own step: float32, N C H W."""
    return with_settings(plain(d2l_resnet18, batch.x, batch.y), search=False, deterministic=False)


D2L: dict[str, Builder] = {
    "tutorial, float32": tutorial,
    "ours, eager": ours(),
    "ours, compiled, one CUDA graph": ours(compiled=True, graph=True),
    "ours, compiled, one CUDA graph, first convolution by cuDNN": ours(compiled=True, graph=True, products=False),
    "ours, compiled": ours(compiled=True),
    "ours, compiled, cuDNN's search": ours(compiled=True, search=True),
}
RESNET50: dict[str, Builder] = {
    "torchvision, eager": torchvision_resnet50(compiled=False),
    "ours, compiled, one CUDA graph": ours(compiled=True, graph=True),
    "torchvision, compiled": torchvision_resnet50(compiled=True),
    "ours, compiled": ours(compiled=True),
    "ours, eager": ours(),
}


@dataclass(frozen=True)
class Case:
    """A table: the network, its input, batch sizes, candidates by name; the first is the one to compare with."""

    model: str
    size: tuple[int, ...]
    num_classes: int
    batch_sizes: tuple[int, ...]
    builders: dict[str, Builder]


CASES = {
    "d2l": Case("resnet18_d2l", (1, 96, 96), 10, (1024, 256), D2L),
    "resnet50": Case("resnet50", (3, 224, 224), 1000, (256,), RESNET50),
}
SMALL_D2L, SMALL_RESNET50 = (
    {name: builder for name, builder in builders.items() if "compiled" not in name} for builders in (D2L, RESNET50)
)
SMALL = {
    "d2l": Case("resnet18_d2l", (1, 32, 32), 10, (4, 2), SMALL_D2L),
    "resnet50": Case("resnet50", (3, 32, 32), 1000, (2,), SMALL_RESNET50),
}


def synchronized_clock() -> float:
    """Return the time after the GPU has finished what it was given."""
    synchronize()
    return time.perf_counter()


class SideBySide:
    """Builds the candidates of a case one after another, and lets all that were built take turns."""

    def __init__(self, case: Case, batch_size: int, result: PartResult, small: bool) -> None:
        self.case, self.batch_size, self.result, self.small = case, batch_size, result, small
        self.batch = make_batch(case.model, case.size, case.num_classes, batch_size)
        self.steps: dict[str, Step] = {}
        self.compile_seconds = 0.0
        self.title = f"{case.model}, {'x'.join(map(str, case.size))}, batch {batch_size}"

    def build(self, name: str) -> None:
        """Build and warm up a candidate; one that fails is noted and left out."""
        start = time.perf_counter()
        try:
            step = self.case.builders[name](self.batch)
            for _ in range(1 if self.small else 5):
                step()
            synchronize()
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0][:200].replace("|", "/")
            self.result.note(f"{self.title}: {name} failed: {text}")
            return
        self.steps[name] = step
        seconds = time.perf_counter() - start
        if "compiled" in name:
            self.compile_seconds = max(self.compile_seconds, seconds)
        self.result.note(f"{self.title}: {name} ready after {seconds:.1f} s")

    def measure(self, rounds: int, seconds: float) -> dict[str, float]:
        """Write the table of all candidates so far; return the median images/s of each."""
        if not self.steps:
            return {}
        rates = alternate(self.steps, self.batch_size, rounds, 1, seconds, synchronized_clock)
        baseline = rates[next(iter(rates))]
        rows = [
            {
                "candidate": name,
                "images/s": statistics.median(own),
                "slowest": min(own),
                "fastest": max(own),
                "ratio": statistics.median(rate / base for rate, base in zip(own, baseline, strict=True)),
            }
            for name, own in rates.items()
        ]
        self.result.set_rows(self.title, rows)
        return {name: statistics.median(own) for name, own in rates.items()}


def describe(name: str, rates: dict[str, float]) -> str:
    """Return the line of a part: our best against the aim."""
    best = max((candidate for candidate in rates if candidate.startswith("ours")), key=rates.__getitem__, default="")
    if not best:
        return "nothing of ours was measured"
    text = f"best {rates[best]:,.0f} images/s ({best})"
    if name == "d2l":
        return f"{text}: {rates[best] / TUTORIAL_RATE:.1f} times {TUTORIAL_RATE:,}, {rates[best] / AIM:.2f} of the aim"
    theirs = max((rate for candidate, rate in rates.items() if candidate.startswith("torchvision")), default=0.0)
    return text + (f", {rates[best] / theirs:.3f} of torchvision's best" if theirs else "")


def main(name: str, args: PartArgs) -> int:
    """Measure after every few candidates, so that a compilation that takes too long costs only its own row."""
    result = PartResult(args.result, args.seconds)
    case = (SMALL if args.small else CASES)[name]
    rounds, seconds = (2, 0.05) if args.small else (5, 0.3)
    best: dict[str, float] = {}
    with deterministic_mode():
        for batch_size in case.batch_sizes:
            table = SideBySide(case, batch_size, result, args.small)
            names = list(case.builders)
            if batch_size != case.batch_sizes[0]:  # a second size: only the best of ours, and what it is compared with
                ranked = sorted((n for n in best if n.startswith("ours")), key=best.__getitem__, reverse=True)
                names = [names[0], *ranked[:2]]
            for index, candidate in enumerate(names):
                needed = max(10.0, table.compile_seconds)
                if result.seconds_left < needed and index > 1 and not args.small:
                    result.note(f"{table.title}: no time for {candidate}")
                    continue
                table.build(candidate)
                if index:  # after each, so that a candidate that fails costs only its own row
                    is_last = index == len(names) - 1
                    rates = table.measure(rounds if is_last else 2, seconds)
                    if batch_size == case.batch_sizes[0]:
                        best = rates
                        result.set_line(describe(name, best))
            torch.compiler.reset()
            del table
    result.finish()
    return 0


if __name__ == "__main__":
    case_name = sys.argv.pop(1)
    sys.exit(main(case_name, parse_part_args(__doc__)))
