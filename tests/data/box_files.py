"""The same images with boxes in every format, which tests of detection data share."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "hen")
SIZES = ((40, 50), (48, 40), (40, 50), (36, 36), (44, 60), (40, 50))
Boxes = Sequence[tuple[str, tuple[int, int, int, int]]]
"""The class and (x1, y1, x2, y2) of each object of an image."""
OBJECTS: tuple[Boxes, ...] = (
    (("cat", (3, 4, 20, 30)), ("dog", (10, 5, 50, 40))),
    (("hen", (0, 0, 12, 9)),),
    (),
    (("dog", (5, 6, 30, 31)), ("dog", (1, 2, 8, 36)), ("cat", (20, 20, 36, 36))),
    (("hen", (30, 10, 60, 44)), ("cat", (2, 30, 11, 44))),
    (("dog", (25, 1, 40, 16)),),
)
TRAIN, VAL = (0, 1, 2, 3), (4, 5)
SPLITS = {"train": TRAIN, "val": VAL}


def write_image(path: Path, i: int) -> Path:
    """Image i: a dark ground with a bright rectangle for each object."""
    height, width = SIZES[i]
    pixels = np.random.default_rng(i).integers(0, 40, (height, width, 3)).astype(np.uint8)
    for _, (x1, y1, x2, y2) in OBJECTS[i]:
        pixels[y1:y2, x1:x2] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def voc_xml(size: tuple[int, int], objects: Boxes, **fields: str) -> str:
    """An annotation of VOC, whose boxes are 1-based and inclusive."""
    height, width = size
    texts = [
        f"<object><name>{name}</name><difficult>{fields.get('difficult', '0')}</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    ]
    size_text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size_text}{''.join(texts)}</annotation>"


def write_voc(root: Path) -> Path:
    for split, images in SPLITS.items():
        for i in images:
            write_image(root / "JPEGImages" / f"{i:02}.png", i)
            path = root / "Annotations" / f"{i:02}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(voc_xml(SIZES[i], OBJECTS[i]))
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{i:02}\n" for i in images))
    return root


def coco_content(images: Sequence[int], **fields: Any) -> dict[str, Any]:
    """COCO's JSON of some images; category ids have gaps."""
    annotations = [
        {"id": 10 * i + k, "image_id": 100 + i, "category_id": 3 + 4 * CLASSES.index(name), "iscrowd": 0,
         "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
         "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], **fields}
        for i in images
        for k, (name, (x1, y1, x2, y2)) in enumerate(OBJECTS[i])
    ]  # fmt: skip
    return {
        "images": [
            {"id": 100 + i, "file_name": f"{i:02}.png", "height": SIZES[i][0], "width": SIZES[i][1]} for i in images
        ],
        "categories": [{"id": 3 + 4 * label, "name": name} for label, name in enumerate(CLASSES)][::-1],
        "annotations": annotations,
    }


def write_coco(root: Path, contents: Mapping[str, Any] | None = None) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, images in SPLITS.items():
        for i in images:
            write_image(root / f"{split}2017" / f"{i:02}.png", i)
        content = (contents or {}).get(split, coco_content(images))
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def write_yolo(root: Path) -> Path:
    for split, images in SPLITS.items():
        for i in images:
            write_image(root / "images" / split / f"{i:02}.png", i)
            height, width = SIZES[i]
            lines = [
                f"{CLASSES.index(name)} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} "
                f"{(y2 - y1) / height}\n"
                for name, (x1, y1, x2, y2) in OBJECTS[i]
            ]
            path = root / "labels" / split / f"{i:02}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            if lines:
                path.write_text("".join(lines))
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return root


def write_csv(root: Path, header: str = "image,xmin,ymin,xmax,ymax,label,split") -> Path:
    lines = [header]
    for split, images in SPLITS.items():
        for i in images:
            write_image(root / f"{i:02}.png", i)
            lines += [f"{i:02}.png,{x1},{y1},{x2},{y2},{name},{split}" for name, (x1, y1, x2, y2) in OBJECTS[i]]
            lines += [] if OBJECTS[i] else [f"{i:02}.png,,,,,,{split}"]
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return root / "boxes.csv"
