"""The images to predict: files, folders, patterns, shards, CSV files, standard input, and images in memory."""

import glob
import io
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reslab.data.decode import DecodedImage, decode_image, pil_to_tensor
from reslab.data.decode_limits import DEFAULT_LIMITS, DecodeLimits
from reslab.data.image_datasets import ImageLocation
from reslab.data.image_formats import open_image
from reslab.data.registry import find_format
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline, fit_image_size
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.transform_grammar import parse_transforms

STDIN = "-"


ImageInput = str | Path | bytes | Image.Image | np.ndarray | Tensor
_INPUT_TYPES = "paths, bytes of image files, Pillow images, and uint8 NumPy arrays or tensors (H, W, C) or (C, H, W)"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class InputTypeError(TypeError, ValueError):
    """An image to predict is of a type, or an array of a shape or dtype, that is not an image."""


@dataclass(frozen=True)
class InputItem:
    """An image by the `path` that names it; if it is not a file of its own, its `tar_entry` in a shard or `content`.

    `content` is an encoded image, a Pillow image, or a signal or volume as a tensor (C, T) or (C, D, H, W).
    """

    path: str
    tar_entry: ImageLocation | None = None
    content: bytes | Image.Image | Tensor | None = None

    def decode(self, channels: int, limits: DecodeLimits = DEFAULT_LIMITS) -> DecodedImage:
        """Return uint8 pixels (channels, H, W), and what the decoder warned of.

        Raises ValueError for an image that cannot be read.
        """
        if isinstance(self.content, Image.Image):
            limits.check_size(self.content.height, self.content.width, "")
            return DecodedImage(pil_to_tensor(self.content, channels))
        if isinstance(self.content, Tensor):
            raise invalid("an image", f"a tensor of shape {tuple(self.content.shape)}, scaled floats")
        content = self.content if self.tar_entry is None else self.tar_entry.read_bytes()
        source = self.path if content is None else content
        return decode_image(source, channels, self.path, limits, collect_warning=True)


def list_inputs(inputs: ImageInput | Iterable[ImageInput]) -> list[InputItem]:
    """Return the images, in order; those in memory are named by their position, `#0`.

    An image in memory is a Pillow image, the bytes of an image file, or a uint8 array or tensor (H, W), (H, W, C) or
    (C, H, W); one more dimension in front makes it several images. Arrays are tried as (H, W, C) first, tensors as
    (C, H, W).

    A file stands for itself, a folder for all images in it (or in its shards if it has no image files), a .tar for its
    images with or without labels, a .csv for the column `path`, relative to the file, a pattern (`photos/*.jpg`) for
    all matching files, and `-` for an image or a list of paths, one per line, on standard input.

    Raises ValueError for a folder, shard, list or pattern without images, for a URL and for no input at all;
    InputTypeError for what is no image.
    """
    items: list[InputItem] = []
    for source in _split_inputs(inputs):
        if isinstance(source, str | Path):
            items += _expand_input(str(source))
        else:
            items.append(InputItem(f"#{len(items)}", content=source))
    if not items:
        raise invalid("at least one image or folder of images", "none")
    return items


def list_tensors(inputs: Any, channels: int, dims: int) -> list[InputItem]:
    """Return signals (dims=1) or volumes (dims=3), each (channels, sides...), as items named by position.

    `inputs` is a floating-point array or tensor with one dimension more, or an iterable of single ones. Raises
    ValueError for other shapes and types.
    """
    required = f"{'signals (N, C, T)' if dims == 1 else 'volumes (N, C, D, H, W)'} with {channels} channels, floats"
    try:
        tensors = [torch.as_tensor(item) for item in inputs]
    except (TypeError, ValueError) as error:
        raise invalid(required, f"a {type(inputs).__name__}") from error
    for tensor in tensors:
        if tensor.ndim != dims + 1 or len(tensor) != channels or not tensor.is_floating_point():
            raise invalid(required, f"one of shape {tuple(tensor.shape)}, {tensor.dtype}")
    return [InputItem(f"#{i}", content=tensor) for i, tensor in enumerate(tensors)]


def _split_inputs(inputs: Any) -> Iterator[str | Path | bytes | Image.Image]:
    if isinstance(inputs, str | Path | bytes | Image.Image):
        yield inputs
    elif isinstance(inputs, np.ndarray | Tensor):
        for array in inputs if inputs.ndim == 4 else [inputs]:
            yield _array_to_pil(array)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, Mapping):
        for item in inputs:
            if not isinstance(item, ImageInput):
                raise _input_type_error(f"a {type(item).__name__}")
            yield from _split_inputs(item)
    else:
        raise _input_type_error(f"a {type(inputs).__name__}")


def _input_type_error(got: str, nearest: str = "") -> InputTypeError:
    return InputTypeError(str(invalid(_INPUT_TYPES, got, nearest)))


