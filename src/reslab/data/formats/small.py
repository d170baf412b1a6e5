"""Small datasets: MNIST and others in idx files, the digits that scikit-learn bundles, and images that are drawn.

The drawn ones need no download. Birds and airplanes, 32x32 in color, are a small stand-in for `cifar2`, the two classes
of CIFAR-10 of a textbook: as many channels, pixels and classes. Shapes are disks, squares and triangles in 64x64 color
images, with boxes for detection. Image i of a split is a function of (split, i): all its random numbers are hashes
(`reslab.data.rng`).
"""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reslab.data.boxes import BoxImageDataset, ObjectRow, make_box_table
from reslab.data.dataset_info import DatasetInfo, ReadResult, download_with_torchvision, search_dirs
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.rng import RandomDraws, hash_keys
from reslab.spec.errors import invalid

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path) -> np.ndarray:
    """Return the array in an idx file, gzipped or not: two zeros, 8 (uint8), rank, big-endian lengths, bytes.

    Raises ValueError naming the file if it is not idx or is truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or not gzip ({error}); download it again") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        got = f"it starts with {content[:4].hex(' ')}" if content else "an empty file"
        raise invalid(f"{path} as an idx file of bytes (it starts with 00 00 08)", got)
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">u4", rank, 4).tolist())
    num_bytes = int(np.prod(shape))
    if len(content) - 4 - 4 * rank != num_bytes:
        got = f"{len(content) - 4 - 4 * rank} (truncated or damaged)"
        raise invalid(f"{path} with {num_bytes} bytes of data", got, next_step="download it again")
    return np.frombuffer(content, np.uint8, num_bytes, 4 + 4 * rank).reshape(shape).copy()


def read_mnist(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read MNIST or a dataset in the same four files, found or downloaded; `info.layout` is torchvision's class."""
    folders = [
        candidate
        for directory in search_dirs(info, data_dir)
        for candidate in (directory, directory / info.layout / "raw", directory / "raw")
    ]
    raw_dir = next((folder for folder in folders if _has_all_files(folder)), None)
    if raw_dir is None:
        expected = ", ".join(f"{name}[.gz]" for pair in _MNIST_FILES.values() for name in pair)
        raw_dir = download_with_torchvision(info, info.layout, data_dir, expected) / info.layout / "raw"
    return ReadResult({split: _read_split(raw_dir, *names) for split, names in _MNIST_FILES.items()}, str(raw_dir))


def _find_file(folder: Path, name: str) -> Path | None:
    # Some copies have a dot for a dash: train-images.idx3-ubyte.
    candidates = (folder / (base + suffix) for base in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _has_all_files(folder: Path) -> bool:
    return all(_find_file(folder, name) for pair in _MNIST_FILES.values() for name in pair)


def _read_split(folder: Path, images_name: str, labels_name: str) -> TensorImageDataset:
    images_path, labels_path = _find_file(folder, images_name), _find_file(folder, labels_name)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        required = f"as many images in {images_path} as labels in {labels_path}"
        raise invalid(required, f"shapes {images.shape} and {labels.shape}")
    return TensorImageDataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))


