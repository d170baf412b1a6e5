"""Folders of images with masks: every usual layout, classes from every source, and an error for every mistake."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.formats.mask_classes import VOC_CLASSES
from reslab.data.mask_colors import voc_color
from reslab.data.masks import VOID
from reslab.data.registry import find_format, list_dataset, open_dataset
from reslab.data.splits import stratified_subset
from reslab.data.target_datasets import MaskImageDataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from mask_files import SIZES, disk, write_folders, write_image, write_mask

VOC_PALETTE = [channel for number in range(256) for channel in voc_color(number)]


def split_of(data: DatasetSplits, name: str = "train") -> MaskImageDataset:
    dataset = data.split(name)
    assert isinstance(dataset, MaskImageDataset)
    return dataset


def names(data: DatasetSplits, split: str = "train") -> list[str]:
    dataset = data.split(split)
    return [dataset.name(i) for i in range(len(dataset))]


def mask(data: DatasetSplits, i: int = 0, split: str = "train") -> Tensor:
    return split_of(data, split).load_target(i).as_subclass(Tensor)


def test_two_folders(tmp_path: Path) -> None:
    data = open_dataset(write_folders(tmp_path / "cells"))
    assert (data.name, data.task, data.classes) == ("cells", "segmentation", ("0", "1"))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 5, "val": 1}
    index = int(names(data)[0].split("/")[1][:2])
    assert torch.equal(mask(data), torch.from_numpy(disk(*SIZES[index])))
    assert data.messages[0] == "the images have masks in masks/: the task is segmentation"
    assert "0, 1; classes.txt beside them gives names" in data.messages[1]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("train/images", "train/masks"),
        ("images/train", "masks/train"),
        ("Images/training", "annotations/training"),
        ("TRAIN/imgs", "TRAIN/labels"),
    ],
)
def test_folders_of_splits_above_and_below(tmp_path: Path, images: str, masks: str) -> None:
    for split, other in (("train", "val"), ("training", "validation"), ("TRAIN", "Valid")):
        if split in images:
            write_folders(tmp_path, SIZES[:2], images.replace(split, other), masks.replace(split, other))
    write_folders(tmp_path, SIZES, images, masks)
    data = open_dataset(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 2}
    assert data.split_record["method"] == "given"


def test_names_match_whatever_the_ending(tmp_path: Path) -> None:
    for i, suffix in enumerate(("", "_mask", "-mask", "_labels", "_gt", ".mask")):
        write_image(tmp_path / "images" / "part" / f"{i}.v1.jpg", disk(30, 30))
        write_mask(tmp_path / "masks" / "part" / f"{i}.v1{suffix}.png", disk(30, 30, i + 3))
    data = open_dataset(tmp_path, val_fraction=0.2)
    for split in ("train", "val"):
        for i, name in enumerate(names(data, split)):
            assert torch.equal(mask(data, i, split), torch.from_numpy(disk(30, 30, int(name.split("/")[2][0]) + 3)))


def test_penn_fudan_numbers_the_persons(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / "PNGImages" / f"P{i}.png", disk(30, 40))
        persons = disk(30, 40, 4)
        persons[:5, :5] = 2
        write_mask(tmp_path / "PedMasks" / f"P{i}_mask.png", persons)
    data = open_dataset(tmp_path)
    assert data.classes == ("background", "person")
    expected = disk(30, 40, 4)
    expected[:5, :5] = 1
    assert torch.equal(mask(data), torch.from_numpy(expected))


def write_voc(root: Path, numbers: np.ndarray, palette: list[int] | None = None) -> Path:
    for i in range(7):
        write_image(root / "JPEGImages" / f"2007_{i}.jpg", disk(30, 40), i)
        if i < 6:
            write_mask(root / "SegmentationClass" / f"2007_{i}.png", numbers, palette or VOC_PALETTE)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_3\n2007_1\n\n2007_0\n")
    (lists / "val.txt").write_text("2007_4\n2007_2\n")
    (lists / "trainval.txt").write_text("2007_0\n2007_1\n2007_2\n2007_3\n2007_4\n")
    return root


def test_voc(tmp_path: Path) -> None:
    numbers = disk(30, 40) * 15
    numbers[0] = VOID
    data = open_dataset(write_voc(tmp_path, numbers))
    assert data.classes == VOC_CLASSES
    assert names(data) == ["JPEGImages/2007_3.jpg", "JPEGImages/2007_1.jpg", "JPEGImages/2007_0.jpg"]
    assert names(data, "val") == ["JPEGImages/2007_4.jpg", "JPEGImages/2007_2.jpg"]
    assert torch.equal(mask(data), torch.from_numpy(numbers))
    assert any("1 mask is not read" in text and "2007_5.png" in text for text in data.messages)


def test_the_palette_of_voc() -> None:
    """Colors of devkit_doc.pdf: aeroplane, bicycle, person, tvmonitor and void."""
    result = [voc_color(number) for number in (0, 1, 2, 15, 20, 255)]
    assert result == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]


def test_another_palette_in_the_layout_of_voc(tmp_path: Path) -> None:
    palette = [0, 0, 0] + [9, 8, 7] * 255
    data = open_dataset(write_voc(tmp_path, disk(30, 40), palette))
    assert data.classes == ("0", "1")


def test_cvat_lists_colors(tmp_path: Path) -> None:
    write_voc(tmp_path, disk(30, 40) * 4, [0, 0, 0] * 4 + [250, 50, 83] * 252)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nvoid:1,1,1::\ncell:250,50,83::\n"
    )
    color = np.zeros((30, 40, 3), dtype=np.uint8)
    color[disk(30, 40) == 1] = (250, 50, 83)
    color[0] = (1, 1, 1)
    Image.fromarray(color).save(tmp_path / "SegmentationClass" / "2007_3.png")
    data = open_dataset(tmp_path)
    assert data.classes == ("background", "cell")
    expected = disk(30, 40)
    assert torch.equal(mask(data, 1), torch.from_numpy(expected))  # a palette
    expected[0] = VOID
    assert torch.equal(mask(data, 0), torch.from_numpy(expected))  # colors


def test_a_list_of_names(tmp_path: Path) -> None:
    write_folders(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\ncell\nnucleus\n")
    data = open_dataset(tmp_path)
    assert data.classes == ("ground", "cell", "nucleus")
    assert mask(data).unique().tolist() == [0, 1]


@pytest.mark.parametrize("listed", [False, True])
def test_0_and_255_are_two_classes(tmp_path: Path, listed: bool) -> None:
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", disk(30, 30))
        write_mask(tmp_path / "masks" / f"{i}.png", disk(30, 30) * 255)
    if listed:
        (tmp_path / "classes.txt").write_text("ground\ncell\n")
    data = open_dataset(tmp_path)
    assert data.classes == (("ground", "cell") if listed else ("0", "255"))
    assert torch.equal(mask(data), torch.from_numpy(disk(30, 30)))


def test_class_numbers_with_gaps_become_consecutive(tmp_path: Path) -> None:
    for i in range(3):
        numbers = disk(30, 30) * 7
        numbers[0], numbers[1] = VOID, 19
        write_image(tmp_path / "images" / f"{i}.png", disk(30, 30))
        write_mask(tmp_path / "masks" / f"{i}.png", numbers)
    data = open_dataset(tmp_path)
    assert data.classes == ("0", "7", "19")
    assert mask(data)[:2].unique().tolist() == [2, VOID]
    assert "0, 7, 19 (255 is void)" in data.messages[1]


def test_a_folder_of_two_classes_is_no_segmentation(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        for i in range(3):
            write_image(tmp_path / name / f"{name}-{i}.png", disk(30, 30), i)
    data_format = find_format(tmp_path)
    assert data_format is not None
    assert data_format.name == "image-folder"


def test_a_task_chooses_the_format(tmp_path: Path) -> None:
    write_folders(tmp_path)
    data = open_dataset(tmp_path, task="classification")
    assert (data.task, data.classes) == ("classification", ("images", "masks"))
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert again.task == "classification"
    assert open_dataset(tmp_path, task="segmentation").split_record["task"] == "segmentation"
    with pytest.raises(ValueError, match="labels for the task regression"):
        open_dataset(tmp_path, task="regression")


def broken(tmp_path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_dataset(tmp_path)
    return str(caught.value)


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path)
    (tmp_path / "masks" / "03.png").rename(tmp_path / "masks" / "x.png")
    message = broken(tmp_path)
    assert "a mask of the same name for every image; got: 2 files" in message
    assert f"{tmp_path / 'images' / '03.jpg'}: an image without a mask" in message
    assert f"{tmp_path / 'masks' / 'x.png'}: a mask without an image" in message


def test_two_files_of_one_name(tmp_path: Path) -> None:
    write_folders(tmp_path)
    write_mask(tmp_path / "masks" / "01_mask.png", disk(48, 40))
    assert "one file for the image 01" in broken(tmp_path)
    (tmp_path / "masks" / "01_mask.png").unlink()
    write_image(tmp_path / "images" / "02.png", disk(40, 50))
    assert "got: 02.jpg and 02.png" in broken(tmp_path)


def test_masks_that_do_not_fit_their_images(tmp_path: Path) -> None:
    write_folders(tmp_path, SIZES * 2)
    write_mask(tmp_path / "masks" / "00.png", disk(20, 50))
    write_mask(tmp_path / "masks" / "01.png", disk(40, 48))
    (tmp_path / "masks" / "02.png").write_bytes(b"nothing")
    (tmp_path / "classes.txt").write_text("ground\ncell\n")
    write_mask(tmp_path / "masks" / "03.png", np.full((36, 36), 9, dtype=np.uint8))
    message = broken(tmp_path)
    assert "4 images in" in message
    assert "00.jpg: mask masks/00.png: required: the size of the image, 40x50; got: 20x50" in message
    assert "got: 40x48; EXIF may rotate the image" in message
    assert "02.jpg: mask masks/02.png: not an image of a known format" in message
    assert "numbers of the 2 classes (0 to 1), or 255 for void; got: 9" in message
    data = open_dataset(tmp_path, skip_bad_images=True)
    assert len(data.skipped_files) == 4
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert (names(again), again.fingerprint) == (names(data), data.fingerprint)


def test_a_recorded_split_keeps_images_and_classes(tmp_path: Path) -> None:
    write_folders(tmp_path, SIZES * 2)
    data = open_dataset(tmp_path, val_fraction=0.25, split_seed=3)
    write_image(tmp_path / "images" / "new.jpg", disk(40, 40))
    numbers = disk(40, 40)
    write_mask(tmp_path / "masks" / "new.png", numbers)
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert names(again, "val") == names(data, "val")
    assert (again.task, again.classes) == (data.task, data.classes)
    assert len(again.split("train")) == len(data.split("train")) + 1


def test_the_fingerprint_counts_the_masks(tmp_path: Path) -> None:
    before = open_dataset(write_folders(tmp_path)).fingerprint
    numbers = disk(*SIZES[0])
    numbers[0, 0] = 1
    write_mask(tmp_path / "masks" / "00.png", numbers)
    assert open_dataset(tmp_path).fingerprint != before


def test_colors_need_a_list(tmp_path: Path) -> None:
    write_folders(tmp_path)
    color = np.zeros((40, 50, 3), dtype=np.uint8)
    color[3:9, 3:9] = (1, 2, 3)
    Image.fromarray(color).save(tmp_path / "masks" / "00.png")
    message = broken(tmp_path)
    assert f"a list of the classes and their colors, {tmp_path / 'labelmap.txt'}; got: #000000, #010203" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "every class and color once in .*classes.txt; got: a twice"),
        ("a:0,0,0\nb\n", "NAME:RED,GREEN,BLUE in line 2 of .*classes.txt; got: b"),
        ("a:0,0,0\nb:0,0,256\n", "a color from 0,0,0 to 255,255,255 in line 2"),
        ("a:0,0,0\nb:0,0,0\n", "got: #000000 twice"),
    ],
)
def test_lists_that_are_damaged(tmp_path: Path, text: str, message: str) -> None:
    write_folders(tmp_path)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)


def test_voids_and_single_pixels(tmp_path: Path) -> None:
    write_folders(tmp_path)
    write_mask(tmp_path / "masks" / "00.png", np.full((40, 50), VOID, dtype=np.uint8))
    write_mask(tmp_path / "masks" / "01.png", np.zeros((48, 40), dtype=np.uint8))
    write_image(tmp_path / "images" / "one.jpg", np.ones((1, 1), dtype=np.uint8))
    write_mask(tmp_path / "masks" / "one.png", np.ones((1, 1), dtype=np.uint8))
    data = open_dataset(tmp_path)
    assert any("1 mask is void throughout" in text and "00.png" in text for text in data.messages)


def write_csv(
    root: Path, header: str = "image,mask,split", splits: tuple[str, ...] = ("train", "train", "valid")
) -> Path:
    for i, _ in enumerate(splits):
        write_image(root / "photos" / f"{i}.jpg", disk(30, 40), i)
        write_mask(root / "drawn" / f"{i}-a.png", disk(30, 40, 5 + i))
    rows = [f"photos/{i}.jpg,drawn\\{i}-a.png,{split}" for i, split in enumerate(splits)]
    (root / "pairs.csv").write_text("\n".join([header, *rows]))
    return root / "pairs.csv"


def test_a_csv_file_of_pairs(tmp_path: Path) -> None:
    data = open_dataset(write_csv(tmp_path))
    assert (data.name, data.task) == ("pairs", "segmentation")
    assert names(data) == ["photos/0.jpg", "photos/1.jpg"]
    assert torch.equal(mask(data, 1), torch.from_numpy(disk(30, 40, 6)))
    assert torch.equal(mask(data, 0, "val"), torch.from_numpy(disk(30, 40, 7)))
    again = open_dataset(tmp_path / "pairs.csv", split_record=data.split_record)
    assert (again.task, again.fingerprint) == ("segmentation", data.fingerprint)


def test_columns_of_a_csv_file_by_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "photo,area,part", ("train",) * 4)
    data = open_dataset(path, columns={"image": "photo", "label": "Area", "split": "part"})
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 3, "val": 1}
    again = open_dataset(path, split_record=data.split_record)
    assert names(again, "val") == names(data, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\nphotos/0.jpg,drawn/0-a.png\nphotos/1.jpg,\n", "a mask in line 3"),
        ("image,mask,split\nphotos/0.jpg,drawn/0-a.png,tran\n", "unknown split in line 2 .*nearest: 'train'"),
        ("image,mask\nphotos/0.jpg,drawn/0-a.png\nphotos/1.jpg,drawn/0-a.png\n", "0-a.png in lines 2 and 3"),
        ("image,mask,split\nphotos/0.jpg,drawn/0-a.png,val\n", "training images with masks in .*; got: only val"),
        ("image,mask\nphotos/0.jpg,drawn/0-a.png\nphotos/1.jpg,drawn/9.png\n", "mask drawn/9.png: No such file"),
        ("photo,mask\nphotos/0.jpg,drawn/0-a.png\n", "a column of images in .*--image-column NAME"),
    ],
)
def test_csv_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    write_csv(tmp_path).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / "pairs.csv")


def test_a_csv_file_of_labels_is_no_segmentation(tmp_path: Path) -> None:
    path = write_csv(tmp_path, splits=("train",) * 3)
    path.write_text("image,label\nphotos/0.jpg,a\nphotos/1.jpg,b\nphotos/2.jpg,a\n")
    data_format = find_format(path)
    assert data_format is not None
    assert data_format.name == "csv"


def test_masks_that_number_objects(tmp_path: Path) -> None:
    for i in range(3):
        objects = disk(30, 40)
        objects[-2:] = 40 + i
        objects[0] = VOID
        write_image(tmp_path / "images" / f"{i}.jpg", disk(30, 40), i)
        write_mask(tmp_path / "masks" / f"{i}.png", objects)
    data = open_dataset(tmp_path, mask_values="instances")
    assert data.classes == ("background", "object")
    expected = disk(30, 40)
    expected[-2:] = expected[0] = 1
    assert torch.equal(mask(data), torch.from_numpy(expected))
    assert open_dataset(tmp_path, split_record=data.split_record).fingerprint == data.fingerprint
    assert open_dataset(tmp_path).classes == ("0", "1", "40", "41", "42")
    assert list_dataset(tmp_path, mask_values="instances").classes == ("background", "object")


def test_the_values_of_masks_are_checked(tmp_path: Path) -> None:
    write_folders(tmp_path)
    with pytest.raises(ValueError, match="unknown mask_values 'instance'; nearest: 'instances'"):
        open_dataset(tmp_path, mask_values="instance")
    with pytest.raises(ValueError, match="omit mask_values"):
        open_dataset(tmp_path, task="classification", mask_values="instances")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match=r"2 classes, background and object.*; got: 3 in"):
        open_dataset(tmp_path, mask_values="instances")


def test_a_folder_for_prediction_lists_images_alone(tmp_path: Path) -> None:
    write_folders(tmp_path / "folder")
    data_format = find_format(tmp_path / "folder")
    assert data_format is not None
    assert [Path(path).parent.name for path in data_format.list_images(tmp_path / "folder")] == ["images"] * 6  # type: ignore[arg-type]
    csv_format = find_format(write_csv(tmp_path))
    assert csv_format is not None
    assert len(csv_format.list_images(tmp_path / "pairs.csv")) == 3


def test_a_subset_of_the_training_images(tmp_path: Path) -> None:
    data = stratified_subset(open_dataset(write_folders(tmp_path, SIZES * 2)), 4)
    assert len(data.split("train")) == 4
    assert isinstance(data.split("train"), MaskImageDataset)


def test_voc_lists_that_name_no_file(tmp_path: Path) -> None:
    root = write_voc(tmp_path, disk(30, 40))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_0\n2007_6\n2007_1\n")
    assert "a mask; got: none of the name 2007_6" in broken(tmp_path)
