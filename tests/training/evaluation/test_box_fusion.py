"""Fused boxes against a transcription of the algorithm of Solovyev et al. 2021, and mirrored detections."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from reslab.training.evaluation.box_fusion import fuse_boxes, mirror_boxes
from reslab.training.evaluation.tta import TTATransforms
from reslab.training.tasks.detection import Detection

Boxes = list[tuple[int, float, list[float]]]


def transcription(views: list[Boxes], threshold: float) -> list[tuple[int, float, list[float]]]:
    """Section 3, steps 1 to 7, with lists: B the boxes, L the clusters, F the fused boxes, C the confidences."""
    b = sorted((box for view in views for box in view), key=lambda box: -box[1])
    clusters: list[Boxes] = []
    fused: Boxes = []
    for label, confidence, box in b:
        matches = [
            (float(box_iou(torch.tensor([box]).double(), torch.tensor([other]).double())), position)
            for position, (other_label, _, other) in enumerate(fused)
            if other_label == label
        ]
        overlap, position = max(matches, default=(0.0, -1))
        if overlap > threshold:
            clusters[position].append((label, confidence, box))
        else:
            clusters.append([(label, confidence, box)])
            fused.append((label, confidence, box))
            position = len(fused) - 1
        members = clusters[position]
        total = sum(score for _, score, _ in members)
        x = [sum(score * sides[k] for _, score, sides in members) / total for k in range(4)]
        fused[position] = (label, total / len(members), x)
    n = len(views)
    return [
        (label, confidence * min(len(members), n) / n, box)
        for (label, confidence, box), members in zip(fused, clusters, strict=True)
    ]


def random_views(num_views: int, seed: int) -> list[dict[str, Tensor]]:
    """Detections of 12 objects of two classes, some close together, shifted at random in every view."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(12, 2, generator=generator) * 60
    objects = torch.cat([corners, corners + 10 + 20 * torch.rand(12, 2, generator=generator)], 1)
    labels = torch.randint(1, 3, (12,), generator=generator)
    views = []
    for _ in range(num_views):
        is_found = torch.rand(12, generator=generator) < 0.8
        noise = torch.randn(12, 4, generator=generator)
        scores = torch.rand(12, generator=generator)
        views.append({"boxes": (objects + noise)[is_found], "scores": scores[is_found], "labels": labels[is_found]})
    return views


@pytest.mark.parametrize("num_views", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_fusion_is_that_of_the_paper(num_views: int, seed: int) -> None:
    views = random_views(num_views, seed)
    as_lists = [
        list(zip(view["labels"].tolist(), view["scores"].tolist(), view["boxes"].tolist(), strict=True))
        for view in views
    ]
    expected = sorted(transcription(as_lists, 0.55), key=lambda box: -box[1])
    result = fuse_boxes(views)
    assert result["labels"].tolist() == [label for label, _, _ in expected]
    torch.testing.assert_close(result["scores"], torch.tensor([score for _, score, _ in expected]))
    torch.testing.assert_close(result["boxes"], torch.tensor([box for _, _, box in expected]))


def test_masks_are_averaged_with_their_boxes() -> None:
    box, masks = torch.tensor([[0.0, 0, 4, 4]]), torch.rand(3, 1, 1, 6, 6)
    scores, label = torch.tensor([[0.9], [0.6], [0.3]]), torch.tensor([1])
    views = [{"boxes": box, "scores": s, "labels": label, "masks": m} for s, m in zip(scores, masks, strict=True)]
    views[2] = views[2] | {"boxes": box + 20}  # far from the others: a cluster of its own
    result = fuse_boxes(views)
    torch.testing.assert_close(result["scores"], torch.tensor([0.75 * 2 / 3, 0.3 / 3]))
    torch.testing.assert_close(result["masks"], torch.stack([0.6 * masks[0, 0] + 0.4 * masks[1, 0], masks[2, 0]]))


def test_nothing_found_stays_nothing() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    assert {name: len(values) for name, values in fuse_boxes([nothing, nothing]).items()} == dict.fromkeys(nothing, 0)


class BrightestPixel(nn.Module):
    """A detector that puts one box from the brightest pixel to the middle of the image, with that pixel as mask."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.detect(image) for image in images]

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        y, x = divmod(int(image[0].argmax()), width)
        corners = torch.tensor([[x, y, x + 1, y + 1], [width / 2, height / 2] * 2])
        box = torch.cat([corners[:, :2].min(0).values, corners[:, 2:].max(0).values])
        masks = (image[:1] == image[0].max()).float()[None]
        return {"boxes": box[None], "scores": torch.tensor([0.8]), "labels": torch.tensor([1]), "masks": masks}


@pytest.mark.parametrize("views", ["flip", "vertical-flip", "flip vertical-flip"])
def test_mirrored_detections_are_put_back_onto_the_image(views: str) -> None:
    image = torch.rand(3, 40, 61, generator=torch.Generator().manual_seed(0))
    model: Any = BrightestPixel()
    (expected,) = model([image])
    (result,) = TTATransforms(model, views, Detection(("cell",)))([image])
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value)


def test_mirroring_twice_changes_nothing() -> None:
    (view,) = random_views(1, 0)
    for axes in ((-1, -1), (-2, -2)):
        torch.testing.assert_close(mirror_boxes(view, axes, (90, 90))["boxes"], view["boxes"])


def test_views_that_move_boxes_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match=r"for detection; got: scales\(200,300\); nearest valid: flip"):
        TTATransforms(BrightestPixel(), "scales(200,300)", Detection(("cell",)))
