"""The images to predict, listed from files, folders, patterns, shards, CSV files and standard input."""

import glob
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.image_datasets import ImageLocation
from reslab.data.registry import find_format
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

STDIN = "-"


@dataclass(frozen=True)
class InputItem:
    """An image by the `path` that names it; if it is not a file of its own, its `tar_entry` in a shard or `content`."""

    path: str
    tar_entry: ImageLocation | None = None
    content: bytes | None = None

    def decode(self, channels: int) -> Tensor:
        """Return uint8 pixels (channels, H, W). Raises ValueError for an image that cannot be read."""
        if self.tar_entry is not None:
            return read_image(self.tar_entry.read_bytes(), channels, self.path)
        return read_image(self.path if self.content is None else self.content, channels, self.path)


def list_inputs(inputs: str | Path | Iterable[str | Path]) -> list[InputItem]:
    """Return the named images, in order.

    A file stands for itself, a folder for all images in it (or in its shards if it has no image files), a .tar for its
    images with or without labels, a .csv for the column `path`, relative to the file, a pattern (`photos/*.jpg`) for
    all matching files, and `-` for an image or a list of paths, one per line, on standard input.

    Raises ValueError for a folder, shard, list or pattern without images, and for no input at all.
    """
    items: list[InputItem] = []
    for source in [inputs] if isinstance(inputs, str | Path) else inputs:
        items += _expand_input(str(source))
    if not items:
        raise invalid("at least one image or folder of images", "none")
    return items


def _expand_input(text: str) -> list[InputItem]:
    path = Path(text)
    if text == STDIN:
        return _list_stdin(sys.stdin.buffer.read())
    data_format = find_format(path)
    if data_format is not None:
        return [_to_item(image) for image in data_format.list_images(path)]
    if not path.exists() and glob.has_magic(text):
        matched = [item for name in sorted(glob.glob(text, recursive=True)) for item in _expand_input(name)]
        if not matched:
            raise invalid(f"files that match {text}", "none", next_step="check the pattern")
        return matched
    return [InputItem(str(path))]


def _to_item(image: Path | ImageLocation) -> InputItem:
    if isinstance(image, Path):
        return InputItem(str(image))
    return InputItem(f"{image.shard}/{image.key}.{image.extension}", image)


def _list_stdin(content: bytes) -> list[InputItem]:
    """Return the image if the bytes are one, or the images of the paths that they list."""
    if _is_image(content):
        return [InputItem(STDIN, content=content)]
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return [InputItem(STDIN, content=content)]  # neither text nor an image: becomes a row with an error
    items = [item for line in lines if line.strip() for item in _expand_input(_reject_stdin(line.strip()))]
    if not items:
        raise invalid("an image, or one path per line, on standard input", "nothing")
    return items


def _reject_stdin(line: str) -> str:
    if line == STDIN:
        raise invalid("paths on standard input", "'-', which is standard input itself")
    return line


def _is_image(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a broken image: decoding it reports the error
        return True


def chunked(items: Sequence[InputItem], size: int) -> Iterator[Sequence[InputItem]]:
    """Yield the items in chunks of `size`; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class InferenceTransform:
    """Prepares an image for a network: its preprocessing transforms, then its image size; uint8 (C, H, W)."""

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int]) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.transforms = TransformPipeline(preprocess.transform)
        height, width = image_size
        # Resize the shorter side to the network's longer one, so that the crop always fits.
        self.resize = TransformPipeline(f"resize({max(height, width)}) center-crop({max(height, width)})")

    def __call__(self, source: InputItem | Path) -> Tensor | str:
        """Return the prepared image of an item or a file, or the error message if it cannot be read."""
        item = InputItem(str(source)) if isinstance(source, Path) else source
        try:
            return self.apply(item.decode(self.preprocess.channels))
        except (ValueError, OSError) as error:
            return str(error).removeprefix(f"{item.path}: ")

    def apply(self, pixels: Tensor) -> Tensor:
        """Prepare decoded pixels (C, H, W) of any size. Raises ValueError if a transform does not fit them."""
        pixels = self.transforms.apply_image(pixels, 0)
        return pixels if tuple(pixels.shape[1:]) == self.image_size else self._resize_and_crop(pixels)

    def _resize_and_crop(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        square = self.resize.apply_image(pixels, 0)
        top, left = (square.shape[1] - height) // 2, (square.shape[2] - width) // 2
        return square[:, top : top + height, left : left + width]
