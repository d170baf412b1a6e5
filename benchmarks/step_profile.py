"""Profile a training step: its time by part, and its speed relative to that of its convolutions alone.

    python benchmarks/step_profile.py --threads 1 --processor-time

For each network and precision, in alternating rounds: every convolution of a step (forward, gradient of the weights,
gradient of the input) alone, at its own shape in channels-last, and our whole training step. The sum of the
convolutions is the convolution limit: the images/s of a step in which nothing else takes time. The 3x3 convolutions are
also reported in GFLOP/s, beside a large matrix product. torch.profiler then gives each kind of operation its share of
the step.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import clock_name, make_parser, report, round_ratios, set_up
from tables import Column
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from train_step import CASES, PRECISIONS, Case, ours
from tutorial_networks import plain_step

GOAL = 0.7
MATMUL_SIZE = 2048
# Operations by the parts of their names, the first that fits; `rest` are all others.
KINDS = {
    "convolution": ("convolution", "slow_conv"),
    "norm": ("batch_norm",),
    "activation": ("relu", "threshold", "clamp_min"),
    "pool": ("pool", "aten::mean"),
    "add": ("aten::add",),
    "copies and casts": ("copy", "clone", "contiguous", "aten::to", "reorder"),
}
OPTIMIZER, REST = "optimizer", "rest"
FORWARD, TO_INPUT, TO_WEIGHTS = "forward", "to the input", "to the weights"


@dataclass(frozen=True)
class Convolution:
    """A convolution of a step: the shapes of its input and weights, and the other arguments of aten::convolution."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    has_bias: bool
    needs_input_grad: bool

    @property
    def is_3x3(self) -> bool:
        """True for a dense 3x3 convolution of more than the channels of an image."""
        return self.weight_shape[2:] == (3, 3) and self.groups == 1 and self.weight_shape[1] > 4

    @property
    def flops(self) -> int:
        """Floating-point operations of each of the three passes: 2 x multiply-adds."""
        sides = [
            (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for side, pad, dilation, kernel, stride in zip(
                self.input_shape[2:], self.padding, self.dilation, self.weight_shape[2:], self.stride, strict=True
            )
        ]
        out, channels, height, width = self.weight_shape
        return 2 * self.input_shape[0] * sides[0] * sides[1] * out * channels * height * width

    def passes(self, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
        """Return a function for each pass, on random tensors in channels-last."""
        x, weight = (
            torch.randn(shape).to(dtype, memory_format=torch.channels_last)
            for shape in (self.input_shape, self.weight_shape)
        )
        bias = torch.randn(self.weight_shape[0]).to(dtype) if self.has_bias else None
        options = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        y = torch.ops.aten.convolution(x, weight, bias, *options)
        bias_sizes = [self.weight_shape[0]] if self.has_bias else None

        def backward(*mask: bool) -> object:
            return torch.ops.aten.convolution_backward(y, x, weight, bias_sizes, *options, mask)

        passes: dict[str, Callable[[], object]] = {
            FORWARD: lambda: torch.ops.aten.convolution(x, weight, bias, *options),
            TO_WEIGHTS: lambda: backward(False, True, self.has_bias),
        }
        if self.needs_input_grad:
            passes[TO_INPUT] = lambda: backward(True, False, False)
        return passes


class _Recorder(TorchDispatchMode):
    """Counts the convolutions of the backward pass of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, x, weight, bias_sizes, stride, padding, dilation, _, _, groups, mask = args
            convolution = Convolution(
                tuple(x.shape), tuple(weight.shape), *map(tuple, (stride, padding, dilation)), groups,
                bool(bias_sizes) and bias_sizes != [0], bool(mask[0]),
            )  # fmt: skip
            self.count[convolution] += 1
        return func(*args, **(kwargs or {}))


def convolutions(case: Case) -> Counter[Convolution]:
    """Return the convolutions of a training step of the tutorials' network, and how often each occurs."""
    model = case.plain().train()
    recorder = _Recorder()
    with recorder:
        plain_step(model, torch.optim.SGD(model.parameters(), lr=0.05), *case.batch(torch.device("cpu")))
    return recorder.count


def seconds_of(function: Callable[[], object], clock: Callable[[], float], at_least: float) -> float:
    """Return the seconds of one call, the mean of as many calls as take `at_least` seconds."""
    start, calls = clock(), 0
    while not calls or clock() - start < at_least:
        function()
        calls += 1
    return (clock() - start) / calls


def measure(name: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a network in a precision: limit, step, shares, and the rates of the 3x3 convolutions."""
    case, clock = CASES[name], time.process_time if args.processor_time else time.perf_counter
    count = convolutions(case)
    passes = [
        (convolution, kind, function)
        for convolution in count
        for kind, function in convolution.passes(PRECISIONS[precision] or torch.float32).items()
    ]
    step = ours(name, *case.batch(torch.device("cpu")), precision)
    for function in (*(function for _, _, function in passes), step, step):
        function()
    limits, steps = [], []
    rates: dict[str, list[float]] = {FORWARD: [], TO_INPUT: [], TO_WEIGHTS: []}
    for _ in range(args.rounds):
        seconds = [seconds_of(function, clock, args.seconds / len(passes)) for _, _, function in passes]
        timed = list(zip(passes, seconds, strict=True))
        limits.append(case.batch_size / sum(count[convolution] * value for (convolution, _, _), value in timed))
        steps.append(case.batch_size / seconds_of(step, clock, args.seconds))
        for pass_name, values in rates.items():
            own = [(c, count[c], value) for (c, kind, _), value in timed if kind == pass_name and c.is_3x3]
            values.append(sum(n * c.flops for c, n, _ in own) / sum(n * value for _, n, value in own) / 1e9)
    return {
        "name": f"{name}, {precision}", "limit": limits, "ours": steps, "share": round_ratios(steps, limits),
        **{f"rate {kind}": values for kind, values in rates.items()}, **profile_shares(step),
    }  # fmt: skip


def profile_shares(step: Callable[[], object]) -> dict[str, float]:
    """Return the share of each kind of operation in the processor time of a step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    totals = dict.fromkeys((*KINDS, OPTIMIZER, REST), 0.0)
    for event in profiler.events():
        totals[kind_of(event)] += event.self_cpu_time_total
    return {kind: total / sum(totals.values()) for kind, total in totals.items()}


def kind_of(event: Any) -> str:
    """Return the kind of an operation of the profiler; all within a step of the optimizer is the optimizer's."""
    parent = event
    while parent is not None:
        if parent.name.startswith("Optimizer."):
            return OPTIMIZER
        parent = parent.cpu_parent
    return next((kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)), REST)


def columns() -> list[Column]:
    """Return the columns of the table."""
    return [
        Column("name", ""),
        Column("limit", "convolution limit, images/s", ",.1f"),
        Column("ours", "ours, images/s", ",.1f"),
        Column("share", "of the limit", ".0%"),
        *(Column(f"rate {kind}", f"3x3 {kind}, GFLOP/s", ".0f") for kind in (FORWARD, TO_INPUT, TO_WEIGHTS)),
        *(Column(kind, f"share of {kind}", ".1%") for kind in (*KINDS, OPTIMIZER, REST)),
    ]


def matmul_rate(precision: str, clock: Callable[[], float]) -> float:
    """Return the GFLOP/s of a product of two matrices of MATMUL_SIZE rows and columns, the fastest of a few."""
    left, right = (torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(PRECISIONS[precision]) for _ in range(2))
    with torch.no_grad():
        return 2e-9 * MATMUL_SIZE**3 / min(seconds_of(lambda: left @ right, clock, 0.2) for _ in range(5))


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="names of networks, separated by commas")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="separated by commas")
    args = parser.parse_args()
    set_up(args)
    rows: list[Mapping[str, Any]] = []
    for name in args.cases.split(","):
        for precision in args.precisions.split(","):
            rows.append(measure(name, precision, args))
            print(rows[-1], flush=True)
    sizes = ", ".join(f"{name} {'x'.join(map(str, CASES[name].size))} batch {CASES[name].batch_size}"
                      for name in args.cases.split(","))  # fmt: skip
    clock = time.process_time if args.processor_time else time.perf_counter
    products = [f"{matmul_rate(precision, clock):.0f} in {precision}" for precision in args.precisions.split(",")]
    notes = [
        f"A product of two {MATMUL_SIZE}x{MATMUL_SIZE} matrices, GFLOP/s: {', '.join(products)}.",
        f"The goal is {GOAL:.0%} of the convolution limit. The percentages of the kinds are shares of a profiled step.",
    ]
    report(args.json, f"{sizes}; {args.rounds} rounds, {clock_name(args)}", columns(), rows, notes, transposed=True)


if __name__ == "__main__":
    main()
