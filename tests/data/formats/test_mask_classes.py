"""The values in masks as a user sets them: kinds, the class of each value, and an error for every mistake."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data.check.check import check_data
from reslab.data.dataset import DatasetSplits
from reslab.data.formats.mask_classes import MaskMapping, parse_mask_values, record_mask_values
from reslab.data.masks import VOID, MaskEncoding, MaskValues, StoredMask
from reslab.data.registry import open_dataset
from reslab.data.target_datasets import MaskImageDataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from mask_files import SIZES, disk, write_folders, write_image

TEXT = "0=ground,128=cell,200=cell,255=void"
PAIRS = {0: "ground", 128: "cell", 200: "cell", 255: "void"}


def mapping(values: Any) -> MaskMapping:
    parsed = parse_mask_values(values)
    assert isinstance(parsed, MaskMapping)
    return parsed


def write_cells(root: Path, *, rgb: bool = False) -> Path:
    """Images with disks of 128, in two masks of 200, in one with a corner of 255; or of red and dark red on black."""
    for i, (height, width) in enumerate(SIZES):
        values = disk(height, width) * np.uint8(200 if i < 2 else 128)
        if i == 3:
            values[:2, :2] = 255
        write_image(root / "images" / f"{i:02d}.jpg", disk(height, width))
        if rgb:
            values = np.stack([values, np.zeros_like(values), np.where(values == 255, 255, 0)], 2).astype(np.uint8)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / "masks" / f"{i:02d}.png")
    return root


def train_masks(data: DatasetSplits) -> dict[str, Tensor]:
    dataset = data.split("train")
    assert isinstance(dataset, MaskImageDataset)
    return {dataset.name(i): dataset.load_target(i).as_subclass(Tensor) for i in range(len(dataset))}


def test_a_text_and_a_mapping_give_the_same_result() -> None:
    assert mapping(TEXT) == mapping(PAIRS) == mapping({str(value): name for value, name in PAIRS.items()})
    assert mapping(TEXT).classes == ("ground", "cell")
    assert parse_mask_values("instances") is MaskValues.INSTANCES
    assert parse_mask_values(None) is None
    for value in (TEXT, "classes", "#000000=ground,#FF0000=cell"):
        record = json.loads(json.dumps(record_mask_values(parse_mask_values(value))))
        assert parse_mask_values(record) == parse_mask_values(value)


def test_several_numbers_of_one_class() -> None:
    encoding = mapping(TEXT).encoding()
    assert encoding.decode(StoredMask(np.array([[0, 128, 200, 255]], np.uint8)))[0].tolist() == [0, 1, 1, VOID]
    assert MaskEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding
    with pytest.raises(ValueError, match=r"the 2 classes \(0, 128, 200\), or 255 for void; got: 3"):
        encoding.decode(StoredMask(np.array([[0, 3]], np.uint8)))
    wide = mapping({0: "ground", 1000: "cell", 1001: "ground"}).encoding()
    assert wide.decode(StoredMask(np.array([[1000, 1001, 0]], np.int32)))[0].tolist() == [1, 0, 0]


def test_colors_of_images_palettes_and_gray_levels() -> None:
    encoding = mapping("#000000=ground,#ff0000=cell,#800000=cell,#ffffff=void").encoding()
    colors = np.array([[[0, 0, 0], [255, 0, 0], [128, 0, 0], [255, 255, 255]]], np.uint8)
    assert encoding.decode(StoredMask(colors))[0].tolist() == [0, 1, 1, VOID]
    assert encoding.decode(StoredMask(np.array([[3, 2, 1, 0]], np.uint8), colors[0]))[0].tolist() == [VOID, 1, 1, 0]
    assert encoding.decode(StoredMask(np.array([[0, 255]], np.uint8)))[0].tolist() == [0, VOID]
    assert MaskEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding
    with pytest.raises(ValueError, match="colors of classes; got: #00ff00"):
        encoding.decode(StoredMask(np.array([[[0, 255, 0]]], np.uint8)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("instance", "unknown mask_values 'instance'; nearest: 'instances'; or give the class of each value"),
        ("0=ground,cell", "VALUE=CLASS for each value of the masks; got: 'cell'; nearest valid: \"0=background"),
        ("0=ground,1=", "VALUE=CLASS for each value of the masks; got: '1='"),
        ("0=ground,-1=cell", "a number from 0 to 65535, or a color #rrggbb; got: '-1'"),
        ("0=ground,red=cell", "a number from 0 to 65535, or a color #rrggbb; got: 'red'"),
        ("0=ground,0=cell", "one class for each value; got: 0 for ground and cell; leave one of them out"),
        ("0=ground,#ff0000=cell", "numbers alone, or colors alone .*; got: the number 0 .*; nearest valid: #000000"),
        ("0=ground,255=void", r"2 to 254 classes in mask_values; got: 1 \(ground\)"),
        ({}, "2 to 254 classes in mask_values; got: none"),
        (["ground"], "mask_values as a text or a mapping; got: a list"),
    ],
)
def test_what_cannot_be_read(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mask_values(values)


@pytest.mark.parametrize(
    ("rgb", "values"), [(False, TEXT), (True, "#000000=ground,#c80000=cell,#800000=cell,#ff00ff=void")]
)
def test_a_dataset_and_its_record(tmp_path: Path, rgb: bool, values: str) -> None:
    data = open_dataset(write_cells(tmp_path, rgb=rgb), mask_values=values)
    assert data.classes == ("ground", "cell")
    assert "2 classes by mask_values: ground, cell" in data.messages
    masks = train_masks(data)
    for name, mask in masks.items():
        i = int(Path(name).stem)
        expected = torch.from_numpy(disk(*SIZES[i]))
        if i == 3:
            expected[:2, :2] = VOID
        assert torch.equal(mask, expected)
    again = open_dataset(tmp_path, split_record=json.loads(json.dumps(dict(data.split_record))))
    assert again.fingerprint == data.fingerprint
    assert again.split_record == data.split_record
    assert all(torch.equal(mask, masks[name]) for name, mask in train_masks(again).items())


def test_values_that_the_mapping_lacks_are_named(tmp_path: Path) -> None:
    write_cells(tmp_path)
    message = (
        r"a class for each value in the masks of .*; got: 200 in 2 of 6 masks, 255 in 1 of 6 masks; "
        r"nearest valid: 200=void; give it a class"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, mask_values="0=ground,128=cell")
    assert "got: 200 in 2 of 6 masks" in check_data(tmp_path, mask_values="0=ground,128=cell").listing.layout_error
    write_cells(tmp_path, rgb=True)
    with pytest.raises(ValueError, match="got: #800000 in 4 of 6 masks"):
        open_dataset(tmp_path, mask_values="#000000=ground,#c80000=cell,#ff00ff=void")


def test_a_value_that_no_mask_has_is_a_message(tmp_path: Path) -> None:
    data = open_dataset(write_folders(tmp_path), mask_values="0=ground,1=cell,7=cell,255=void")
    assert "no mask has the value 7 (cell), 255 (void)" in data.messages


def test_data_without_masks(tmp_path: Path) -> None:
    for name in ("digits", str(tmp_path)):
        with pytest.raises(ValueError, match=r"images with masks, where mask_values is given; .*omit mask_values"):
            open_dataset(name, mask_values=TEXT)
    with pytest.raises(ValueError, match="masks of the class of each pixel"):
        open_dataset(write_folders(tmp_path), task="detection", mask_values=TEXT)
