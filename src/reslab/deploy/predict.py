"""`predict`: pictures to class names with probabilities, by any engine, one row a picture.

Prepared pictures to class names with probabilities, and to embeddings.

A picture made ready for a network.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.transforms.pipeline import Augment
from reslab.deploy.backends.backend import Engine
from reslab.deploy.backends.registry import open_engine
from reslab.deploy.grad_cam import HeatMaps, heat_map_path, overlay
from reslab.deploy.inputs import Item, chunks, list_items
from reslab.nn.checkpoints.load import last_linear_name
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import exact_arithmetic
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.training.run import Run, load


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
    network: ResidualNetwork,
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
        raise invalid(
            "a network that knows its preprocessing",
            f"{network.arch.name} without",
            next_step="train it, load a run, or set network.preprocess",
        )
    body, head = split_head(network) if features else (network, None)
    opened = open_engine(body, engine, precision, device, compiled=compiled, images=images, num_images=num_images)
    divisor = (network.temperature or 1.0) if temperature else 1.0
    return Answering(opened, class_names(network), divisor, head)


def class_names(network: ResidualNetwork) -> tuple[str, ...]:
    """The network's class names, or `class 0`, `class 1` ... where it knows none."""
    return network.classes or tuple(f"class {number}" for number in range(network.arch.num_classes))


def split_head(network: ResidualNetwork) -> tuple[ResidualNetwork, nn.Linear]:
    """A copy that hands out what its last linear layer reads, and that layer; ValueError where it has none."""
    body = copy.deepcopy(network).eval()
    name = last_linear_name(body)
    if name is None:
        raise invalid("a network with a linear layer, which embeddings are read by", network.arch.name)
    head = body.get_submodule(name)
    assert isinstance(head, nn.Linear)
    body.set_submodule(name, nn.Identity())
    return body, head.cpu().float().requires_grad_(False)


