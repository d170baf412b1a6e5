"""`predict`: pictures to class names with probabilities, by any engine, one row a picture."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.answering import Answering, Guess, open_answering
from reslab.deploy.grad_cam import HeatMaps, heat_map_path, overlay
from reslab.deploy.inputs import Item, chunks, list_items
from reslab.deploy.preparation import Preparation
from reslab.nn.network import Network
from reslab.spec.errors import refuse
from reslab.training.loading import load
from reslab.training.run import Run

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
    model: Run | Network | str | Path,
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
    network = model if isinstance(model, Network) else load(model)
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
            raise refuse(f"{name} of at least 1", number, nearest="1")


def predictions(
    network: Network,
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

    def __init__(self, network: Network, answer: Answering, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.maps = folder, HeatMaps(network, answer.engine.device)

    def __call__(self, names: Sequence[str], pictures: Sequence[Tensor], targets: Tensor) -> list[str]:
        paths = [heat_map_path(self.folder, name) for name in names]
        heats = self.maps(torch.stack(list(pictures)), targets)
        for path, picture, heat in zip(paths, pictures, heats, strict=True):
            overlay(picture, heat).save(path)
        return [str(path) for path in paths]
