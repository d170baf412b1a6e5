"""Batches of images with masks: both move together, a function of (seed, step) with any workers, start and ranks."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from mask_files import SIZES, disk, write_folders
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.loader_workers import Batch
from reslab.data.masks import VOID, MaskEncoding
from reslab.data.registry import open_dataset
from reslab.data.rng import hash_key
from reslab.data.target_datasets import MaskImageDataset, MaskTensor
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.preprocess import Preprocess

TRANSFORM = "random-resize(0.5,2,40) pad-to(32) crop(32) flip rotate(20) color-jitter(0.4)"
PREPROCESS = Preprocess(3, "", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def in_files(tmp_path_factory: pytest.TempPathFactory) -> MaskImageDataset:
    data = open_dataset(write_folders(tmp_path_factory.mktemp("cells"), SIZES * 3), val_fraction=0.2)
    dataset = data.split("train")
    assert isinstance(dataset, MaskImageDataset)
    return dataset


@pytest.fixture(scope="module")
def in_memory() -> MaskImageDataset:
    masks = torch.from_numpy(np.stack([disk(40, 50, radius) for radius in range(4, 16)]))
    pixels = (masks[:, None] * 180 + 20).expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    return MaskImageDataset(TensorImageDataset(pixels, torch.zeros(12, dtype=torch.int64)), MaskTensor(masks))


def train(dataset: MaskImageDataset, transform: str = TRANSFORM, workers: int = 0, **options: Any) -> TrainLoader:
    return TrainLoader(dataset, 4, transform, PREPROCESS, 3, "cpu", workers, **options)


def equal(result: list[Batch], expected: list[Batch]) -> bool:
    pairs = zip(result, expected, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_a_batch_has_images_and_masks(in_files: MaskImageDataset) -> None:
    for x, y, indices in islice(train(in_files).iter_from(), 3):
        assert (x.dtype, tuple(x.shape)) == (torch.float32, (4, 3, 32, 32))
        assert (y.dtype, tuple(y.shape), tuple(indices.shape)) == (torch.int64, (4, 32, 32), (4,))
        assert set(y.unique().tolist()) <= {0, 1, VOID}


def test_a_mask_moves_with_its_image(in_memory: MaskImageDataset) -> None:
    """The mask is 1 where the image is bright; only the resampled boundary of the disk may differ."""
    transform = "random-resize(0.5,2,40) pad-to(32) crop(32) flip rotate(20)"
    num_void = 0
    for x, y, _ in islice(train(in_memory, transform).iter_from(), 6):
        pixels = x[:, 0] * PREPROCESS.std[0] + PREPROCESS.mean[0]
        counts = y != VOID
        disagree = ((pixels > 110 / 255) != (y == 1)) & counts
        assert float(disagree.sum()) < 0.02 * float(counts.sum())
        num_void += int((~counts).sum())
    assert num_void > 0  # what rotation and padding uncover


def test_batches_equal_the_pipeline_on_one_sample(in_files: MaskImageDataset) -> None:
    pipeline, loader = TransformPipeline(TRANSFORM), train(in_files)
    epoch = 1
    for x, y, indices in islice(loader.iter_from(loader.num_steps_per_epoch), 2):
        for image, mask, index in zip(x, y, indices.tolist(), strict=True):
            pixels, target = in_files.load_image(index), in_files.load_target(index)
            moved, moved_mask = pipeline.apply_sample(pixels, target, hash_key(3, epoch, index))
            assert torch.equal(loader.normalize(moved[None])[0], image)
            assert torch.equal(moved_mask.as_subclass(Tensor).long(), mask)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_and_any_start_gives_the_same_steps(in_files: MaskImageDataset, workers: int) -> None:
    whole = list(islice(train(in_files).iter_from(), 7))
    assert equal(list(islice(train(in_files, workers=workers).iter_from(2), 5)), whole[2:])


def test_ranks_share_the_batches_of_one(in_files: MaskImageDataset) -> None:
    alone = list(islice(train(in_files).iter_from(1), 3))
    parts = [list(islice(train(in_files, rank=rank, world_size=2).iter_from(1), 3)) for rank in range(2)]
    joined = [tuple(torch.cat(pair) for pair in zip(*batches, strict=True)) for batches in zip(*parts, strict=True)]
    assert equal(joined, alone)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        ("crop(16) mixup(0.2)", {}, "leave mixup and cutmix out"),
        ("crop(16) cutmix(1)", {}, "leave mixup and cutmix out"),
        ("crop(16)", {"class_balanced": True}, "set class_balanced_sampling=false"),
        ("randaugment crop(16)", {}, "compose geometric and color transforms instead"),
        ("crop(500)", {}, "got: images of"),
    ],
)
def test_training_refuses_what_does_not_suit_masks(
    in_files: MaskImageDataset, transform: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(in_files, transform, **options)


def test_evaluation_takes_each_image_whole_in_order(in_files: MaskImageDataset) -> None:
    batches = list(eval_loader(in_files, 4, PREPROCESS, "cpu"))
    assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(len(in_files)))
    assert max(len(x) for x, _, _ in batches) > 1
    for x, y, indices in batches:
        for image, mask, index in zip(x, y, indices.tolist(), strict=True):
            assert image.shape[-2:] == in_files.load_image(index).shape[-2:]
            assert torch.equal(mask, in_files.load_target(index).as_subclass(Tensor).long())


def test_evaluation_does_not_depend_on_the_batch_size(in_files: MaskImageDataset) -> None:
    preprocess = Preprocess(3, "resize(32)", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    one_by_one = list(eval_loader(in_files, 1, preprocess, "cpu"))
    batched = list(eval_loader(in_files, 8, preprocess, "cpu", 1))
    singles = [(x[i : i + 1], y[i : i + 1], indices[i : i + 1]) for x, y, indices in batched for i in range(len(x))]
    assert equal(singles, one_by_one)
    fixed = Preprocess(3, "resize(32,48)", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert [len(x) for x, _, _ in eval_loader(in_files, 8, fixed, "cpu")] == [8, len(in_files) - 8]


def test_ranks_take_the_batches_of_an_evaluation_in_turn(in_files: MaskImageDataset) -> None:
    alone = list(eval_loader(in_files, 4, PREPROCESS, "cpu"))
    for rank in range(3):
        assert equal(list(eval_loader(in_files, 4, PREPROCESS, "cpu", rank=rank, world_size=3)), alone[rank::3])


def test_an_item_is_preprocessed_as_in_evaluation(in_files: MaskImageDataset, in_memory: MaskImageDataset) -> None:
    data = DatasetSplits("cells", "made", ("ground", "disk"), PREPROCESS, {"train": in_files}, task="segmentation")
    batches = list(eval_loader(in_files, 4, PREPROCESS, "cpu"))
    items = [data.split("train")[i] for i in range(len(in_files))]
    singles = [(image, mask) for x, y, _ in batches for image, mask in zip(x, y, strict=True)]
    assert equal(items, singles)  # type: ignore[arg-type]
    pixels, mask = in_memory[-1]
    assert (pixels.dtype, mask.dtype) == (torch.float32, torch.int64)
    assert torch.equal(pixels, in_memory.images.load_image(11).float() / 255)


def test_a_subset_keeps_images_and_masks_together(in_files: MaskImageDataset, in_memory: MaskImageDataset) -> None:
    for dataset in (in_files, in_memory):
        part = dataset.subset([3, 1])
        assert len(part) == 2
        assert part.labels.tolist() == [0, 0]
        for i, index in enumerate((3, 1)):
            assert part.name(i) == dataset.name(index)
            assert torch.equal(part.load_image(i), dataset.load_image(index))
            assert torch.equal(part.load_target(i), dataset.load_target(index))


def test_the_fingerprint_counts_images_masks_and_their_encoding(in_memory: MaskImageDataset) -> None:
    def fingerprint(masks: Tensor) -> str:
        dataset = MaskImageDataset(in_memory.images, MaskTensor(masks))
        splits = {"train": dataset}
        return DatasetSplits("cells", "made", ("a", "b"), PREPROCESS, splits, task="segmentation").fingerprint

    assert isinstance(in_memory.masks, MaskTensor)
    masks = in_memory.masks.masks
    other = masks.clone()
    other[2, 3, 4] = VOID
    assert fingerprint(masks) == fingerprint(masks.clone())
    assert fingerprint(masks) != fingerprint(other)
    assert MaskEncoding((0, 1)).to_dict() != MaskEncoding((0, 1), is_instances=True).to_dict()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(12, 40, 50), "masks.to"),
        (torch.zeros(12, 2, 40, 50, dtype=torch.uint8), "masks.argmax"),
        (torch.full((12, 40, 50), -1), "masked_fill"),
        (torch.zeros(3, 40, 50, dtype=torch.uint8), "one mask for each of 12 images"),
    ],
)
def test_masks_in_memory_that_do_not_fit(in_memory: MaskImageDataset, masks: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskImageDataset(in_memory.images, MaskTensor(masks))


def test_a_mask_of_another_size_is_named(in_memory: MaskImageDataset) -> None:
    dataset = MaskImageDataset(in_memory.images, MaskTensor(torch.zeros(12, 20, 50, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="#0: required: boxes and masks of 40x50, like the image; got: 20x50"):
        train(dataset, "crop(16)")