def _array_to_pil(array: np.ndarray | Tensor) -> Image.Image:
    is_tensor = isinstance(array, Tensor)
    pixels = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    kind = "tensor" if is_tensor else "array"
    if pixels.dtype != np.uint8:
        raise _input_type_error(
            f"an {kind} of {pixels.dtype}" if kind == "array" else f"a tensor of {array.dtype}",
            "(x * 255).round().to(torch.uint8) for values within [0, 1]"
            if is_tensor
            else "(x * 255).round().astype(np.uint8) for values within [0, 1]",
        )
    is_last = pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4)
    is_first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
    if pixels.ndim == 3 and is_first and (is_tensor or not is_last):
        pixels = pixels.transpose(1, 2, 0)
    elif pixels.ndim != 2 and not is_last:
        raise _input_type_error(f"a {kind} of shape {tuple(pixels.shape)}".replace("a array", "an array"))
    if 0 in pixels.shape:
        raise _input_type_error(f"pixels of shape {tuple(pixels.shape)}")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _expand_input(text: str) -> list[InputItem]:
    path = Path(text)
    if text == STDIN:
        return _list_stdin(sys.stdin.buffer.read())
    if _URL.match(text):
        name = text.split("?")[0].rpartition("/")[2] or "image"
        next_step = f"download it first, for example: curl -L -o {name} '{text}', and name the file"
        raise invalid("a file, folder, pattern, shard or CSV file on this machine", f"the URL {text}", "", next_step)
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
        with open_image(io.BytesIO(content)):
            return True
    except UnidentifiedImageError as error:
        return bool(str(error))  # a broken image: decoding it reports the error
    except Exception:
        return True


def chunked(items: Sequence[InputItem], size: int) -> Iterator[Sequence[InputItem]]:
    """Yield the items in chunks of `size`; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class PreparedImage(NamedTuple):
    """An image prepared for a network, uint8 (C, H, W), with the decoder's warning; or the error without pixels.

    Signals and volumes are floats that are normalized already.

    `original` are the pixels before the transform, where a mask or boxes are predicted for them.
    """

    pixels: Tensor | None
    error: str = ""
    warning: str = ""
    original: Tensor | None = None

    @property
    def read_pixels(self) -> Tensor:
        """The pixels of an image that could be read."""
        assert self.pixels is not None
        return self.pixels

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the image before the transform."""
        height, width = (self.read_pixels if self.original is None else self.original).shape[-2:]
        return height, width


class TensorTransform:
    """Prepares a signal or a volume (C, sides...) for a network: normalized, as a backend takes floats."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.normalize = Normalize(preprocess, torch.device("cpu"))

    def __call__(self, item: InputItem, limits: DecodeLimits = DEFAULT_LIMITS) -> PreparedImage:
        """Return the normalized tensor of an item."""
        assert isinstance(item.content, Tensor)
        return PreparedImage(self.normalize(item.content[None])[0])


class InferenceTransform:
    """Prepares an image for a network: its preprocessing transforms, then its image size; uint8 (C, H, W)."""

    keeps_original = False

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int] | None) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.transforms = TransformPipeline(preprocess.transform)

    def __call__(self, source: InputItem | Path, limits: DecodeLimits = DEFAULT_LIMITS) -> PreparedImage:
        """Return the prepared image of an item or a file, or the error message if it cannot be read."""
        item = InputItem(str(source)) if isinstance(source, Path) else source
        try:
            decoded = item.decode(self.preprocess.channels, limits)
            original = decoded.pixels if self.keeps_original else None
            return PreparedImage(self.apply(decoded.pixels), warning=decoded.warning, original=original)
        except (ValueError, OSError) as error:
            return PreparedImage(None, str(error).removeprefix(f"{item.path}: "))

    def apply(self, pixels: Tensor) -> Tensor:
        """Prepare decoded pixels (C, H, W) of any size. Raises ValueError if a transform does not fit them."""
        prepared = self.transforms.apply_image(pixels, 0)
        return prepared if self.image_size is None else fit_image_size(prepared, self.image_size)


class WholeImageTransform(InferenceTransform):
    """Prepares an image for a network that predicts each pixel: its transform may resize, but not crop.

    `check(x)` raises ValueError for images (1, C, H, W) of a size that the network cannot take.
    """

    keeps_original = True
    allowed: ClassVar[Collection[str]] = ("resize",)
    required = "an evaluation transform that keeps the whole image for masks, such as resize(520)"

    def __init__(self, preprocess: Preprocess, check: Callable[[Tensor], None] | None = None) -> None:
        super().__init__(preprocess, None)
        self.check = check
        names = [call.name for call in parse_transforms(preprocess.transform)]
        if set(names) - set(self.allowed):
            raise invalid(self.required, preprocess.transform)

    def apply(self, pixels: Tensor) -> Tensor:
        """Prepare decoded pixels (C, H, W) of any size. Raises ValueError if the network cannot take them."""
        prepared = super().apply(pixels)
        self.check_pixels(prepared)
        return prepared

    def check_pixels(self, pixels: Tensor) -> None:
        """Raise ValueError if the network cannot take prepared pixels (C, H, W) of this size."""
        if self.check is not None:
            self.check(torch.empty((1, *pixels.shape), device="meta"))


class UnchangedImageTransform(WholeImageTransform):
    """Prepares an image for a detector, which resizes it itself: there is no transform."""

    allowed = ()
    required = "an evaluation without a transform, because a detector itself resizes images"
