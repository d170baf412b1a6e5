"""Boxes: issues, tables, targets, and transforms against torchvision's v2 and its boxes and masks."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from reslab.data.boxes import (
    BoxImageDataset,
    BoxIssueKind,
    BoxTable,
    ObjectRow,
    begin_transform,
    finish_transform,
    fit_box,
    make_box_table,
    make_target,
    without_ignored,
)
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.rng import hash_key
from reslab.data.segments import Polygons
from reslab.data.transforms.pipeline import TransformPipeline

HEIGHT, WIDTH = 60, 80


@pytest.mark.parametrize(
    ("box", "kind", "fitted"),
    [
        ((1, 2, 80, 60), None, (1, 2, 80, 60)),
        ((-0.9, -1, 81, 60.5), None, (0, 0, 80, 60)),
        ((-1.1, 2, 30, 40), BoxIssueKind.CLIPPED, (0, 2, 30, 40)),
        ((70, 50, 95, 99), BoxIssueKind.CLIPPED, (70, 50, 80, 60)),
        ((80, 0, 90, 10), BoxIssueKind.OUTSIDE, (0, 0, 0, 0)),
        ((-5, -5, 0, 10), BoxIssueKind.OUTSIDE, (0, 0, 0, 0)),
        ((30, 2, 20, 40), BoxIssueKind.SWAPPED, (0, 0, 0, 0)),
        ((30, 2, 30, 40), BoxIssueKind.EMPTY, (0, 0, 0, 0)),
        ((30, math.nan, 40, 40), BoxIssueKind.NOT_FINITE, (0, 0, 0, 0)),
        ((30, 2, math.inf, 40), BoxIssueKind.NOT_FINITE, (0, 0, 0, 0)),
    ],
)
def test_a_box_is_fitted_to_its_image(
    box: tuple[float, ...], kind: BoxIssueKind | None, fitted: tuple[float, ...]
) -> None:
    result, found_fault, text = fit_box(box, HEIGHT, WIDTH)
    assert (result, found_fault) == (fitted, kind)
    assert bool(text) == (kind is not None)


def random_table(num_images: int = 40, *, with_masks: bool = False, seed: int = 0) -> BoxTable:
    generator = np.random.default_rng(seed)
    objects = []
    for _ in range(num_images):
        corners = generator.uniform(0, 1, (int(generator.integers(0, 7)), 2, 2)) * (WIDTH - 4, HEIGHT - 4)
        low, high = corners.min(1), corners.max(1) + 3
        rows = []
        for k, (x1, y1, x2, y2) in enumerate(np.concatenate((low, high), 1).tolist()):
            segment = Polygons((np.array([x1, y1, x2, y1, x2, y2, x1, y2]),)) if with_masks else None
            rows.append(ObjectRow((x1, y1, x2, y2), k + 1, 10.0 * (k + 1), k % 3 == 1, k % 4 == 2, segment))
        objects.append(rows)
    return make_box_table([f"{i}.png" for i in range(num_images)], [(HEIGHT, WIDTH)] * num_images, objects)


@cache
def random_images(num_images: int = 40) -> TensorImageDataset:
    images = torch.from_numpy(
        np.random.default_rng(3).integers(0, 255, (num_images, 3, HEIGHT, WIDTH)).astype(np.uint8)
    )
    return TensorImageDataset(images, torch.zeros(num_images, dtype=torch.int64))


def transform(table: BoxTable, i: int, expression: str, *, with_masks: bool = False, min_visible: float = 0.1) -> Any:
    target = begin_transform(make_target(table, i, with_masks=with_masks))
    image = random_images().images[i]
    return finish_transform(
        TransformPipeline(expression).apply_sample(image, target, hash_key(0, 0, i))[1], min_visible
    )


def test_a_target_is_what_the_table_has() -> None:
    table = random_table()
    i = int(np.diff(table.offsets).argmax())
    target, rows = make_target(table, i), table.rows(i)
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert np.array_equal(target["boxes"].numpy(), table.boxes[rows])
    assert target["labels"].tolist() == list(range(1, rows.stop - rows.start + 1))
    assert target["image_id"] == f"{i}.png"
    kept = without_ignored(target)
    is_kept = ~(target["crowd"] | target["difficult"])
    assert 0 < len(kept["labels"]) < len(is_kept)
    for name in ("boxes", "labels", "area", "crowd", "difficult"):
        assert torch.equal(kept[name], target[name][is_kept])


def test_without_a_transform_nothing_changes() -> None:
    table = random_table(with_masks=True)
    for i in range(len(table)):
        target = make_target(table, i, with_masks=True)
        finished = transform(table, i, "", with_masks=True)
        assert finished.keys() == target.keys()
        for name, value in target.items():
            if isinstance(value, Tensor):
                assert type(finished[name]) is Tensor
                assert torch.equal(finished[name], value.as_subclass(Tensor)), name


@pytest.mark.parametrize("expression", ["flip(1)", "vertical-flip(1)", "resize(90)", "center-crop(40)", "pad(7)"])
def test_boxes_move_as_in_torchvision(expression: str) -> None:
    reference = {
        "flip(1)": v2.RandomHorizontalFlip(1),
        "vertical-flip(1)": v2.RandomVerticalFlip(1),
        "resize(90)": v2.Resize(90),
        "center-crop(40)": v2.CenterCrop(40),
        "pad(7)": v2.Pad(7),
    }[expression]
    table, num_dropped = random_table(), 0
    sanitize = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=lambda inputs: (inputs["labels"], inputs["area"]))
    for i in range(len(table)):
        target = make_target(table, i)
        image = tv_tensors.Image(random_images().images[i])  # without an image, v2 takes the labels for one
        moved = sanitize(reference({"image": image, **{name: target[name] for name in ("boxes", "labels", "area")}}))
        result = transform(table, i, expression, min_visible=0)
        assert torch.allclose(result["boxes"], moved["boxes"].as_subclass(Tensor), atol=1e-4)
        assert torch.equal(result["labels"], moved["labels"])
        num_dropped += len(target["labels"]) - len(result["labels"])
        factor = (90 / HEIGHT) ** 2 if expression == "resize(90)" else 1.0
        if expression != "center-crop(40)":
            assert torch.allclose(result["area"], moved["area"] * factor, rtol=1e-4)
    assert (num_dropped > 0) == (expression == "center-crop(40)")


def test_large_scale_jitter_drops_objects_with_too_little_left() -> None:
    """The boxes of the crop, from the scale and position that the image has, and the share of each inside it."""
    table, dropped = random_table(), {0.0: 0, 0.3: 0, 1.0: 0}
    expression = "random-resize(0.4,3) pad-to(50) crop(50)"
    for i in range(len(table)):
        target = begin_transform(make_target(table, i))
        ruler = tv_tensors.BoundingBoxes(
            torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]]),
            format="XYXY",
            canvas_size=(HEIGHT, WIDTH),
            clamping_mode=None,
        )
        moved = TransformPipeline(expression).apply_sample(
            random_images().images[i], {"ruler": ruler}, hash_key(0, 0, i)
        )
        left, top, right, bottom = moved[1]["ruler"][0].tolist()
        scale = torch.tensor([(right - left) / WIDTH, (bottom - top) / HEIGHT] * 2)
        full = target["boxes"].as_subclass(Tensor) * scale + torch.tensor([left, top, left, top])
        inside = full.clamp(0, 50)
        share = (inside[:, 2:] - inside[:, :2]).prod(1) / (full[:, 2:] - full[:, :2]).prod(1)
        is_wide = (inside[:, 2:] - inside[:, :2] >= 1.001).all(1)
        for min_visible in dropped:
            keep = (share >= min_visible - 1e-4) & is_wide
            result = transform(table, i, expression, min_visible=min_visible)
            assert torch.allclose(result["boxes"], inside[keep], atol=1e-3)
            assert result["labels"].tolist() == (keep.nonzero().flatten() + 1).tolist()
            assert result["crowd"].tolist() == target["crowd"][keep].tolist()
            assert torch.allclose(result["area"], (target["area"] * scale[0] * scale[1] * share)[keep], rtol=1e-3)
            dropped[min_visible] += int((~keep).sum())
    assert 0 < dropped[0.0] < dropped[0.3] < dropped[1.0]


def test_masks_move_with_their_boxes() -> None:
    """The boxes of rectangles are those of their masks, to about a pixel; a flipped and cropped one too."""
    table, num_objects = random_table(with_masks=True), 0
    for i in range(len(table)):
        result = transform(table, i, "random-resize(0.7,2) pad-to(60) crop(60) flip color-jitter(0.3)", with_masks=True)
        assert result["masks"].shape == (len(result["labels"]), 60, 60)
        assert result["masks"].dtype == torch.uint8
        for box, mask in zip(result["boxes"], result["masks"], strict=True):
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            of_mask = torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            assert float((of_mask - box).abs().max()) <= 2.1
            num_objects += 1
    assert num_objects > 50


def test_color_transforms_leave_boxes_and_policies_are_refused() -> None:
    table = random_table()
    i = int(np.diff(table.offsets).argmax())
    assert torch.equal(transform(table, i, "color-jitter(0.4) invert(1)")["boxes"], transform(table, i, "")["boxes"])
    with pytest.raises(ValueError, match="compose geometric and color transforms instead"):
        transform(table, i, "randaugment")


def test_a_subset_of_a_table_and_a_dataset() -> None:
    table = random_table(with_masks=True)
    dataset = BoxImageDataset(random_images(), table, with_masks=True)
    part = dataset.subset([7, 2, 2])
    assert part.image_sizes() == ((HEIGHT, WIDTH),) * 3
    for k, i in enumerate((7, 2, 2)):
        (image, target), (expected_image, expected) = part[k], dataset[i]
        assert torch.equal(image, expected_image)
        assert target["image_id"] == f"{i}.png"
        assert all(torch.equal(target[name], expected[name]) for name in ("boxes", "labels", "masks", "area"))
    assert part.target_digest() != dataset.target_digest()
    assert dataset.subset(range(40)).target_digest() == dataset.target_digest()
    assert dataset.count_objects(8).sum() == len(table.labels)
    assert len(dataset.subset([]).table.labels) == 0


@pytest.mark.parametrize("change", ["boxes", "labels", "areas", "crowd", "difficult", "segments", "image_ids"])
def test_every_annotation_counts_in_the_digest(change: str) -> None:
    table = random_table(with_masks=True)
    other: dict[str, Any] = {
        "segments": (Polygons((np.ones(6),)), *table.segments[1:]),
        "image_ids": ("other.png", *table.image_ids[1:]),
    }
    if change not in other:
        values = getattr(table, change).copy()
        values.flat[0] = not values.flat[0] if values.dtype == bool else values.flat[0] + 1
        other[change] = values
    assert replace(table, **{change: other[change]}).digest() != table.digest()
    assert random_table(with_masks=True).digest() == table.digest()


def test_what_does_not_fit_is_an_error() -> None:
    table = random_table()
    with pytest.raises(ValueError, match="add 1 to all labels: 0 is the background"):
        replace(table, labels=table.labels - 1)
    with pytest.raises(ValueError, match="a box, area and flags for each"):
        replace(table, areas=table.areas[:-1])
    with pytest.raises(ValueError, match="boxes for each of 3 images; got: boxes for 40 images"):
        BoxImageDataset(random_images(3), table)
    with pytest.raises(ValueError, match="load boxes without masks"):
        BoxImageDataset(random_images(), table, with_masks=True)
    with pytest.raises(ValueError, match=r"a least visible share of a box from 0 to 1; got: 1.5; nearest valid: 1"):
        BoxImageDataset(random_images(), table, min_visible=1.5)