def read_digits(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read the digits, 8x8: pixels v of 0..16 become round(255 v / 16)."""
    table = read_digits_table()
    pixels = np.round(table[:, :-1].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    dataset = TensorImageDataset(torch.from_numpy(pixels)[:, None], torch.from_numpy(table[:, -1].astype(np.int64)))
    return ReadResult({"train": dataset}, "scikit-learn")


def read_digits_table() -> np.ndarray:
    """Return one row per image: 64 pixels of 0..16, then the class.

    scikit-learn's file is read without importing scikit-learn, which takes two seconds; where the file is not at its
    place, scikit-learn knows where it is.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


SHAPES = ("disk", "square", "triangle")
_SHAPES_SIDE = 64
_MAX_OBJECTS = 3
_SIDES = (12, 28)  # the range of the even sides of a box
_SHAPE_SPLITS = {"train": (0, 400), "test": (1, 100)}  # seed and number of images
_DRAWS_PER_OBJECT = 7


def read_drawn_shapes(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Draw the images: 400 training and 100 test images with one to three shapes each; later ones cover others."""
    return ReadResult(
        {split: _draw_shape_images(num, seed) for split, (seed, num) in _SHAPE_SPLITS.items()}, "drawn by reslab"
    )


def _draw_shape_images(num_images: int, seed: int) -> BoxImageDataset:
    draws = RandomDraws(hash_keys(seed, 0, torch.arange(num_images)))
    num_numbers = 1 + _MAX_OBJECTS * _DRAWS_PER_OBJECT
    numbers = draws.uniforms(range(num_numbers))
    noise = draws.uniforms(range(num_numbers, num_numbers + 3 * _SHAPES_SIDE**2)).reshape(
        -1, 3, _SHAPES_SIDE, _SHAPES_SIDE
    )
    pixels = 40 + 60 * noise
    rows: list[list[ObjectRow]] = []
    for image, values in zip(pixels, numbers, strict=True):
        count = 1 + int(values[0] * _MAX_OBJECTS)
        objects = values[1:].reshape(_MAX_OBJECTS, _DRAWS_PER_OBJECT)[:count]
        rows.append([_draw_object(image, one) for one in objects])
    images = TensorImageDataset(pixels.round().to(torch.uint8), torch.zeros(num_images, dtype=torch.int64))
    return BoxImageDataset(images, make_box_table(range(num_images), [(_SHAPES_SIDE, _SHAPES_SIDE)] * num_images, rows))


def _draw_object(image: Tensor, numbers: Tensor) -> ObjectRow:
    """Draw a shape into an image (3, H, W); return its box and label."""
    label, size, x_share, y_share, *color = numbers.tolist()
    side = 2 * int((_SIDES[0] + size * (_SIDES[1] - _SIDES[0])) / 2)
    x, y = int(x_share * (_SHAPES_SIDE - side)), int(y_share * (_SHAPES_SIDE - side))
    kind = int(label * len(SHAPES))
    part = image[:, y : y + side, x : x + side]
    part[:, _shape_mask(SHAPES[kind], side)] = 130 + 120 * torch.tensor(color)[:, None]
    return ObjectRow((x, y, x + side, y + side), kind + 1)


def _shape_mask(shape: str, side: int) -> Tensor:
    """Return where a shape is in its box (side, side), which it touches at all four sides."""
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    masks = {
        "disk": axis[:, None] ** 2 + axis**2 <= 1,
        "square": torch.ones(side, side, dtype=torch.bool),
        "triangle": axis.abs() <= (torch.arange(1.001, side + 1) / side)[:, None],  # beyond rounding
    }
    return masks[shape]


_SIDE = 32
_SAMPLES_PER_SIDE = 2  # points per pixel and direction, averaged, so that edges are smooth
_SPLITS = {"train": (0, 1000), "test": (1, 500)}  # seed and number of images

Points = tuple[tuple[Tensor | float, Tensor | float], ...]
"""Corners of convex polygons, one polygon per image: x and y are numbers, or tensors (N,)."""


def read_drawn(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Draw the images: 1,000 training and 500 test images, airplanes (label 0) and birds (1) in turn."""
    splits = {split: _draw_images(num_images, seed) for split, (seed, num_images) in _SPLITS.items()}
    return ReadResult(splits, "drawn by reslab")


def _draw_images(num_images: int, seed: int) -> TensorImageDataset:
    indices = torch.arange(num_images)
    labels = indices % 2
    draws = _Draws(hash_keys(seed, 0, indices))
    x, y = _shape_coordinates(draws)
    mask = torch.where((labels == 1)[:, None, None], _bird(draws, x, y), _airplane(draws, x, y))
    coverage = torch.nn.functional.avg_pool2d(mask[:, None].float(), _SAMPLES_PER_SIDE)
    pixels = (1 - coverage) * _sky(draws) + coverage * _shape_color(draws)
    pixels = pixels + 24 * (draws.pixels((3, _SIDE, _SIDE)) - 0.5)
    return TensorImageDataset(pixels.clamp(0, 255).to(torch.uint8), labels)


class _Draws:
    """Random numbers by name, so that one more of them does not change the others."""

    _NAMES = (
        *("size", "angle", "mirror", "shift_x", "shift_y", "hue", "brightness", "gradient", "cloud_x", "cloud_y"),
        *("cloud_size", "tint", "sweep", "span", "thickness", "both_wings", "lift", "bend", "roundness", "light"),
    )

    def __init__(self, keys: Tensor) -> None:
        self._draws = RandomDraws(keys)

    def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return one number from `low` to `high` per image, (N,)."""
        return low + (high - low) * self._draws.uniform(self._NAMES.index(name))

    def pixels(self, shape: tuple[int, int, int]) -> Tensor:
        """Return numbers from 0 to 1, (N, *shape)."""
        first = len(self._NAMES)
        count = shape[0] * shape[1] * shape[2]
        return self._draws.uniforms(range(first, first + count)).unflatten(1, shape)


def _shape_coordinates(draws: _Draws) -> tuple[Tensor, Tensor]:
    """Return the coordinates of all points, (N, H, W), in a frame where the shape reaches from -1 to 1."""
    points = _SIDE * _SAMPLES_PER_SIDE
    axis = (torch.arange(points) + 0.5) / points - 0.5
    grid_y, grid_x = torch.meshgrid(axis, axis, indexing="ij")
    size, angle = draws("size", 0.3, 0.45), draws("angle", -0.5, 0.5)
    left = (grid_x - draws("shift_x", -0.12, 0.12)[:, None, None]) / size[:, None, None]
    down = (grid_y - draws("shift_y", -0.12, 0.12)[:, None, None]) / size[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    mirror = torch.where(draws("mirror") < 0.5, -1.0, 1.0)[:, None, None]
    return mirror * (cos * left + sin * down), cos * down - sin * left


def _airplane(draws: _Draws, x: Tensor, y: Tensor) -> Tensor:
    """Return where an airplane is: a straight thin body, swept wings and a fin; the far wing may be hidden."""
    sweep, span = draws("sweep", 0.2, 0.6), draws("span", 0.5, 0.9)
    body = _ellipse(x, y, 0.0, 0.0, 1.0, draws("thickness", 0.1, 0.18))
    near = _polygon(x, y, ((0.3, 0.0), (-0.15, 0.0), (-0.15 - sweep, span), (0.1 - sweep, span)))
    far = _polygon(x, y, ((0.3, 0.0), (-0.15, 0.0), (-0.15 - sweep, -span), (0.1 - sweep, -span)))
    fin = _polygon(x, y, ((-0.6, 0.0), (-0.95, 0.0), (-1.05, -0.4), (-0.9, -0.4)))
    return body | near | (far & _has_both_wings(draws)) | fin


def _bird(draws: _Draws, x: Tensor, y: Tensor) -> Tensor:
    """Return where a bird is: a round body and head, a beak, a tail, and one or two raised, bent wings."""
    lift, span, bend = draws("lift", 0.4, 0.9), draws("span", 0.7, 1.0), draws("bend", 0.0, 0.5)
    body = _ellipse(x, y, 0.0, 0.1, 0.55, draws("roundness", 0.22, 0.32))
    head = _ellipse(x, y, 0.55, -0.1, 0.22, 0.2)
    beak = _polygon(x, y, ((0.7, -0.2), (1.0, -0.05), (0.7, 0.0)))
    tail = _polygon(x, y, ((-0.4, 0.0), (-0.95, -0.05), (-0.95, 0.3), (-0.4, 0.2)))
    left, right = (_wing(x, y, side * span, lift, bend) for side in (-1, 1))
    return body | head | beak | tail | left | (right & _has_both_wings(draws))


def _wing(x: Tensor, y: Tensor, tip: Tensor, lift: Tensor, bend: Tensor) -> Tensor:
    """Return where a wing is that rises to its elbow, halfway to the tip, and bends down from there."""
    side = tip.sign()
    elbow = 0.5 * tip
    inner = _polygon(x, y, ((-0.1 * side, 0.1), (0.3 * side, 0.1), (elbow, -lift), (elbow - 0.25 * side, -lift)))
    outer = _polygon(x, y, ((elbow - 0.2 * side, -lift), (elbow, -lift + 0.25), (tip, -lift + bend)))
    return inner | outer


def _has_both_wings(draws: _Draws) -> Tensor:
    return (draws("both_wings") < 0.6)[:, None, None]


def _ellipse(x: Tensor, y: Tensor, center_x: float, center_y: float, a: float, b: Tensor | float) -> Tensor:
    return ((x - center_x) / a) ** 2 + ((y - center_y) / _per_image(b)) ** 2 <= 1


def _polygon(x: Tensor, y: Tensor, corners: Points) -> Tensor:
    """Return the points inside a convex polygon: on one side of all its edges."""
    sides = []
    for (x1, y1), (x2, y2) in zip(corners, (*corners[1:], corners[0]), strict=True):
        edge_x, edge_y = _per_image(x2) - _per_image(x1), _per_image(y2) - _per_image(y1)
        sides.append(edge_x * (y - _per_image(y1)) - edge_y * (x - _per_image(x1)))
    stacked = torch.stack(sides)
    return (stacked >= 0).all(0) | (stacked <= 0).all(0)


def _per_image(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value).reshape(-1, 1, 1)


def _sky(draws: _Draws) -> Tensor:
    """Return a sky between blue and gray, darker or lighter towards the bottom, with one cloud, (N, 3, 32, 32)."""
    blue, gray = torch.tensor([110.0, 165.0, 225.0]), torch.tensor([190.0, 195.0, 205.0])
    color = (blue + draws("hue")[:, None] * (gray - blue))[:, :, None, None]
    axis = torch.linspace(-1, 1, _SIDE)
    shade = draws("brightness", -30, 30)[:, None, None] + draws("gradient", -30, 30)[:, None, None] * axis[:, None]
    center_x, center_y = draws("cloud_x", -1, 1)[:, None, None], draws("cloud_y", -1, 1)[:, None, None]
    size = draws("cloud_size", 0.2, 0.6)[:, None, None]
    cloud = torch.exp(-(((axis - center_x) / size) ** 2) - ((axis[:, None] - center_y) / (0.4 * size)) ** 2)
    return color + (shade + 60 * cloud)[:, None]


def _shape_color(draws: _Draws) -> Tensor:
    """Return a color, nearly gray, dark or white in equal parts: color does not distinguish the classes."""
    dark = draws("light") < 0.5
    gray = torch.where(dark, draws("tint", 20, 90), draws("tint", 225, 255))
    return gray[:, None, None, None] * torch.tensor([1.0, 0.97, 0.93])[:, None, None]
