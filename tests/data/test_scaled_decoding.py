"""JPEG files that are read at a fraction of their size: random-resized-crop(..., decoding=scaled)."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data import decode
from reslab.data.decode import read_image
from reslab.data.image_datasets import FileImageDataset
from reslab.data.loader import TrainLoader
from reslab.data.rng import RandomDraws, hash_keys
from reslab.data.transforms.ops import random_crop_box, random_resized_crop_scale
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.preprocess import Preprocess

FULL, SCALED = "random-resized-crop(32) flip", "random-resized-crop(32,decoding=scaled) flip"


def photograph(height: int, width: int, seed: int = 0, cell: int = 16) -> Image.Image:
    """Random colors, `cell` pixels apart, and smooth between them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // cell, width // cell, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(320, 480), (321, 483)])
def test_reduced_pixels_are_about_the_means_of_the_full_ones(factor: int, size: tuple[int, int]) -> None:
    content = encode(photograph(*size))
    full, reduced = read_image(content), read_image(content, choose_scale=lambda height, width: factor)
    height, width = (-(-side // factor) for side in size)
    assert tuple(reduced.shape) == (3, height, width)
    rows, columns = size[0] // factor, size[1] // factor
    inner = full[:, : rows * factor, : columns * factor].float()
    means = inner.unflatten(1, (rows, factor)).unflatten(3, (columns, factor)).mean((2, 4))
    apart = (reduced[:, :rows, :columns].float() - means).abs()
    assert float(apart.mean()) < 1.0
    assert float(apart.max()) < 16.0


@pytest.mark.parametrize(
    "content",
    [
        encode(photograph(128, 192).convert("L")),
        encode(photograph(128, 192).convert("CMYK")),
        encode(photograph(128, 192), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    ],
    ids=["grayscale", "CMYK", "rotated"],
)
def test_only_ordinary_files_are_reduced(content: bytes) -> None:
    assert torch.equal(read_image(content, choose_scale=lambda height, width: 4), read_image(content))


def test_scale_1_is_the_full_image_and_damage_is_an_error() -> None:
    content = encode(photograph(128, 192))
    assert torch.equal(read_image(content, choose_scale=lambda height, width: 1), read_image(content))
    with pytest.raises(ValueError, match="truncated"):
        read_image(content[: len(content) // 2], choose_scale=lambda height, width: 2)


def test_a_crop_is_never_reduced_below_its_size() -> None:
    height, width, size = 700, 1000, 64
    draws = RandomDraws(hash_keys(0, 0, torch.arange(300))).per_sample()
    result = set()
    for draw in draws:
        shorter = min(random_crop_box(draw, height, width, 0.08)[2:])
        factor = random_resized_crop_scale(draw, height, width, size, 0.08, "bilinear", "scaled")
        assert factor == max(f for f in (1, 2, 4, 8) if f == 1 or shorter >= f * size)
        assert random_resized_crop_scale(draw, height, width, size, 0.08, "bilinear", "full") == 1
        result.add(factor)
    assert result == {2, 4, 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileImageDataset:
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for number in range(8):
        paths.append(Path(folder) / f"{number}.jpg")
        paths[-1].write_bytes(encode(photograph(240 + 16 * number, 320, number, cell=64)))
    return FileImageDataset(tuple(paths), torch.zeros(8, dtype=torch.int64))


def first_batch(files: FileImageDataset, transform: str, num_workers: int = 0) -> Tensor:
    loader = TrainLoader(files, 8, transform, Preprocess(3, "", (0.0,) * 3, (1.0,) * 3), 0, "cpu", num_workers)
    return next(loader.iter_from())[0]


def test_training_batches_show_the_same_parts(files: FileImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = []
    reduce = decode._decode_reduced

    def record(file, structure, choose_scale, limits):  # type: ignore[no-untyped-def]
        factors.append(choose_scale(*decode.simple_jpeg_size(structure.jpeg)))
        return reduce(file, structure, choose_scale, limits)

    monkeypatch.setattr(decode, "_decode_reduced", record)
    scaled = first_batch(files, SCALED)
    assert len(factors) == 8
    assert len(set(factors)) > 1
    assert 1 not in factors
    full = first_batch(files, FULL)
    assert len(factors) == 8  # nothing is reduced unless the transform says so
    apart = (255 * (scaled - full)).abs()
    assert float(apart.mean()) < 4.0  # the box is that of the full image up to a pixel of the smaller one
    assert not torch.equal(scaled, full)
    assert torch.equal(scaled, first_batch(files, SCALED, num_workers=1))


def test_only_the_first_transform_decides() -> None:
    draws = RandomDraws(torch.tensor([1])).per_sample()
    assert TransformPipeline(f"flip {SCALED}").choose_scale(draws * 3) is None
    assert TransformPipeline("").choose_scale([]) is None
    assert TransformPipeline(SCALED).choose_scale(draws * 2) is not None
