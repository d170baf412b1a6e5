"""Images with boxes in COCO's JSON, PASCAL VOC, YOLO's text files, CSV files and masks of instances."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_files import (
    CLASSES,
    OBJECTS,
    SIZES,
    SPLITS,
    TRAIN,
    VAL,
    coco_content,
    voc_xml,
    write_coco,
    write_csv,
    write_image,
    write_voc,
    write_yolo,
)
from mask_files import write_mask

from reslab.data.boxes import BoxImageDataset
from reslab.data.dataset import DatasetSplits
from reslab.data.formats import coco_boxes, voc_boxes
from reslab.data.registry import list_dataset, open_dataset

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}


def boxes_of(data: DatasetSplits, split: str) -> BoxImageDataset:
    dataset = data.split(split)
    assert isinstance(dataset, BoxImageDataset)
    return dataset


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_has_the_same_boxes(name: str, tmp_path: Path) -> None:
    """Also equals those that were written, so that VOC's inclusive boxes lose their offset of 1."""
    data = open_dataset(WRITERS[name](tmp_path / "data"))
    assert (data.task, data.classes) == ("detection", CLASSES)
    assert any(message.endswith("the task is detection") for message in data.messages)
    assert data.split_record["classes"] == list(CLASSES)
    for split, images in SPLITS.items():
        dataset = boxes_of(data, split)
        order = {Path(dataset.name(k)).stem: k for k in range(len(dataset))}
        for i in images:
            image, target = dataset[order[f"{i:02}"]]
            assert tuple(image.shape) == (3, *SIZES[i])
            assert image.dtype == torch.float32
            assert (float(image.max()) > 0.2) == bool(OBJECTS[i])
            expected = [list(map(float, box)) for _, box in OBJECTS[i]]
            assert torch.allclose(target["boxes"], torch.tensor(expected).reshape(-1, 4), atol=1e-4)
            assert target["labels"].tolist() == [1 + CLASSES.index(label) for label, _ in OBJECTS[i]]
            sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
            assert torch.allclose(target["area"], sides.prod(1))
            assert target["crowd"].tolist() == target["difficult"].tolist() == [False] * len(expected)
            assert target["image_id"] == (100 + i if name == "coco" else dataset.name(order[f"{i:02}"]))


@pytest.mark.parametrize("name", WRITERS)
def test_a_listing_has_the_boxes_too(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / "data")
    listing, data = list_dataset(path), open_dataset(path)
    assert (listing.task, listing.classes, listing.layout_error) == ("detection", CLASSES, "")
    for split in SPLITS:
        dataset = listing.splits[split]
        assert isinstance(dataset, BoxImageDataset)
        assert dataset.target_digest() == boxes_of(data, split).target_digest()


def test_a_split_is_held_out_and_made_again(tmp_path: Path) -> None:
    write_voc(tmp_path / "cells")
    (tmp_path / "cells/ImageSets/Main/val.txt").unlink()
    for i in (4, 5):
        (tmp_path / f"cells/Annotations/{i:02}.xml").unlink()
    data = open_dataset(tmp_path / "cells", val_fraction=0.25)
    assert {split: len(dataset) for split, dataset in data.splits.items()} == {"train": 3, "val": 1}
    again = open_dataset(tmp_path / "cells", split_record=json.loads(json.dumps(dict(data.split_record))))
    assert again.task == "detection"
    assert again.fingerprint == data.fingerprint
    assert again.split("val").name(0) == data.split("val").name(0)


def test_annotations_count_in_the_fingerprint(tmp_path: Path) -> None:
    first = open_dataset(write_voc(tmp_path / "a")).fingerprint
    assert open_dataset(write_voc(tmp_path / "b")).fingerprint == first
    path = tmp_path / "b/Annotations/00.xml"
    path.write_text(path.read_text().replace("<xmin>4</xmin>", "<xmin>5</xmin>"))
    assert open_dataset(tmp_path / "b").fingerprint != first


