"""Batches are a function of (seed, step), whatever the start, the workers and the global generators."""

import os
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data.image_datasets import FileImageDataset, TensorImageDataset, WrappedImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.loader_workers import Batch
from reslab.spec.preprocess import Preprocess

NUM = 23
PIXELS = torch.randint(0, 256, (NUM, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(NUM) % 4
PREPROCESS = Preprocess(3, "", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
WORDS = "pad(2) crop(8) flip"
IN_MEMORY = TensorImageDataset(PIXELS, LABELS)


@pytest.fixture(scope="module")
def in_files(tmp_path_factory: pytest.TempPathFactory) -> FileImageDataset:
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(PIXELS):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
    return FileImageDataset(tuple(folder / f"{i:02}.png" for i in range(NUM)), LABELS, 3, folder)


def train(images: object, words: str = WORDS, workers: int = 0, batch: int = 5, seed: int = 0) -> TrainLoader:
    return TrainLoader(images, batch, words, PREPROCESS, seed, "cpu", workers)  # type: ignore[arg-type]


def equal(result: list[Batch], expected: list[Batch]) -> bool:
    pairs = zip(result, expected, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_an_epoch_takes_each_sample_at_most_once_and_drops_the_rest() -> None:
    batches = train(IN_MEMORY)
    assert (batches.num_steps_per_epoch, batches.num_dropped) == (4, 3)
    steps = list(islice(batches.iter_from(), 8))
    epochs = [torch.cat([indices for _, _, indices in steps[k : k + 4]]) for k in (0, 4)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
    assert not torch.equal(epochs[0], epochs[1])
    for x, y, indices in steps:
        assert (x.dtype, x.shape, y.dtype) == (torch.float32, (5, 3, 8, 8), torch.int64)
        assert torch.equal(y, LABELS[indices])


def test_normalization_equals_the_formula() -> None:
    x, _, indices = next(train(IN_MEMORY, words="").iter_from())
    expected = (PIXELS[indices].double() / 255 - torch.tensor(PREPROCESS.mean).double().view(3, 1, 1)) / torch.tensor(
        PREPROCESS.std
    ).double().view(3, 1, 1)
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", [1, 4, 6, 11])
def test_any_start_gives_the_same_steps(in_files: FileImageDataset, start: int) -> None:
    for images in (IN_MEMORY, in_files):
        whole = list(islice(train(images).iter_from(), 13))
        assert equal(list(islice(train(images).iter_from(start), 13 - start)), whole[start:])


def test_files_and_memory_agree(in_files: FileImageDataset) -> None:
    assert equal(list(islice(train(in_files).iter_from(), 9)), list(islice(train(IN_MEMORY).iter_from(), 9)))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("words", [WORDS, "random-resized-crop(6) flip randaugment"])
def test_any_number_of_workers_gives_the_same_steps(in_files: FileImageDataset, workers: int, words: str) -> None:
    alone = list(islice(train(in_files, words).iter_from(3), 6))
    assert equal(list(islice(train(in_files, words, workers).iter_from(3), 6)), alone)


def test_global_generators_neither_matter_nor_change(in_files: FileImageDataset) -> None:
    for images in (IN_MEMORY, in_files):
        torch.manual_seed(5)
        first = list(islice(train(images).iter_from(), 5))
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(5).get_state())
        torch.manual_seed(6)
        assert equal(list(islice(train(images).iter_from(), 5)), first)


def test_seed_changes_order_and_augmentation() -> None:
    first, other = next(train(IN_MEMORY).iter_from()), next(train(IN_MEMORY, seed=1).iter_from())
    assert not torch.equal(first[2], other[2])


class Noisy:
    """A user's dataset that draws from the global generator, as torchvision's transforms do."""

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return PIXELS[i] / 255 + torch.rand(3, 8, 8), int(LABELS[i])


def test_random_datasets_become_stateless() -> None:
    images = WrappedImageDataset(Noisy(), LABELS, 3, tuple(range(len(LABELS))))
    whole = list(islice(train(images).iter_from(), 9))
    assert equal(list(islice(train(images, workers=1).iter_from(2), 7)), whole[2:])
    by_sample = {int(i): x for x, _, indices in whole[:4] for x, i in zip(x, indices, strict=True)}
    later = {int(i): x for x, _, indices in whole[4:8] for x, i in zip(x, indices, strict=True)}
    shared = set(by_sample) & set(later)
    assert not any(torch.equal(by_sample[i], later[i]) for i in shared)  # but not the same every epoch


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_takes_every_sample_once_in_order(in_files: FileImageDataset, workers: int) -> None:
    for images in (IN_MEMORY, in_files):
        result = list(eval_loader(images, 5, PREPROCESS, "cpu", workers))
        assert [len(y) for _, y, _ in result] == [5, 5, 5, 5, 3]
        assert torch.cat([indices for _, _, indices in result]).tolist() == list(range(NUM))
        assert torch.equal(torch.cat([y for _, y, _ in result]), LABELS)
        whole = torch.cat([x for x, _, _ in result])
        assert torch.equal(whole, next(iter(eval_loader(IN_MEMORY, NUM, PREPROCESS, "cpu")))[0])


def test_evaluation_applies_the_transform(in_files: FileImageDataset) -> None:
    words = Preprocess(3, "resize(6) center-crop(4)", PREPROCESS.mean, PREPROCESS.std)
    in_memory = [x for x, _, _ in eval_loader(IN_MEMORY, 10, words, "cpu")]
    assert in_memory[0].shape == (10, 3, 4, 4)
    for x, (y, _, _) in zip(in_memory, eval_loader(in_files, 10, words, "cpu"), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("batch", "nearest"), [(24, "23"), (0, "1"), (-3, "1")])
def test_invalid_batch_sizes(batch: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"nearest valid: {nearest}"):
        train(IN_MEMORY, batch=batch)


def test_whole_dataset_as_one_batch() -> None:
    batches = train(IN_MEMORY, batch=NUM)
    assert (batches.num_steps_per_epoch, batches.num_dropped) == (1, 0)


def test_transforms_and_channels_that_do_not_fit(in_files: FileImageDataset) -> None:
    with pytest.raises(ValueError, match=r"nearest valid: crop\(8\)"):
        train(IN_MEMORY, "crop(9)")
    with pytest.raises(ValueError, match=r"00\.png.*nearest valid: crop\(8\)|\.png: .*nearest valid: crop\(8\)"):
        next(train(in_files, "crop(9)").iter_from())
    with pytest.raises(ValueError, match="images of 1 channels; got: 3 channels"):
        next(TrainLoader(IN_MEMORY, 5, "", Preprocess(1, "", (0.5,), (0.5,)), 0, "cpu").iter_from())
    with pytest.raises(ValueError, match="nearest valid: 0"):
        train(in_files, workers=-1)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_two_sizes_are_named(tmp_path: Path, workers: int) -> None:
    paths = (tmp_path / "a.png", tmp_path / "b.png")
    for path, width in zip(paths, (8, 9), strict=True):
        Image.new("RGB", (width, 8)).save(path)
    images = FileImageDataset(paths, torch.tensor([0, 1]), 3, tmp_path)
    with pytest.raises(ValueError, match=r"^required: images of one size.*a\.png of 3x8x8 and b\.png of 3x8x9.*resize"):
        next(iter(eval_loader(images, 2, PREPROCESS, "cpu", workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, workers: int) -> None:
    paths = (tmp_path / "a.png", tmp_path / "b.png")
    Image.new("RGB", (8, 8)).save(paths[0])
    paths[1].touch()
    images = FileImageDataset(paths, torch.tensor([0, 1]), 3, tmp_path)
    with pytest.raises(ValueError, match=r"^\S*b\.png: empty \(0 bytes\)$"):
        next(iter(eval_loader(images, 2, PREPROCESS, "cpu", workers)))


def test_more_workers_than_processors_is_no_warning(in_files: FileImageDataset) -> None:
    workers = min((os.cpu_count() or 1) + 1, 5)
    assert equal(
        list(islice(train(in_files, workers=workers).iter_from(), 2)), list(islice(train(in_files).iter_from(), 2))
    )


@pytest.mark.parametrize(
    "words", ["pad(2,reflect) crop(8) flip", "resize(6) center-crop(4)", "random-resized-crop(6)", ""]
)
def test_everything_is_made_on_the_device(words: str) -> None:
    """The meta device computes nothing, but refuses a CPU tensor among its own, as a GPU would."""
    for batch in (
        next(TrainLoader(IN_MEMORY, 5, words, PREPROCESS, 0, "meta").iter_from()),
        next(iter(eval_loader(IN_MEMORY, 5, Preprocess(3, words, PREPROCESS.mean, PREPROCESS.std), "meta"))),
    ):
        assert [part.device.type for part in batch] == ["meta"] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_alternating_flips_are_those_of_the_epoch_in_memory_and_in_files(
    in_files: FileImageDataset, workers: int
) -> None:
    expected = {}
    for x, _, indices in islice(train(IN_MEMORY, "", batch=23).iter_from(), 1):
        expected = dict(zip(indices.tolist(), x, strict=True))
    is_turned = []
    for x, _, indices in islice(train(IN_MEMORY, "alternating-flip", batch=23).iter_from(), 3):
        turned = {i: torch.equal(image, expected[i].flip(2)) for i, image in zip(indices.tolist(), x, strict=True)}
        assert all(turned[i] or torch.equal(image, expected[i]) for i, image in zip(turned, x, strict=True))
        is_turned.append(turned)
    assert all(is_turned[0][i] != is_turned[1][i] == (not is_turned[2][i]) for i in range(23))
    assert {True, False} == set(is_turned[0].values())
    read = list(islice(train(in_files, "alternating-flip", workers).iter_from(3), 5))
    assert equal(read, list(islice(train(IN_MEMORY, "alternating-flip").iter_from(3), 5)))
