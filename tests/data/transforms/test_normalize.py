"""A mean of each pixel: what it is, how it is written, where it is subtracted."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional

from reslab.data.image_datasets import TensorImageDataset, WrappedImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.rng import hash_keys
from reslab.data.transforms.normalize import Normalize, compute_mean_image, decode_mean_image, encode_mean_image
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.preprocess import Preprocess


def make_images(num: int = 20, side: int = 8) -> TensorImageDataset:
    draw = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8, generator=draw)
    return TensorImageDataset(pixels, torch.arange(num) % 2)


def preprocess(images: TensorImageDataset) -> Preprocess:
    return Preprocess(3, "", (0.5,) * 3, (1.0,) * 3, encode_mean_image(compute_mean_image(images)))


def test_mean_image_is_exact_and_round_trips() -> None:
    images = make_images()
    mean = compute_mean_image(images)
    assert np.allclose(mean.numpy(), images.images.numpy().mean(0) / 255, atol=1e-7)
    text = encode_mean_image(mean)
    assert text.startswith("3x8x8:")
    assert torch.equal(decode_mean_image(text), mean)


@pytest.mark.parametrize("text", ["", "3x8x8", "3x8x8:AAAA", "3x8:AAAAAAAA"])
def test_a_damaged_text_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="mean_image"):
        decode_mean_image(text)


def test_evaluation_subtracts_it() -> None:
    images = make_images()
    (x, _, _), *rest = eval_loader(images, 20, preprocess(images), "cpu")
    assert not rest
    assert torch.equal(x, images.images / 255 - compute_mean_image(images))
    assert x.mean(0).abs().max() < 1e-6


def test_training_subtracts_it_before_images_are_moved() -> None:
    images = make_images()
    batches = TrainLoader(images, 10, "pad(2) crop(8) flip", preprocess(images), 3, "cpu")
    for step, (x, _, indices) in enumerate(islice(batches.iter_from(0), 4)):
        centred = images.images[indices] / 255 - compute_mean_image(images)
        # The same shifts and flips of uint8 images that tell where each pixel came from.
        positions = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(10, 3, 8, 8) + 1
        moved = (
            TransformPipeline("pad(2) crop(8) flip")
            .apply_batch(positions.contiguous(), hash_keys(3, step // 2, indices))
            .long()
        )
        padded = functional.pad(centred.flatten(2), (1, 0))  # position 0: outside, where the paper has zeros
        assert torch.equal(x, padded.gather(2, moved.flatten(2)).view_as(x))


def test_other_sizes_and_files_are_an_error() -> None:
    images = make_images()
    with pytest.raises(ValueError, match=r"images of 8x8 for a mean of each pixel; got: 12x12"):
        Normalize(preprocess(images), torch.device("cpu"))(make_images(2, 12).images)
    files = WrappedImageDataset(
        [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)] * 4, torch.zeros(4, dtype=torch.int64), 3, (0, 1, 2, 3)
    )
    with pytest.raises(ValueError, match="per_pixel_mean=false"):
        compute_mean_image(files)
    with pytest.raises(ValueError, match="in files"):
        TrainLoader(files, 2, "", preprocess(images), 3, "cpu")
