"""Images in memory, in files and in a torch dataset; their fingerprint."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data.dataset import DatasetSplits, channel_statistics, compute_fingerprint
from reslab.data.image_datasets import FileImageDataset, ImageDataset, TensorImageDataset, WrappedImageDataset, to_uint8
from reslab.spec.preprocess import Preprocess

PIXELS = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
PLAIN = Preprocess(3, "", (0.0,) * 3, (1.0,) * 3)


def files(folder: Path) -> FileImageDataset:
    for i, picture in enumerate(PIXELS):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return FileImageDataset(tuple(folder / f"{i}.png" for i in range(6)), LABELS, 3, folder)


def test_three_kinds_say_the_same(tmp_path: Path) -> None:
    in_tensor, in_files = TensorImageDataset(PIXELS, LABELS), files(tmp_path)
    in_items = WrappedImageDataset(
        list(zip(PIXELS, LABELS.tolist(), strict=True)), LABELS, 3, tuple(range(len(LABELS)))
    )
    for images in (in_tensor, in_files, in_items):
        assert isinstance(images, ImageDataset)
        assert len(images) == 6
        assert torch.equal(images.preview(4), PIXELS[4])
        part = images.subset([5, 1])
        assert torch.equal(part.preview(0), PIXELS[5])
        assert part.labels.tolist() == [2, 1]
        assert part.name(1) == images.name(1)
        assert part.subset([1]).name(0) == images.name(1)
    assert in_files.name(3) == "3.png"


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (PIXELS[:, 0], LABELS, "images[:, None]"),
        (PIXELS.int(), LABELS, "uint8"),
        (PIXELS, LABELS[:5], "6 images; got: 5 labels"),
        (PIXELS, LABELS.float(), "int64"),
        (PIXELS, LABELS - 1, "label -1"),
    ],
)
def test_tensors_that_do_not_fit(images: torch.Tensor, labels: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        TensorImageDataset(images, labels)
    assert said in str(caught.value)


def test_floats_are_shown_as_bytes() -> None:
    assert to_uint8(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]
    assert to_uint8(torch.tensor([-1.0, 0.0, 3.0])).tolist() == [0, 64, 255]
    assert to_uint8(torch.full((2,), 7.0)).tolist() == [0, 0]


def test_fingerprint_sees_pixels_labels_splits_and_sizes(tmp_path: Path) -> None:
    plain = compute_fingerprint({"train": TensorImageDataset(PIXELS, LABELS)})
    assert plain == compute_fingerprint({"train": TensorImageDataset(PIXELS.clone(), LABELS.clone())})
    other = PIXELS.clone()
    other[5, 2, 3, 4] ^= 1
    seen = {
        plain,
        compute_fingerprint({"train": TensorImageDataset(other, LABELS)}),
        compute_fingerprint({"train": TensorImageDataset(PIXELS, LABELS.flip(0))}),
        compute_fingerprint({"val": TensorImageDataset(PIXELS, LABELS)}),
        compute_fingerprint({"train": TensorImageDataset(PIXELS.view(6, 3, 5, 4), LABELS)}),
        compute_fingerprint({"train": TensorImageDataset(PIXELS / 255, LABELS)}),
    }
    assert len(seen) == 6
    in_files = files(tmp_path)
    before = compute_fingerprint({"train": in_files})
    with (tmp_path / "2.png").open("ab") as file:
        file.write(b"\0")
    assert compute_fingerprint({"train": in_files}) != before


def test_data_of_one_sample_or_one_class() -> None:
    one = TensorImageDataset(PIXELS[:1], LABELS[:1])
    with pytest.raises(ValueError, match=r"at least 2 training images.*got: 1 image"):
        DatasetSplits("a", "", ("x", "y"), PLAIN, {"train": one})
    with pytest.raises(ValueError, match="at least 2 classes"):
        DatasetSplits("a", "", ("x",), PLAIN, {"train": one})
    with pytest.raises(ValueError, match="training labels from 0 to 1; got: label 2"):
        DatasetSplits("a", "", ("x", "y"), PLAIN, {"train": TensorImageDataset(PIXELS, LABELS)})


def test_held_out_and_unknown_split() -> None:
    images = TensorImageDataset(PIXELS, LABELS)
    data = DatasetSplits("a", "", ("x", "y", "z"), PLAIN, {"train": images, "val": images})
    assert data.eval_split == "val"
    assert (
        DatasetSplits("a", "", ("x", "y", "z"), PLAIN, {"train": images, "val": images, "test": images}).eval_split
        == "test"
    )
    assert data.num_classes == 3
    assert data.describe() == "a: 6 train, 6 val, 3 classes"
    with pytest.raises(ValueError, match=r"unknown split of a 'tset'.*it has train, val"):
        data.split("tset")


def test_channel_statistics() -> None:
    mean, std = channel_statistics(PIXELS)
    scaled = PIXELS.double() / 255
    for channel in range(3):
        assert mean[channel] == pytest.approx(float(scaled[:, channel].mean()), abs=5e-5)
        assert std[channel] == pytest.approx(float(scaled[:, channel].std(correction=0)), abs=5e-5)
    assert channel_statistics(torch.zeros(2, 1, 2, 2, dtype=torch.uint8)) == ((0.0,), (1.0,))