def test_validation_images_without_an_object_of_a_class(tmp_path: Path) -> None:
    contents = {split: coco_content(images) for split, images in SPLITS.items()}
    contents["val"]["annotations"] = contents["val"]["annotations"][:1]
    root, others = write_coco(tmp_path, contents), [name for name in CLASSES if name != OBJECTS[VAL[0]][0][0]]
    expected = f"no validation image has the classes {', '.join(others)}, of 3 classes"
    for messages in (open_dataset(root).messages, list_dataset(root).messages):
        assert expected in messages


def test_coco_has_crowds_areas_masks_and_ids(tmp_path: Path) -> None:
    content = coco_content(TRAIN)
    content["annotations"][0] |= {"iscrowd": 1, "area": 77.5}
    content["annotations"][0]["segmentation"] = {"size": [40, 50], "counts": [100, 60, 1840]}
    data = open_dataset(write_coco(tmp_path, {"train": content}))
    dataset = boxes_of(data, "train")
    assert dataset.category_ids == (3, 7, 11)
    target = dataset.load_target(0)
    assert target["crowd"].tolist() == [True, False]
    assert target["area"].tolist() == [77.5, 40 * 35]
    masks = BoxImageDataset(dataset.images, dataset.table, with_masks=True).load_target(0)["masks"]
    assert tuple(masks.shape) == (2, 40, 50)
    assert masks[0].sum() == 60
    expected = torch.zeros(40, 50)
    expected[5:40, 10:50] = 1
    assert torch.equal(masks[1], expected.to(torch.uint8))


def test_voc_marks_difficult_objects_and_lists_its_classes(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "VOC2007")
    for path in (root / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("hen", "person"))
    (root / "Annotations/00.xml").write_text(voc_xml(SIZES[0], OBJECTS[0], difficult="1"))
    data = open_dataset(root)
    assert (len(data.classes), data.classes[0], data.classes[-1]) == (20, "aeroplane", "tvmonitor")
    dataset = boxes_of(data, "train")
    assert dataset.load_target(0)["difficult"].tolist() == [True, True]
    assert dataset.load_target(1)["labels"].tolist() == [1 + data.classes.index("person")]
    assert any("no training image has the classes" in message for message in data.messages)


def test_yolo_reads_names_as_a_list_exports_and_polygons(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "export")
    for split in SPLITS:
        for kind in ("images", "labels"):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
    (root / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnc: 3\nnames: ['cat', 'dog', 'hen']\n")
    (root / "train/labels/01.txt").write_text("2 0.1 0.25 0.5 0.25 0.5 0.75\n")
    data = open_dataset(root)
    assert data.classes == CLASSES
    target = boxes_of(data, "train").load_target(1)
    assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), torch.tensor([[4.0, 12, 20, 36]]))
    assert open_dataset(root / "data.yaml").fingerprint == data.fingerprint
    segments = boxes_of(data, "train").table.segments
    assert [segment is not None for segment in segments].count(True) == 1


@pytest.mark.parametrize("num_values", [2, 3])
def test_keypoints_of_yolo_are_no_polygon(num_values: int, tmp_path: Path) -> None:
    """Of 12 keypoints, a line has an odd number of numbers, as one with a polygon has."""
    expected = boxes_of(open_dataset(write_yolo(tmp_path / "boxes")), "train").table
    root = write_yolo(tmp_path / "pose")
    keypoints = {2: " 0.9 0.8", 3: " 0.9 0.8 2"}[num_values] * 12
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("".join(f"{line}{keypoints}\n" for line in path.read_text().splitlines()))
    with (root / "data.yaml").open("a") as file:
        file.write(f"kpt_shape: [12, {num_values}]\n")
    table = boxes_of(open_dataset(root), "train").table
    assert np.array_equal(table.boxes, expected.boxes)
    assert not table.segments
    (root / "labels/train/01.txt").write_text("2 0.1 0.25 0.5 0.25 0.5 0.75\n")
    with pytest.raises(ValueError, match=f"and {12 * num_values} numbers of keypoints in line 1; got: 7 numbers"):
        open_dataset(root)


