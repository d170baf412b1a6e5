"""The layout of PASCAL VOC: `Annotations/NAME.xml`, `ImageSets/Main/SPLIT.txt` and `JPEGImages/NAME.jpg`.

VOC numbers pixels from 1 and its box includes both ends (Everingham et al. 2010), so that (xmin, ymin, xmax, ymax) is
(xmin - 1, ymin - 1, xmax, ymax) in the convention of `reslab.data.boxes`. A coordinate of 0, as some tools write it, is
clipped.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from xml.etree import ElementTree

from reslab.data.formats.box_listing import AnnotatedImage, AnnotatedObject, BoxListing
from reslab.data.formats.class_folders import find_image_files, subfolders
from reslab.data.formats.file_listing import read_list, split_lists
from reslab.data.formats.mask_classes import VOC_CLASSES
from reslab.data.formats.mask_pairs import unique_by_key
from reslab.spec.errors import invalid, nearest

LISTS = "ImageSets/Main"
MAX_XML_BYTES = 16 << 20
"""The size of an annotation file beyond which it is refused."""
_IMAGE_FOLDERS = ("jpegimages", "images", "pngimages")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OBJECT_CLASSES = VOC_CLASSES[1:]
_VOC_PREFIX = "VOC20"  # of the name of VOC's own folders: VOC2007


def is_voc_folder(path: Path) -> bool:
    """Return True for a folder with XML annotations beside a folder of images."""
    folders = _folders(path)
    annotations = folders.get("annotations")
    return annotations is not None and _image_folder(folders) is not None and any(annotations.glob("*.xml"))


def read_voc(root: Path) -> BoxListing:
    """Return the annotated images of a folder: those of its lists, or all as training images without lists.

    The classes are those that occur, in VOC's own folders all 20 of VOC. A broken annotation is the error of its image.
    Raises ValueError for a list that names an image without a file or an annotation.
    """
    folders = _folders(root)
    image_folder = _image_folder(folders)
    assert image_folder is not None, root
    images = unique_by_key(image_folder, {path: path.stem for path in find_image_files(image_folder)})
    annotations = {path.stem: path for path in sorted(folders["annotations"].glob("*.xml"))}
    messages: list[str] = []
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, (source, names) in _listed_names(root, annotations).items():
        if split == "test" and not any(name in annotations for name in names):
            messages.append(f"{LISTS}/test.txt is not read: test images without annotations")
            continue
        for name in names:
            _check_name(name, source, images, annotations)
        splits[split] = [_read_image(images[name], annotations[name]) for name in names]
    listed = {image.source.stem for part in splits.values() for image in part}
    unlisted = [name for name in annotations if name not in listed]
    if unlisted:
        noun = "1 annotation is" if len(unlisted) == 1 else f"{len(unlisted):,} annotations are"
        messages.append(f"{noun} not read, as no list in {LISTS} names them ({', '.join(unlisted[:3])})")
    classes = _OBJECT_CLASSES if root.name.startswith(_VOC_PREFIX) and _has_voc_classes(splits.values()) else None
    return BoxListing(root, splits, classes, messages=tuple(messages))


def _folders(path: Path) -> dict[str, Path]:
    return {folder.name.lower(): folder for folder in subfolders(path)} if path.is_dir() else {}


def _image_folder(folders: Mapping[str, Path]) -> Path | None:
    return next((folders[name] for name in _IMAGE_FOLDERS if name in folders), None)


def _listed_names(root: Path, annotations: Mapping[str, Path]) -> dict[str, tuple[Path, list[str]]]:
    if not (root / LISTS).is_dir():
        return {"train": (root, list(annotations))}
    return {split: (path, read_list(path)) for split, path in split_lists(root / LISTS).items()}


def _check_name(name: str, source: Path, images: Mapping[str, Path], annotations: Mapping[str, Path]) -> None:
    for noun, files in (("an image", images), ("an annotation", annotations)):
        if name not in files:
            raise invalid(f"{noun} for each name in {source}", f"none for {name}", *nearest(name, files, 1))


def _has_voc_classes(splits: Iterable[Iterable[AnnotatedImage]]) -> bool:
    categories = {one.category for images in splits for image in images for one in image.objects}
    return categories <= set(_OBJECT_CLASSES)


def _read_image(image: Path, source: Path) -> AnnotatedImage:
    try:
        root = parse_xml(source)
        objects = tuple(_read_object(node, number) for number, node in enumerate(root.iter("object"), 1))
        return AnnotatedImage(image, objects, source, size=_read_size(root))
    except ValueError as error:
        return AnnotatedImage(image, (), source, error=str(error))


def parse_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises ValueError for a file that is no XML, has a DOCTYPE (whose entities can expand without bound), or is large.
    """
    if path.stat().st_size > MAX_XML_BYTES:
        raise invalid(f"an annotation of at most {MAX_XML_BYTES >> 20} MiB", f"{path.stat().st_size >> 20} MiB")
    parser = ElementTree.XMLParser(target=_SafeBuilder())
    try:
        parser.feed(path.read_bytes())
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"not valid XML ({error})") from None
    return root


class _SafeBuilder(ElementTree.TreeBuilder):
    """Builds a tree, and raises ValueError at a DOCTYPE, before any of its entities is used."""

    def doctype(self, *_: object) -> None:
        raise invalid("XML without a DOCTYPE", "a DOCTYPE, whose entities could expand", next_step="remove it")


def _read_size(root: ElementTree.Element) -> tuple[int, int] | None:
    node = root.find("size")
    if node is None:
        return None
    height, width = (_number(node, side, "size") for side in ("height", "width"))
    if not (isfinite(height) and isfinite(width)):
        raise invalid("a finite height and width as size", f"{height:g} and {width:g}")
    return (int(height), int(width)) if height and width else None  # some tools write 0 for unknown


def _read_object(node: ElementTree.Element, number: int) -> AnnotatedObject:
    location = f"object {number}"
    name = (node.findtext("name") or "").strip()
    box = node.find("bndbox")
    if not name or box is None:
        raise invalid(f"a name and a bndbox in {location}", "no bndbox" if name else "no name")
    xmin, ymin, xmax, ymax = (_number(box, corner, location) for corner in _CORNERS)
    difficult = (node.findtext("difficult") or "0").strip() not in ("0", "")
    return AnnotatedObject((xmin - 1, ymin - 1, xmax, ymax), name, location, difficult=difficult)


def _number(node: ElementTree.Element, name: str, location: str) -> float:
    text = node.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise invalid(f"a number as {name} of {location}", repr(text)) from None
