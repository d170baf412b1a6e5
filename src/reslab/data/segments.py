"""Masks of single objects, decoded on demand: polygons and run lengths as in COCO, numbers in a file of instances.

The run-length code and the pixels of a polygon are those of pycocotools' `maskApi.c` (Lin et al. 2014,
arXiv:1405.0312).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reslab.data.masks import read_stored_mask
from reslab.spec.errors import invalid

MASK_THRESHOLD = 0.5
"""A pixel belongs to an object if its probability is above this (He et al. 2017, Mask R-CNN, Sec. 3.1)."""
_SCALE = 5  # the boundary is drawn on a grid five times as fine as the pixels


@dataclass(frozen=True, eq=False)
class Polygons:
    """An object as polygons, each (x1, y1, x2, y2, ...) in pixels; the mask is their union."""

    points: tuple[np.ndarray, ...]

    def decode(self, height: int, width: int) -> np.ndarray:
        """Return the mask (H, W) bool."""
        mask = np.zeros((height, width), bool)
        for polygon in self.points:
            mask |= polygon_mask(polygon, height, width)
        return mask

    def scale(self, x_factor: float, y_factor: float) -> "Polygons":
        """Return the polygons with every x and every y times a factor."""
        factors = np.array((x_factor, y_factor))
        return Polygons(tuple((polygon.reshape(-1, 2) * factors).reshape(-1) for polygon in self.points))

    def content(self) -> bytes:
        """Return what a hash of the annotations takes."""
        return b";".join(polygon.tobytes() for polygon in self.points)


@dataclass(frozen=True, eq=False)
class RunLengths:
    """An object in run-length encoding: pixels in columns, first a run of zeros; `counts` is COCO's text or a list."""

    counts: bytes | tuple[int, ...]
    height: int
    width: int

    def decode(self, height: int, width: int) -> np.ndarray:
        """Return the mask (H, W) bool. Raises ValueError for another size, or runs that do not fill it."""
        runs = self.runs(height, width)
        is_set = np.arange(len(runs)) % 2 == 1
        return np.repeat(is_set, runs).reshape(width, height).T

    def runs(self, height: int, width: int) -> list[int]:
        """Return the length of each run. Raises ValueError for another size, or runs that do not fill it."""
        if (self.height, self.width) != (height, width):
            raise invalid(f"a segmentation of {height}x{width}, like the image", f"{self.height}x{self.width}")
        runs = _decode_text(self.counts) if isinstance(self.counts, bytes) else list(self.counts)
        if sum(runs) != height * width or min(runs, default=0) < 0:
            raise invalid(f"runs of {height * width} pixels in a segmentation", f"{sum(runs)} pixels")
        return runs

    def to_dict(self) -> dict[str, Any]:
        """Return COCO's `size` (height, width) and `counts`, as text or a list."""
        counts = self.counts.decode("ascii") if isinstance(self.counts, bytes) else list(self.counts)
        return {"size": [self.height, self.width], "counts": counts}

    def content(self) -> bytes:
        """Return what a hash of the annotations takes."""
        counts = self.counts if isinstance(self.counts, bytes) else repr(self.counts).encode()
        return f"{self.height}x{self.width}:".encode() + counts


@dataclass(frozen=True, eq=False)
class InstanceNumber:
    """An object as the pixels of one number in a mask file."""

    path: Path
    number: int

    def decode(self, height: int, width: int) -> np.ndarray:
        """Return the mask (H, W) bool. Raises ValueError if the file cannot be read."""
        return read_stored_mask(self.path).values == self.number

    def content(self) -> bytes:
        """Return what a hash of the annotations takes."""
        return f"{self.path.name}:{self.number}".encode()


Segment = Polygons | RunLengths | InstanceNumber


def decode_segments(segments: Sequence[Segment], height: int, width: int) -> np.ndarray:
    """Return the masks (N, H, W) uint8 of objects; a file of instances is read once.

    Raises ValueError for a segment that does not suit the size.
    """
    files: dict[Path, np.ndarray] = {}
    masks = np.zeros((len(segments), height, width), np.uint8)
    for mask, segment in zip(masks, segments, strict=True):
        if isinstance(segment, InstanceNumber):
            if segment.path not in files:
                files[segment.path] = read_stored_mask(segment.path).values
            mask[:] = files[segment.path] == segment.number
        else:
            mask[:] = segment.decode(height, width)
    return masks


def polygon_mask(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels of a polygon (x1, y1, x2, y2, ...) as a mask (H, W) bool, like pycocotools.

    The boundary crosses every column at some rows; a pixel is inside if an odd number of crossings is above it.
    """
    corners = np.trunc(_SCALE * polygon.astype(np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    edges = [_draw_edge(*pair) for pair in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    x, y = np.concatenate(edges, axis=1)
    x_before, y_before, x_after, y_after = x[:-1], y[:-1], x[1:], y[1:]
    column = (np.where(x_after < x_before, x_after, x_after - 1) + 0.5) / _SCALE - 0.5
    row = np.ceil(np.clip((np.minimum(y_before, y_after) + 0.5) / _SCALE - 0.5, 0, height))
    is_crossing = (x_after != x_before) & (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    positions = column[is_crossing].astype(np.int64) * height + row[is_crossing].astype(np.int64)
    num_crossings = np.bincount(positions, minlength=height * width + 1)[: height * width].cumsum()
    inside: np.ndarray = (num_crossings % 2 == 1).reshape(width, height).T
    return inside


def _draw_edge(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the points (2, n) of an edge, one for each step along its longer side."""
    difference = end - start
    num_steps = int(np.abs(difference).max())
    long_axis = 0 if abs(difference[0]) >= abs(difference[1]) else 1
    is_flipped = difference[long_axis] < 0
    low, high = (end, start) if is_flipped else (start, end)
    steps = np.arange(num_steps + 1)[:: -1 if is_flipped else 1]
    slope = (high[1 - long_axis] - low[1 - long_axis]) / max(1, num_steps)
    points = np.empty((2, num_steps + 1), np.int64)
    points[long_axis] = low[long_axis] + steps
    points[1 - long_axis] = np.trunc(low[1 - long_axis] + slope * steps + 0.5).astype(np.int64)
    return points


def _decode_text(text: bytes) -> list[int]:
    """Return the runs of COCO's text: 5 bits a character, a sign, and from the fourth run on differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def encode_mask(mask: np.ndarray) -> RunLengths:
    """Return a mask (H, W) in COCO's run-length encoding, with the runs as text."""
    pixels = np.asarray(mask).astype(bool).T.reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts_with_object = [0] if len(pixels) and pixels[0] else []
    bounds = [*starts_with_object, *changes.tolist(), len(pixels)]
    runs = np.diff([0, *bounds]).tolist()
    return RunLengths(_encode_text(runs), *mask.shape)


def _encode_text(runs: Sequence[int]) -> bytes:
    """Return the text that `_decode_text` reads."""
    text = bytearray()
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        is_last = False
        while not is_last:
            bits = value & 0x1F
            value >>= 5
            is_last = value == (-1 if bits & 0x10 else 0)
            text.append((bits if is_last else bits | 0x20) + 48)
    return bytes(text)
