"""`predict`: pictures in files to class names with probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reslab.data.augment import Augment
from reslab.data.batches import Normalise
from reslab.data.decode import read_picture
from reslab.data.folders import EXTENSIONS, pictures_in
from reslab.nn.network import Network
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess
from reslab.training.device import choose_device, exact_arithmetic
from reslab.training.loading import load
from reslab.training.run import Run

_READERS = 4


@dataclass(frozen=True)
class Guess:
    """A class by name, and how probable the network holds it to be."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture: its `classes`, the most probable first, or why the file could not be read."""

    path: str
    classes: tuple[Guess, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """path, classes (a list of name and probability), and error where there is one."""
        classes = [{"name": guess.name, "probability": guess.probability} for guess in self.classes]
        row: dict[str, Any] = {"path": self.path, "classes": classes}
        return {**row, "error": self.error} if self.error else row


def predict(
    model: Run | Network | str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    top_k: int = 5,
    batch: int = 64,
    device: str | torch.device = "auto",
    temperature: bool = True,
) -> list[Prediction]:
    """The `top_k` most probable classes, p = softmax(network(picture) / T), of every picture in `paths`, in order.

    `model` is a run or its folder, a `model.safetensors`, or a network that knows its preprocessing. A folder among the
    paths stands for all pictures in it. A picture is prepared as for the evaluation; one of another size than the
    network's is scaled by its shorter side and cropped in the middle. T is the temperature that the weights carry
    (`reslab eval --calibrate`; Guo et al. 2017, Sec. 4.2), 1 where they carry none or without `temperature`. A file
    that cannot be read is a row with its error. Raises ValueError where a folder holds no picture, top_k or batch is
    below 1, or the preprocessing is not known.
    """
    for name, number in (("top_k", top_k), ("batch", batch)):
        if number < 1:
            raise refuse(f"{name} of at least 1", number, nearest="1")
    files = list_pictures([paths] if isinstance(paths, str | Path) else list(paths))
    network = model if isinstance(model, Network) else load(model)
    classes, preprocess = _known(network)
    place = choose_device(device)
    network.to(place)
    prepare = Preparation(preprocess, network.arch.image_size)
    divisor = (network.temperature or 1.0) if temperature else 1.0
    answer = Answering(network, preprocess, classes, top_k, place, divisor)
    found: list[Prediction] = []
    for first in range(0, len(files), batch):
        found += _predict_batch(files[first : first + batch], prepare, answer)
    return found


def list_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, and of a folder every picture in it, in the order of their names.

    Raises ValueError where nothing is named or a folder holds no picture.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = pictures_in(path) if path.is_dir() else [path]
        if not inside:
            raise refuse(f"pictures ({', '.join(EXTENSIONS)}) in {path}", "none", next_step="name another folder")
        found += inside
    if not found:
        raise refuse("at least one picture or folder of pictures", "none")
    return found


class Preparation:
    """A file to what the network reads: the words of its preprocessing, then its size; uint8 (C, H, W)."""

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int]) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.words = Augment(preprocess.words)
        height, width = image_size
        # The shorter side of the picture to the longer one of the network, so that the crop always fits.
        self.fit = Augment(f"resize({max(height, width)}) center-crop({max(height, width)})")

    def __call__(self, path: Path) -> Tensor | str:
        """The picture, or why it cannot be read."""
        try:
            pixels = self.words.one(read_picture(path, self.preprocess.channels), 0)
        except ValueError as error:
            return str(error)
        return pixels if tuple(pixels.shape[1:]) == self.image_size else self._fitted(pixels)

    def _fitted(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        square = self.fit.one(pixels, 0)
        top, left = (square.shape[1] - height) // 2, (square.shape[2] - width) // 2
        return square[:, top : top + height, left : left + width]


def _known(network: Network) -> tuple[tuple[str, ...], Preprocess]:
    if network.preprocess is None:
        raise refuse(
            "a network that knows its preprocessing",
            f"{network.arch.name} without",
            next_step="train it, load a run, or set network.preprocess",
        )
    return network.classes or tuple(f"class {number}" for number in range(network.arch.num_classes)), network.preprocess


@dataclass(frozen=True, eq=False)
class Answering:
    """Prepared pictures to their `top_k` classes, p = softmax(network(picture) / temperature) in float32."""

    network: Network
    preprocess: Preprocess
    classes: tuple[str, ...]
    top_k: int
    device: torch.device
    temperature: float

    def __call__(self, pictures: Sequence[Tensor]) -> list[tuple[Guess, ...]]:
        """Of uint8 (C, H, W) pictures of one size, the classes of each, the most probable first."""
        best = self.probabilities(pictures).topk(min(self.top_k, len(self.classes)), dim=1)
        return [
            tuple(Guess(self.classes[label], value) for label, value in zip(labels, values, strict=True))
            for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def probabilities(self, pictures: Sequence[Tensor]) -> Tensor:
        """(N, classes) on the CPU."""
        x = Normalise(self.preprocess, self.device)(torch.stack(list(pictures)).to(self.device))
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), exact_arithmetic():
                outputs: Tensor = self.network(x).float()
        finally:
            self.network.train(training)
        return (outputs / self.temperature).softmax(1).cpu()


def _predict_batch(files: list[Path], prepare: Preparation, answer: Answering) -> Iterator[Prediction]:
    with ThreadPoolExecutor(_READERS) as readers:
        pictures = list(readers.map(prepare, files))
    read = [picture for picture in pictures if isinstance(picture, Tensor)]
    rows = iter(answer(read) if read else [])
    for path, picture in zip(files, pictures, strict=True):
        if isinstance(picture, str):
            yield Prediction(str(path), error=picture)
        else:
            yield Prediction(str(path), next(rows))
