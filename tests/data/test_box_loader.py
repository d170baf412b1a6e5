"""Batches of images with boxes: lists, a function of (seed, step) with any workers, start and ranks."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from box_files import SIZES, write_voc
from torch.utils._pytree import tree_flatten
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from reslab.data.boxes import BoxImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.loader_workers import Batch
from reslab.data.registry import open_dataset
from reslab.data.rng import hash_key
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.preprocess import Preprocess

TRANSFORM = "random-resize(0.5,2) flip color-jitter(0.4)"
PREPROCESS = Preprocess(3, "", (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> BoxImageDataset:
    train = open_dataset(write_voc(tmp_path_factory.mktemp("data"))).split("train")
    assert isinstance(train, BoxImageDataset)
    return train.subset([0, 1, 2, 3, 1, 0, 3, 2])


def train(dataset: BoxImageDataset, transform: str = TRANSFORM, workers: int = 0, **options: Any) -> TrainLoader:
    return TrainLoader(dataset, 4, transform, PREPROCESS, 3, "cpu", workers, num_classes=3, **options)


def equal(result: list[Any], expected: list[Any]) -> bool:
    (first, structure), (second, other) = tree_flatten(result), tree_flatten(expected)
    same = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True)]
    return structure == other and all(same)


def test_a_batch_has_lists_of_images_and_targets(dataset: BoxImageDataset) -> None:
    pipeline, loader = TransformPipeline(TRANSFORM), train(dataset)
    sizes = set()
    for x, y, indices in islice(loader.iter_from(), 2):
        assert isinstance(x, list)
        assert isinstance(y, list)
        assert (len(x), len(y), len(indices)) == (4, 4, 4)
        for image, target, index in zip(x, y, indices.tolist(), strict=True):
            pixels, moved = pipeline.apply_sample(*dataset.load_sample(index), hash_key(3, 0, index))
            assert torch.equal(image, pixels.float() / 255)
            assert equal([target], [dataset.finish_target(moved)])
            assert all(type(value) is torch.Tensor for name, value in target.items() if name != "image_id")
            sizes.add(tuple(image.shape))
    assert len(sizes) > 2


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_and_any_start_gives_the_same_steps(dataset: BoxImageDataset, workers: int) -> None:
    whole = list(islice(train(dataset).iter_from(), 5))
    assert equal(list(islice(train(dataset, workers=workers).iter_from(2), 3)), whole[2:])


def test_ranks_share_the_batches_of_one(dataset: BoxImageDataset) -> None:
    alone = list(islice(train(dataset).iter_from(1), 3))
    parts = [list(islice(train(dataset, rank=rank, world_size=2).iter_from(1), 3)) for rank in range(2)]
    joined = [(a[0] + b[0], a[1] + b[1], torch.cat((a[2], b[2]))) for a, b in zip(*parts, strict=True)]
    assert equal(joined, alone)


def test_evaluation_takes_each_image_whole_in_order(dataset: BoxImageDataset) -> None:
    batches: list[Batch] = list(eval_loader(dataset, 3, PREPROCESS, "cpu", 1))
    assert [len(x) for x, _, _ in batches] == [3, 3, 2]
    flat = [(image, target) for x, y, _ in batches for image, target in zip(x, y, strict=True)]
    assert [tuple(image.shape[1:]) for image, _ in flat] == [SIZES[i] for i in (0, 1, 2, 3, 1, 0, 3, 2)]
    assert equal(flat, [dataset[i] for i in range(8)])
    for rank in range(2):
        assert equal(list(eval_loader(dataset, 3, PREPROCESS, "cpu", rank=rank, world_size=2)), batches[rank::2])


def test_training_refuses_what_does_not_suit_boxes(dataset: BoxImageDataset) -> None:
    for transform, message in (
        ("crop(16) mixup(0.2)", "leave mixup and cutmix out"),
        ("randaugment", "compose geometric and color transforms instead"),
        ("crop(500)", "got: images of"),
        ("pad(4,reflect)", "pad with zeros for an image with boxes"),
    ):
        with pytest.raises(ValueError, match=message):
            train(dataset, transform)


def test_a_detector_of_torchvision_takes_a_batch(dataset: BoxImageDataset) -> None:
    """Also where images have no object, or a crop leaves none."""
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, 8, 3, stride=4)
    backbone.out_channels = 8  # type: ignore[assignment]
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    model = FasterRCNN(backbone, 4, 64, 96, rpn_anchor_generator=anchors, rpn_post_nms_top_n_train=50)
    for x, y, _ in islice(train(dataset, "random-resize(0.5,2) pad-to(32) crop(32)").iter_from(), 3):
        losses = model(x, y)
        assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
        assert all(bool(loss.isfinite()) for loss in losses.values())
    assert any(len(target["labels"]) == 0 for target in y) or len(dataset.load_target(2)["labels"]) == 0


def test_an_annotation_of_another_size_is_named(tmp_path: Path) -> None:
    data = open_dataset(write_voc(tmp_path)).split("train")
    assert isinstance(data, BoxImageDataset)
    data.table.sizes[0] = (99, 99)
    with pytest.raises(ValueError, match=r"00.png: required: boxes and masks of 40x50, like the image; got: 99x99"):
        train(data)
