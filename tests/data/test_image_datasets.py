"""Images in memory, in files and in a torch dataset; their fingerprint."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits, channel_statistics, compute_fingerprint
from reslab.data.image_datasets import FileImageDataset, ImageDataset, TensorImageDataset, WrappedImageDataset, to_uint8
from reslab.data.loader import eval_loader
from reslab.data.registry import open_dataset
from reslab.spec.preprocess import Preprocess

PIXELS = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
PLAIN = Preprocess(3, "", (0.0,) * 3, (1.0,) * 3)


def files(folder: Path) -> FileImageDataset:
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return FileImageDataset(tuple(folder / f"{i}.png" for i in range(6)), LABELS, 3, folder)


def test_three_kinds_of_datasets_give_the_same_images(tmp_path: Path) -> None:
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
    ("images", "labels", "message"),
    [
        (PIXELS[:, 0], LABELS, "images[:, None]"),
        (PIXELS.int(), LABELS, "uint8"),
        (PIXELS, LABELS[:5], "6 images; got: 5 labels"),
        (PIXELS, LABELS.float(), "int64"),
        (PIXELS, LABELS - 1, "label -1"),
    ],
)
def test_tensors_that_do_not_fit(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TensorImageDataset(images, labels)
    assert message in str(caught.value)


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


def _data_of_every_kind(tmp_path: Path) -> list[DatasetSplits]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 30, 40, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[: 20 + i]).resize((90 + i, 70)).save(path)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(8):
            tar.add(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", f"{i}.png")
            info = tarfile.TarInfo(f"{i}.cls")
            info.size = 1
            tar.addfile(info, io.BytesIO(str(i % 2).encode()))
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    items = [(Image.fromarray(image), i % 2) for i, image in enumerate(pixels)]
    return [
        open_dataset(tmp_path / "photos", val_fraction=0.25),
        open_dataset(tmp_path / "0.tar", val_fraction=0.25),
        as_dataset((tensors, torch.arange(8) % 2)),
        as_dataset(items),
    ]


def test_splits_index_and_iterate_as_evaluation_reads_them(tmp_path: Path) -> None:
    for data in _data_of_every_kind(tmp_path):
        split = data.split("train")
        expected = torch.cat([x for x, _, _ in eval_loader(split, 3, data.preprocess, "cpu")])
        image, label = split[0]
        assert (image.dtype, type(label)) == (torch.float32, int)
        assert torch.equal(image, expected[0])
        assert torch.equal(split[-1][0], expected[-1])
        assert [label for _, label in split] == split.labels.tolist()
        with pytest.raises(IndexError):
            split[len(split)]
        batches = list(torch.utils.data.DataLoader(split, batch_size=4))  # type: ignore[arg-type]
        assert torch.equal(torch.cat([x for x, _ in batches]), expected)
        assert torch.equal(torch.cat([y for _, y in batches]), split.labels)
        other = replace(data, preprocess=replace(data.preprocess, std=tuple(2 * v for v in data.preprocess.std)))
        assert torch.allclose(other.split("train")[0][0], expected[0] / 2)
        assert torch.equal(data.split("train")[0][0], expected[0])
        assert torch.equal(split.subset([1, 0])[1][0], expected[0])


def test_a_plain_dataset_scales_to_one() -> None:
    images = torch.tensor([[[[0, 51], [102, 255]]]], dtype=torch.uint8)
    assert torch.allclose(TensorImageDataset(images, torch.tensor([1]))[0][0], torch.tensor([[[0, 0.2], [0.4, 1.0]]]))


def test_printing_a_dataset_is_short() -> None:
    data = open_dataset("digits")
    assert repr(data).splitlines()[1:] == ["  images: train 1,438, test 359", "  10 classes: 0, 1, 2, 3, 4, ..."]
    assert str(data).startswith("digits (Alpaydin and Kaynak 1998")
    assert repr(data.split("test")) == "TensorImageDataset(359 images, 10 classes)"
