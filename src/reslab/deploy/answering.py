"""Prepared pictures to class names with probabilities, and to embeddings."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reslab.deploy.backends.backend import Engine
from reslab.deploy.backends.registry import open_engine
from reslab.nn.adapting import last_linear
from reslab.nn.network import Network
from reslab.runtime.device import exact_arithmetic
from reslab.spec.errors import refuse


@dataclass(frozen=True)
class Guess:
    """A class by name, and how probable the network holds it to be."""

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Answers:
    """Of N pictures: `logits` (N, classes) and, where they were asked for, `features` (N, F); on the CPU."""

    logits: Tensor
    features: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Answering:
    """Prepared pictures to their `top_k` classes, p = softmax(engine(picture) / temperature).

    With a `head` the engine hands out what the head reads, the embedding, and the head is computed here in float32.
    """

    engine: Engine
    classes: tuple[str, ...]
    temperature: float = 1.0
    head: nn.Linear | None = None

    def __call__(self, pictures: Sequence[Tensor]) -> Answers:
        """Of uint8 (C, H, W) pictures of one size."""
        found = self.engine(torch.stack(list(pictures)))
        if self.head is None:
            return Answers(found)
        with torch.inference_mode(), exact_arithmetic():
            return Answers(self.head(found), found)

    def guesses(self, answers: Answers, top_k: int) -> list[tuple[Guess, ...]]:
        """The `top_k` classes of each picture, the most probable first."""
        best = self.probabilities(answers).topk(min(top_k, len(self.classes)), dim=1)
        return [
            tuple(Guess(self.classes[label], value) for label, value in zip(labels, values, strict=True))
            for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def probabilities(self, answers: Answers) -> Tensor:
        """(N, classes): softmax(logits / temperature)."""
        return (answers.logits / self.temperature).softmax(1)


def open_answering(
    network: Network,
    engine: str = "auto",
    precision: str = "float32",
    device: str | torch.device = "auto",
    *,
    features: bool = False,
    temperature: bool = True,
    compiled: bool = False,
    images: Tensor | None = None,
    num_images: int | None = None,
) -> Answering:
    """The network made ready by an engine (see `open_engine`), with its class names and, where kept, its temperature.

    `features` hands out embeddings too: what the last linear layer reads. Raises ValueError as `open_engine`, where the
    network knows no preprocessing, and for features where it has no linear layer.
    """
    if network.preprocess is None:
        raise refuse(
            "a network that knows its preprocessing",
            f"{network.arch.name} without",
            next_step="train it, load a run, or set network.preprocess",
        )
    body, head = split_head(network) if features else (network, None)
    opened = open_engine(body, engine, precision, device, compiled=compiled, images=images, num_images=num_images)
    divisor = (network.temperature or 1.0) if temperature else 1.0
    return Answering(opened, class_names(network), divisor, head)


def class_names(network: Network) -> tuple[str, ...]:
    """The network's class names, or `class 0`, `class 1` ... where it knows none."""
    return network.classes or tuple(f"class {number}" for number in range(network.arch.num_classes))


def split_head(network: Network) -> tuple[Network, nn.Linear]:
    """A copy that hands out what its last linear layer reads, and that layer; ValueError where it has none."""
    body = copy.deepcopy(network).eval()
    name = last_linear(body)
    if name is None:
        raise refuse("a network with a linear layer, which embeddings are read by", network.arch.name)
    head = body.get_submodule(name)
    assert isinstance(head, nn.Linear)
    body.set_submodule(name, nn.Identity())
    return body, head.cpu().float().requires_grad_(False)
