"""Building a network, its forward pass and its torch.fx graph, compared with torchvision's in alternating rounds.

Run: python benchmarks/build.py resnet50
"""

import argparse
import time
from collections.abc import Callable

import torch
import torchvision
from side_by_side import add_json_option, report, round_ratios
from tables import Column
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


def table_row(label: str, times: list[tuple[float, float]]) -> dict[str, object]:
    """Return a line of the table: milliseconds of both in every round, and their ratio."""
    ours, theirs = ([1000 * value for value in values] for values in zip(*times, strict=True))
    return {"name": label, "ours": ours, "theirs": theirs, "ratio": round_ratios(ours, theirs)}


def main() -> None:
    """Check that both networks compute the same; print the table of times, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="resnet50", help="a network of both libraries")
    parser.add_argument("--rounds", type=int, default=15)
    add_json_option(parser)
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
    columns = [
        Column("name", ""),
        Column("ours", "ours, ms", ".1f"),
        Column("theirs", "torchvision's, ms", ".1f"),
        Column("ratio", "ratio", ".2f"),
    ]
    notes = [
        f"nodes of the graph: {len(graphs[0].nodes)} (ours) and {len(graphs[1].nodes)}",
        f"outputs with equal weights: {'equal' if torch.equal(*outputs) else 'DIFFERENT'}",
    ]
    title = f"{args.model}, one thread, processor time, {args.rounds} rounds"
    report(args.json, title, columns, [table_row(label, times) for label, times in rows.items()], notes)


if __name__ == "__main__":
    main()