def test_csv_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    expected = open_dataset(write_csv(tmp_path / "a")).fingerprint
    for k, header in enumerate(("filename,x1,y1,x2,y2,class,subset", "path,left,top,right,bottom,category,split")):
        assert open_dataset(write_csv(tmp_path / str(k), header)).fingerprint == expected
    named = write_csv(tmp_path / "c", "photo,xmin,ymin,xmax,ymax,animal,part")
    columns = {"image": "photo", "label": "animal", "split": "part"}
    data = open_dataset(named, columns=columns)
    assert data.fingerprint == expected
    assert open_dataset(named, split_record=data.split_record).fingerprint == expected
    with pytest.raises(ValueError, match="--label-column NAME"):
        open_dataset(named, columns={"image": "photo"})
    with pytest.raises(ValueError, match=r"one column of labels for the boxes .*--task regression"):
        open_dataset(named, columns={"image": "photo", "label": "xmin,ymin"})


def write_instances(root: Path, images: str = "PNGImages", masks: str = "PedMasks") -> Path:
    for i in range(4):
        height, width = SIZES[i]
        numbers = np.zeros((height, width), np.uint8)
        numbers[3:20, 5:9] = 1
        numbers[10:12, 20 : 22 + i] = 2
        write_image(root / images / f"{i}.png", i)
        write_mask(root / masks / f"{i}_mask.png", numbers)
    return root


def test_instances_have_boxes_for_the_task_detection(tmp_path: Path) -> None:
    root = write_instances(tmp_path / "people")
    assert open_dataset(root).task == "segmentation"
    data = open_dataset(root, task="detection", val_fraction=0.25)
    assert data.classes == ("person",)
    dataset = boxes_of(data, "train")
    i = int(Path(dataset.name(0)).stem)
    target = BoxImageDataset(dataset.images, dataset.table, with_masks=True).load_target(0)
    assert target["boxes"].tolist() == [[5, 3, 9, 20], [20, 10, 22 + i, 12]]
    assert target["area"].tolist() == target["masks"].flatten(1).sum(1).tolist() == [68, 2 * (2 + i)]
    other = write_instances(tmp_path / "cells", "images", "masks")
    with pytest.raises(ValueError, match='mask_values="instances"'):
        open_dataset(other, task="detection")
    again = open_dataset(other, task="detection", mask_values="instances", val_fraction=0.25)
    assert again.classes == ("object",)
    assert open_dataset(other, split_record=again.split_record).fingerprint == again.fingerprint


def test_a_voc_folder_with_masks_and_boxes_reports_which_it_reads(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "both")
    for i, (height, width) in enumerate(SIZES):
        write_mask(root / "SegmentationClass" / f"{i:02}.png", np.eye(height, width, dtype=np.uint8))
    data = open_dataset(root)
    assert data.task == "segmentation"
    assert "both has boxes, too: --task detection reads them" in data.messages
    assert open_dataset(root, task="detection").task == "detection"
    assert open_dataset(root, split_record=open_dataset(root, task="detection").split_record).task == "detection"


