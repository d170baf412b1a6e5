"""A user's own transform: a function of the sample's seed, whatever the workers and interruptions."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from reslab.data.adapters import as_dataset
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import TrainLoader
from reslab.data.transforms.pipeline import parse_train_transform
from reslab.data.transforms.third_party import split_functions
from reslab.spec.preprocess import Preprocess
from reslab.training.run import Run
from reslab.training.train import train
from tests.training.conftest import TINY


def noisy(image: Tensor) -> Tensor:
    """Draw from all three global generators, and change the image in place."""
    image[:, : random.randrange(1, 4)] = int(np.random.randint(256))
    return image.roll(int(torch.randint(8, ())), -1)


class Shades(Dataset[tuple[Tensor, int]]):
    """Images of 8x8 in uint8, fetched one by one."""

    def __init__(self, num: int = 40) -> None:
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (num, 1, 8, 8), dtype=torch.uint8, generator=draw)
        self.targets = [i % 2 for i in range(num)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


PREPROCESS = Preprocess(1, "", (0.5,), (0.5,))
TRANSFORM = ["pad(1) crop(8)", noisy, "flip"]


def batches(num_workers: int, start: int = 0, in_memory: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
    data = Shades()
    images = as_dataset(data).split("train")
    if in_memory:
        images = TensorImageDataset(data.images, torch.tensor(data.targets))
    loader = TrainLoader(images, 8, TRANSFORM, PREPROCESS, 3, "cpu", num_workers)
    result = list(islice(loader.iter_from(start), 9 - start))
    assert torch.equal(data.images, Shades().images)  # what changes an image in place changes a copy
    return result


def test_any_start_and_workers_give_the_same_batches() -> None:
    torch.manual_seed(11)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    whole = batches(0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    random.seed(5)
    for other, start in ((batches(2), 0), (batches(0, 4), 4), (batches(1, 7), 7), (batches(0, 2, True), 2)):
        for result, expected in zip(other, whole[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert not torch.equal(whole[0][0], whole[5][0])  # another epoch draws others


def run_of(output: Path, **options: Any) -> Run:
    overrides = {**TINY, "duration": "8 steps", "batch_size": 16, **options.pop("overrides", {})}
    data = options.pop("data", (Shades().images, torch.tensor(Shades().targets)))
    settings = {"data": data, "seed": 2, "device": "cpu", "on_log": lambda line: None, "save_every_seconds": 0.0}
    return train(output=output, overrides=overrides, **{**settings, **options})


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, weights_hash: Callable[[Run], str]) -> None:
    whole = run_of(tmp_path / "whole", train_transform=TRANSFORM)
    text = whole.metadata["recipe"]["train_transform"]
    assert text == f"pad(1) crop(8) callable({noisy.__module__}.noisy) flip"

    def stop(step: int, model: Any) -> dict[str, float]:
        if step == 5:
            raise KeyError("a power cut")
        return {}

    with pytest.raises(KeyError):
        run_of(tmp_path / "cut", overrides={"train_transform": TRANSFORM}, on_step_end=stop, hook_every_steps=1)
    with pytest.raises(ValueError, match=r"required: the function \S+noisy of the transform; got: its name alone"):
        run_of(tmp_path / "cut", resume=True)
    with pytest.raises(ValueError, match="train_transform as in the run"):
        run_of(tmp_path / "cut", resume=True, train_transform=["pad(1) crop(8)", torch.clone, "flip"])
    resumed = run_of(tmp_path / "cut", resume=True, train_transform=TRANSFORM)
    assert weights_hash(resumed) == weights_hash(whole)


def test_two_values_of_the_transform_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one value of train_transform"):
        run_of(tmp_path / "two", train_transform=noisy, overrides={"train_transform": "flip"})


def test_functions_are_named_apart() -> None:
    first, second = (lambda image: image), (lambda image: image + 1)
    text, functions = split_functions([first, "flip", second, first, v2.RandomInvert(1)])
    name = f"{__name__}.test_functions_are_named_apart.locals.lambda"
    invert = "torchvision.transforms.v2._color.RandomInvert"
    assert text == f"callable({name}) flip callable({name}-2) callable({name}) callable({invert})"
    assert list(functions) == [name, f"{name}-2", invert]
    pipeline, mixer = parse_train_transform(["flip(0)", second, lambda image: 255 - image, "mixup(0.2)"])
    image = torch.full((1, 2, 2), 7, dtype=torch.uint8)
    assert pipeline.apply_image(image, 3).tolist() == (247 + torch.zeros(1, 2, 2)).tolist()
    assert mixer is not None


def test_a_function_of_a_sample() -> None:
    def shift(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        return image + 1, {**target, "mask": tv_tensors.wrap(target["mask"] * 2, like=target["mask"])}

    pipeline, _ = parse_train_transform([shift, "crop(4)"])
    mask = tv_tensors.Mask(torch.ones(8, 8))
    image, target = pipeline.apply_sample(torch.zeros(1, 8, 8), {"mask": mask}, 5)
    assert (image.unique().tolist(), target["mask"].unique().tolist(), target["mask"].shape) == ([1], [2], (4, 4))
    assert isinstance(target["mask"], tv_tensors.Mask)
    pipeline, _ = parse_train_transform([lambda image, target: (image, {"mask": target["mask"] * 2}), "crop(4)"])
    with pytest.raises(ValueError, match=r"wrap\(tensor, like=mask\)"):  # arithmetic makes a plain tensor of a mask
        pipeline.apply_sample(torch.zeros(1, 8, 8), {"mask": mask}, 5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda image: None, "an image tensor (C, H, W) from"),
        (lambda image: image.numpy(), "nearest valid: torch.from_numpy(array).permute(2, 0, 1)"),
        (lambda image: image[None], "torch.uint8 of shape (1, 1, 8, 8)"),
        (lambda image: image.long(), "an image (C, H, W) in uint8 or floats"),
    ],
)
def test_a_result_that_is_no_image(function: Callable[[Tensor], Any], message: str) -> None:
    pipeline, _ = parse_train_transform(function)
    with pytest.raises(ValueError) as caught:
        pipeline.apply_image(torch.zeros(1, 8, 8, dtype=torch.uint8), 0)
    assert message in str(caught.value)


def test_a_pillow_image_is_one_too() -> None:
    pipeline, _ = parse_train_transform(lambda image: Image.fromarray(255 - image[0].numpy()))
    pixels = Shades().images[0]
    assert torch.equal(pipeline.apply_image(pixels, 0), 255 - pixels)


def test_what_is_no_transform() -> None:
    with pytest.raises(ValueError, match="required: transforms as text or functions; got: a int"):
        parse_train_transform(["flip", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"required: the function my\.sharpen of the transform"):
        parse_train_transform("flip callable(my.sharpen)")
