"""Building a network, its forward pass and its torch.fx graph, compared with torchvision's in alternating rounds.

Run: python benchmarks/build.py resnet50
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from side_by_side import machine_info
from torch import fx, nn

from reslab.nn.factory import create_model

Build = Callable[[], nn.Module]


def processor_seconds(step: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measure(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Return the processor times of both in every round, after a round of warm-up; which is first alternates."""
    times = []
    for number in range(-1, rounds):
        if number % 2:
            second, first = processor_seconds(theirs), processor_seconds(ours)
        else:
            first, second = processor_seconds(ours), processor_seconds(theirs)
        if number >= 0:
            times.append((first, second))
    return times


def on_meta(build: Build) -> Build:
    """Return a function that builds the network without memory for its weights."""

    def build_on_meta() -> nn.Module:
        with torch.device("meta"):
            return build()

    return build_on_meta


def table_row(label: str, times: list[tuple[float, float]]) -> str:
    """Return a line of the table: the medians in milliseconds, and median and range of the ratio within a round."""
    ours, theirs = (1000 * statistics.median(values) for values in zip(*times, strict=True))
    ratios = sorted(own / other for own, other in times)
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"| {label} | {ours:,.1f} | {theirs:,.1f} | {statistics.median(ratios):.2f} | {spread} |"


def main() -> None:
    """Check that both networks compute the same; print the table of times, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="resnet50", help="a network of both libraries")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)

    def ours() -> nn.Module:
        return create_model(args.model)

    def theirs() -> nn.Module:
        return torchvision.models.get_model(args.model, weights=None)

    networks = ours().eval(), theirs().eval()
    networks[0].load_state_dict(networks[1].state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        outputs = [network(x) for network in networks]
        rows = {
            "build": measure(ours, theirs, args.rounds),
            "build on the meta device": measure(on_meta(ours), on_meta(theirs), args.rounds),
            "forward, 1x3x224x224": measure(lambda: networks[0](x), lambda: networks[1](x), args.rounds),
        }
    graphs = [fx.symbolic_trace(network).graph for network in networks]
    print("| | ours, ms | torchvision's, ms | ratio | smallest to largest |\n| --- | ---: | ---: | ---: | ---: |")
    for label, times in rows.items():
        print(table_row(label, times))
    print(f"\nnodes of the graph: {len(graphs[0].nodes)} and {len(graphs[1].nodes)}")
    print(f"outputs equal: {torch.equal(*outputs)}")
    print(", ".join(f"{name} {value}" for name, value in machine_info().items()))


if __name__ == "__main__":
    main()