def edit_voc(old: str, new: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        path = write_voc(root) / "Annotations/00.xml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return root

    return write


def edit_coco(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        content = coco_content(TRAIN)
        change(content)
        return write_coco(root, {"train": content})

    return write


def edit_yolo(text: str, name: str = "labels/train/00.txt") -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (write_yolo(root) / name).write_text(text)
        return root

    return write


def edit_csv(old: str, new: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        path = write_csv(root)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return path

    return write


def change_list(line: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        path = write_voc(root) / "ImageSets/Main/train.txt"
        path.write_text(path.read_text() + line)
        return root

    return write


def first(content: dict[str, Any], **fields: Any) -> None:
    content["annotations"][0] |= fields


ERRORS = {
    "a box outside": (
        edit_voc("<xmin>4</xmin><ymin>5</ymin><xmax>20</xmax>", "<xmin>64</xmin><ymin>5</ymin><xmax>80</xmax>"),
        "00.xml, object 1: required: a box inside the image of height 40 and width 50; got: 63, 4, 80, 30",
    ),
    "swapped corners": (
        edit_voc("<xmin>4</xmin>", "<xmin>34</xmin>"),
        "00.xml, object 1: required: a box with x1 < x2 and y1 < y2; got: 33, 4, 20, 30; nearest valid: 20, 4, 33, 30",
    ),
    "NaN": (edit_voc("<xmin>4</xmin>", "<xmin>nan</xmin>"), "object 1: required: 4 finite numbers as a box; got: nan"),
    "no number": (
        edit_voc("<xmin>4</xmin>", "<xmin>four</xmin>"),
        "00.xml: required: a number as xmin of object 1; got: 'four'",
    ),
    "no box": (edit_voc("<bndbox>", "<bnd>"), "00.xml: not valid XML"),
    "another size": (
        edit_voc("<width>50</width>", "<width>640</width>"),
        "00.xml: required: the size of the image, height 40 and width 50; got: height 40 and width 640",
    ),
    "a turned size": (
        edit_voc("<width>50</width><height>40</height>", "<width>40</width><height>50</height>"),
        "EXIF may rotate the image",
    ),
    "two images of one name": (
        lambda root: write_image(write_voc(root) / "JPEGImages/00.jpg", 0) and root,
        "required: one file for the image 00 in .*JPEGImages; got: 00.jpg and 00.png",
    ),
    "a document type": (
        edit_voc("<annotation>", '<!DOCTYPE a [<!ENTITY b "x">]><annotation>'),
        "00.xml: required: XML without a DOCTYPE",
    ),
    "a missing image": (change_list("77\n"), "required: an image for each name in .*train.txt; got: none for 77"),
    "an image listed twice": (
        change_list("05\n"),
        "required: every image once; got: JPEGImages/05.png in training .* and in validation",
    ),
    "a class that only validation has": (
        lambda root: (
            edit_voc("<name>cat</name>", "<name>dog</name>")(root)
            and Path(root, "Annotations/03.xml").write_text(voc_xml(SIZES[3], OBJECTS[3][:2]))
            and root
        ),
        "required: validation objects of classes that training images have too; got: cat",
    ),
    "an unknown category": (
        edit_coco(lambda content: first(content, category_id=4)),
        "instances_train2017.json: unknown category_id of annotation 0 '4'",
    ),
    "no box in COCO": (
        edit_coco(lambda content: first(content, bbox=[1, 2, 3])),
        r"required: a bbox of 4 numbers in annotation 0; got: \[1, 2, 3\]",
    ),
    "a negative width": (
        edit_coco(lambda content: first(content, bbox=[30, 4, -17, 26])),
        "annotation 0: required: a box with x1 < x2 and y1 < y2; got: 30, 4, 13, 30; nearest valid: 13, 4, 30, 30",
    ),
    "an unknown image": (
        edit_coco(lambda content: first(content, image_id=999)),
        "required: images with the image_id of each annotation .*; got: annotation 0 of image 999, none",
    ),
    "two images of one id": (
        edit_coco(lambda content: content["images"][1].update(id=100)),
        "required: every image id once in .*; got: 100 again, of 01.png",
    ),
    "two images of one file": (
        edit_coco(lambda content: content["images"][1].update(file_name="00.png")),
        "required: every image once; got: train2017/00.png",
    ),
    "a missing file": (
        edit_coco(lambda content: content["images"][1].update(file_name="no.png")),
        "1 image listed: no such file, .*\n.*no.png: no such file, listed in instances_train2017.json",
    ),
    "two annotations of one id": (
        edit_coco(lambda content: content["annotations"][1].update(id=0)),
        "required: every annotation id once in .*; got: 0 again",
    ),
    "a bad segmentation": (
        edit_coco(lambda content: first(content, segmentation=[[1, 2, 3]])),
        "required: polygons of at least 3 points, .* as the segmentation of annotation 0",
    ),
    "a polygon of texts": (
        edit_coco(lambda content: first(content, segmentation=[["a"] * 6])),
        "as the segmentation of annotation 0",
    ),
    "polygons in polygons": (
        edit_coco(lambda content: first(content, segmentation=[[[1, 2], [3]] * 3])),
        "as the segmentation of annotation 0",
    ),
    "a category that is a list": (
        edit_coco(lambda content: first(content, category_id=[3])),
        r"unknown category_id of annotation 0 '\[3\]'",
    ),
    "an id that is a list": (
        edit_coco(lambda content: first(content, id=[3])),
        r"required: a number as the id of each annotation in .*; got: \[3\]",
    ),
    "a number without bound": (
        edit_coco(lambda content: first(content, bbox=[1, 2, 3, 10**400])),
        "required: a bbox of 4 numbers in annotation 0",
    ),
    "a file name without bound": (
        edit_csv("00.png,3,4", f"{'0' * 400}.png,3,4"),
        "1 image listed: no such file",
    ),
    "an infinite size": (
        edit_voc("<width>50</width>", "<width>inf</width>"),
        "00.xml: required: a finite height and width as size; got: 40 and inf",
    ),
    "a missing list": (
        edit_coco(lambda content: content.pop("categories")),
        "required: the lists images, annotations, categories in .*; got: no list categories",
    ),
    "a class beyond the names": (edit_yolo("7 0.5 0.5 0.1 0.1\n"), "00.txt: unknown class in line 1 '7'.*there are 3"),
    "pixels in place of shares": (
        edit_yolo("\n1 25 20 10 10\n"),
        "00.txt: required: shares of the image's width and height, from 0 to 1, in line 2; got: 25 20 10 10",
    ),
    "too few numbers": (edit_yolo("1 0.5 0.5 0.1\n"), "in line 1; got: 4 numbers"),
    "the images of another split": (
        edit_yolo("train: images/train\nval: images/train\nnames: [cat, dog, hen]\n", "data.yaml"),
        "required: every image once",
    ),
    "a folder that does not exist": (
        edit_yolo("train: images/no\nval: images/val\nnames: [cat, dog, hen]\n", "data.yaml"),
        "required: the training images that .*data.yaml names; got: .*images/no, no such folder",
    ),
    "names with gaps": (
        edit_yolo("train: images/train\nnames: {0: cat, 2: dog}\n", "data.yaml"),
        "required: names numbered from 0 to 1 in .*data.yaml; got: 0, 2",
    ),
    "another number of names": (
        edit_yolo("train: images/train\nnc: 2\nnames: [cat, dog, hen]\n", "data.yaml"),
        "required: nc: 3 for the 3 names in .*data.yaml; got: 2; nearest valid: 3",
    ),
    "a cell that is no number": (
        edit_csv("00.png,3,4,", "00.png,3,four,"),
        "required: 4 numbers as the box in line 2 of .*boxes.csv; got: 3,four,20,30",
    ),
    "no label": (edit_csv("30,cat", "30,"), "required: a label in line 2 of .*boxes.csv; got: none"),
    "an image in two splits": (
        edit_csv("dog,train", "dog,val"),
        r"got: 00.png in train \(line 2\) and val \(line 3\)",
    ),
    "a line outside": (
        edit_csv("00.png,3,4,20,30", "00.png,3,44,20,70"),
        "00.png: boxes.csv, line 2: required: a box inside the image",
    ),
    "an unknown split": (edit_csv("cat,train", "cat,trian"), "unknown split in line 2 of .* 'trian'; nearest: 'train'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_errors_with_their_position(case: str, tmp_path: Path) -> None:
    write, message = ERRORS[case]
    path = write(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        open_dataset(path)
    listing = list_dataset(path) if "boxes.csv" not in message or "line 2: " in message else None
    assert listing is None or listing.task == "detection"


def test_bad_images_are_skipped_on_demand(tmp_path: Path) -> None:
    root = edit_voc("<xmin>4</xmin>", "<xmin>34</xmin>")(tmp_path / "data")
    data = open_dataset(root, skip_bad_images=True)
    assert len(data.split("train")) == 3
    assert [name for name, _ in data.skipped_files] == ["JPEGImages/00.png"]
    assert open_dataset(root, split_record=data.split_record).fingerprint == data.fingerprint


def test_boxes_are_clipped_and_empty_ones_left_out_with_a_message(tmp_path: Path) -> None:
    content = coco_content(TRAIN)
    content["annotations"][0]["bbox"] = [-6, 4, 26, 26]
    content["annotations"][1]["bbox"] = [10, 5, 40.5, 35]  # half a pixel beyond the border: no message
    content["annotations"][2]["bbox"] = [10, 5, 0, 35]
    data = open_dataset(write_coco(tmp_path, {"train": content}))
    dataset = boxes_of(data, "train")
    assert dataset.load_target(0)["boxes"].tolist() == [[0, 4, 20, 30], [10, 5, 50, 40]]
    assert len(dataset.load_target(1)["boxes"]) == 0
    assert any("1 box is clipped to its image (train2017/00.png annotation 0)" in message for message in data.messages)
    assert any("1 box has no area and is left out (train2017/01.png annotation 10)" in text for text in data.messages)


def test_shares_of_the_sides_are_not_pixels(tmp_path: Path) -> None:
    """Boxes of less than a pixel would be trained on and evaluated without a word."""
    path = write_csv(tmp_path / "csv")
    header, *lines = path.read_text().splitlines()
    shares = [",".join([*line.split(",")[:1], "0.1", "0.25", "0.5", "1", *line.split(",")[5:]]) for line in lines]
    path.write_text("\n".join([header, *shares]).replace(",0.1,0.25,0.5,1,,", ",,,,,,"))
    got = r"only coordinates up to 1, such as 0\.1, 0\.25, 0\.5, 1 \(line 2 of boxes\.csv\)"
    with pytest.raises(ValueError, match=f"required: boxes in pixels in .*csv; got: {got}"):
        open_dataset(path)
    assert "boxes in pixels in" in list_dataset(path).layout_error
    contents = {split: coco_content(images, bbox=[0.1, 0.25, 0.4, 0.75]) for split, images in SPLITS.items()}
    with pytest.raises(ValueError, match="boxes in pixels in"):
        open_dataset(write_coco(tmp_path / "coco", contents))
    root = write_voc(tmp_path / "voc")
    for xml in (root / "Annotations").glob("*.xml"):
        text = re.sub(r"<(x|y)min>\d+", r"<\1min>0.25", xml.read_text())
        xml.write_text(re.sub(r"<(x|y)max>\d+", r"<\1max>0.75", text))
    with pytest.raises(ValueError, match="boxes in pixels in"):
        open_dataset(root)


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path / "coco")
    monkeypatch.setattr(coco_boxes, "MAX_JSON_BYTES", 100)
    with pytest.raises(ValueError, match="required: annotations of at most"):
        open_dataset(root)
    root = write_voc(tmp_path / "voc")
    monkeypatch.setattr(voc_boxes, "MAX_XML_BYTES", 100)
    with pytest.raises(ValueError, match=r"00.xml: required: an annotation of at most"):
        open_dataset(root)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>')
    with pytest.raises(ValueError, match="XML without a DOCTYPE"):
        voc_boxes.parse_xml(path)


def test_other_csv_files_and_folders_stay_what_they_were(tmp_path: Path) -> None:
    assert not any(matches(tmp_path) for matches in (coco_boxes.is_coco_folder, voc_boxes.is_voc_folder))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/notes.json").write_text("{}")
    assert not coco_boxes.is_coco_folder(tmp_path)
    (tmp_path / "a.csv").write_text("path,label\na.png,cat\n")
    from reslab.data.formats.box_csv import is_box_csv

    assert not is_box_csv(tmp_path / "a.csv")


def test_annotations_without_any_object_are_an_error(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    for path in (root / "Annotations").glob("*.xml"):
        path.write_text("<annotation/>")
    with pytest.raises(ValueError, match=r"required: boxes in .*; got: none"):
        open_dataset(root)


def test_splits_without_an_object(tmp_path: Path) -> None:
    without = {split: {**coco_content(images), "annotations": []} for split, images in SPLITS.items()}
    data = open_dataset(write_coco(tmp_path / "val", {"val": without["val"]}))
    assert "validation images have no object, so that their average precision is not defined" in data.messages
    with pytest.raises(ValueError, match="required: training images with objects; got: none in 4 images; check that"):
        open_dataset(write_coco(tmp_path / "train", without))
