"""Expected results, computed by the functions of `analysis`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from reslab.analysis.surgery import disabled_blocks, swapped_blocks
from reslab.nn.network import ResidualNetwork


def probabilities(network: torch.nn.Module, x: torch.Tensor) -> dict[str, float]:
    assert isinstance(network, ResidualNetwork)
    with torch.no_grad():
        values = network(x).softmax(1)[0].tolist()
    return dict(zip(network.classes or (), values, strict=True))


def probability_by_name(rows: list[dict[str, float]]) -> dict[str, float]:
    return {str(row["name"]): row["probability"] for row in rows}


PLAN = {"off": ["layer1.1", "layer3.0"], "swap": [["layer1.0", "layer1.1"]]}


@contextmanager
def cut(network: ResidualNetwork) -> Iterator[None]:
    """Apply the ablation by the functions of `analysis`."""
    with swapped_blocks(network, "layer1.0", "layer1.1"), disabled_blocks(network, ["layer1.1", "layer3.0"]):
        yield