class Preparation:
    """A picture to what the network reads: the words of its preprocessing, then its size; uint8 (C, H, W)."""

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int]) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.words = Augment(preprocess.transform)
        height, width = image_size
        # The shorter side of the picture to the longer one of the network, so that the crop always fits.
        self.fit = Augment(f"resize({max(height, width)}) center-crop({max(height, width)})")

    def __call__(self, picture: Item | Path) -> Tensor | str:
        """The picture of an item or a file, or why it cannot be read."""
        item = Item(str(picture)) if isinstance(picture, Path) else picture
        try:
            return self.prepare(item.pixels(self.preprocess.channels))
        except (ValueError, OSError) as error:
            return str(error).removeprefix(f"{item.path}: ")

    def prepare(self, pixels: Tensor) -> Tensor:
        """Decoded pixels (C, H, W) of any size. Raises ValueError where the words do not fit them."""
        pixels = self.words.one(pixels, 0)
        return pixels if tuple(pixels.shape[1:]) == self.image_size else self._fitted(pixels)

    def _fitted(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        square = self.fit.one(pixels, 0)
        top, left = (square.shape[1] - height) // 2, (square.shape[2] - width) // 2
        return square[:, top : top + height, left : left + width]


_READERS = 4
# Batches that are read while one is computed.
_AHEAD = 2


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture: its `classes`, the most probable first, or why the file could not be read.

    `features` is the embedding and `heat_map` the file of the heat map, where they were asked for.
    """

    path: str
    classes: tuple[Guess, ...] = ()
    error: str = ""
    features: tuple[float, ...] = ()
    heat_map: str = ""

    def to_dict(self) -> dict[str, Any]:
        """path, classes (a list of name and probability), and features, heat_map and error where there are any."""
        classes = [{"name": guess.name, "probability": guess.probability} for guess in self.classes]
        row: dict[str, Any] = {"path": self.path, "classes": classes}
        more = {"features": list(self.features), "heat_map": self.heat_map, "error": self.error}
        return {**row, **{name: value for name, value in more.items() if value}}


def read_prediction(row: dict[str, Any]) -> Prediction:
    """The prediction that `to_dict` wrote."""
    classes = tuple(Guess(each["name"], each["probability"]) for each in row["classes"])
    features = tuple(row.get("features", ()))
    return Prediction(row["path"], classes, row.get("error", ""), features, row.get("heat_map", ""))


def predict(
    model: Run | ResidualNetwork | str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    top_k: int = 5,
    batch: int = 64,
    device: str | torch.device = "auto",
    temperature: bool = True,
    engine: str = "auto",
    precision: str = "float32",
    features: bool = False,
    heat_maps: str | Path | None = None,
    images: Tensor | None = None,
) -> list[Prediction]:
    """The `top_k` most probable classes, p = softmax(network(picture) / T), of every picture in `paths`, in order.

    `model` is a run or its folder, a `model.safetensors`, or a network that knows its preprocessing. `paths` are files,
    folders, patterns, shards, CSV files (`list_items`). A picture is prepared as for the evaluation; one of another
    size than the network's is scaled by its shorter side and cropped in the middle. T is the temperature that the
    weights carry (`reslab eval --calibrate`; Guo et al. 2017, Sec. 4.2), 1 where they carry none or without
    `temperature`. `engine` and `precision` are those of `open_engine`, `images` (normalised) for the scales of int8.
    `features` adds the embedding, what the last linear layer reads; `heat_maps` is a folder for Grad-CAM pictures of
    each first class. A file that cannot be read is a row with its error.
    Raises ValueError where a folder holds no picture, top_k or batch is below 1, the preprocessing is not known, or the
    engine cannot run so.
    """
    items = list_items(paths)
    network = model if isinstance(model, ResidualNetwork) else load(model)
    check_sizes(top_k, batch)
    answer = open_answering(
        network,
        engine,
        precision,
        device,
        features=features,
        temperature=temperature,
        images=images,
        num_images=len(items),
    )
    maps = None if heat_maps is None else Path(heat_maps)
    return list(predictions(network, answer, items, top_k, batch, maps))


def check_sizes(top_k: int, batch: int) -> None:
    """ValueError where one of them is below 1."""
    for name, number in (("top_k", top_k), ("batch", batch)):
        if number < 1:
            raise invalid(f"{name} of at least 1", number, nearest="1")


def predictions(
    network: ResidualNetwork,
    answer: Answering,
    items: Sequence[Item],
    top_k: int = 5,
    batch: int = 64,
    heat_maps: Path | None = None,
) -> Iterator[Prediction]:
    """One row an item, in order; pictures are read in threads while others are computed."""
    assert network.preprocess is not None
    prepare = Preparation(network.preprocess, network.arch.image_size)
    draw = None if heat_maps is None else _Drawing(network, answer, heat_maps)
    for some, pictures in _read_ahead(items, batch, prepare):
        yield from _rows(some, pictures, answer, top_k, draw)


def _read_ahead(
    items: Sequence[Item], batch: int, prepare: Preparation
) -> Iterator[tuple[Sequence[Item], list[Tensor | str]]]:
    """Batches of items with their pictures, or with why they cannot be read; the next ones are being read already."""
    waiting: deque[tuple[Sequence[Item], list[Future[Tensor | str]]]] = deque()
    readers = ThreadPoolExecutor(_READERS)
    try:
        for some in chunks(items, batch):
            waiting.append((some, [readers.submit(prepare, item) for item in some]))
            if len(waiting) > _AHEAD:
                ready, pictures = waiting.popleft()
                yield ready, [each.result() for each in pictures]
        while waiting:
            ready, pictures = waiting.popleft()
            yield ready, [each.result() for each in pictures]
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def _rows(
    items: Sequence[Item],
    pictures: Sequence[Tensor | str],
    answer: Answering,
    top_k: int,
    draw: "_Drawing | None",
) -> Iterator[Prediction]:
    read = [picture for picture in pictures if isinstance(picture, Tensor)]
    found = answer(read) if read else None
    guesses = iter(answer.guesses(found, top_k) if found else [])
    are_numbers = iter(found.logits.isfinite().all(1).tolist() if found else [])
    features = iter([] if found is None or found.features is None else found.features.tolist())
    names = [item.path for item, picture in zip(items, pictures, strict=True) if isinstance(picture, Tensor)]
    drawn = iter(draw(names, read, found.logits.argmax(1)) if draw and found else [])
    for item, picture in zip(items, pictures, strict=True):
        if isinstance(picture, str):
            yield Prediction(item.path, error=picture)
            continue
        row = Prediction(item.path, next(guesses), "", tuple(next(features, ())), next(drawn, ""))
        yield row if next(are_numbers) else Prediction(item.path, error=_DIVERGED)


_DIVERGED = "the network's answer is not a number: its weights have diverged, or the precision is too small for them"


class _Drawing:
    """Heat maps of pictures, written into a folder; returns the names of their files."""

    def __init__(self, network: ResidualNetwork, answer: Answering, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.maps = folder, HeatMaps(network, answer.engine.device)

    def __call__(self, names: Sequence[str], pictures: Sequence[Tensor], targets: Tensor) -> list[str]:
        paths = [heat_map_path(self.folder, name) for name in names]
        heats = self.maps(torch.stack(list(pictures)), targets)
        for path, picture, heat in zip(paths, pictures, heats, strict=True):
            overlay(picture, heat).save(path)
        return [str(path) for path in paths]
