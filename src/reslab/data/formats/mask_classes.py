"""The classes of a dataset of masks: as the user sets them, or from a list of names, the palette of VOC, or the masks.

A user sets `classes`, `instances`, or the class of each value (`MaskMapping`). Otherwise the numbers that occur in the
masks are the classes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reslab.data.formats.mask_pairs import MaskLayout
from reslab.data.mask_colors import VOID_COLOR, Color, format_color, parse_color, voc_color
from reslab.data.masks import MAX_CLASSES, VOID, MaskEncoding, MaskValues, StoredMask
from reslab.spec.errors import invalid, unknown_name

MaskValuesLike = str | Mapping[int, str] | Mapping[str, str]
"""A kind of `MaskValues`; `0=background,255=cell`, or `{0: "background", 255: "cell"}` with numbers or colors."""
EXAMPLE = "0=background,255=cell"
_VOID_NAMES = ("void", "ignore", "ignored", "__ignore__")
_MAX_NUMBER = 65535


def is_void(name: str) -> bool:
    """Return True for the name of the pixels that do not count."""
    return name.lower() in _VOID_NAMES


@dataclass(frozen=True)
class MaskMapping:
    """The class, or `void`, of each value: pairs of a number or a color `#ff8000` and a name.

    The classes have the order in which they first occur; several values may stand for one.
    """

    pairs: tuple[tuple[int | str, str], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in order, without void."""
        return tuple(dict.fromkeys(name for _, name in self.pairs if not is_void(name)))

    def encoding(self) -> MaskEncoding:
        """Return the class of each value; a gray color is its number as well, as masks store it."""
        if isinstance(self.pairs[0][0], int):
            numbers, merged, void = _by_class(self.pairs, self.classes)
            return MaskEncoding(numbers, (), void, (), merged_numbers=merged)
        in_rgb = [(parse_color(str(color)), name) for color, name in self.pairs]
        grays = [(color[0], name) for color, name in in_rgb if len(set(color)) == 1]
        _, merged, void = _by_class(grays, self.classes, keep_first=False)
        colors, merged_colors, void_colors = _by_class(in_rgb, self.classes)
        return MaskEncoding((), colors, void, void_colors, merged_numbers=merged, merged_colors=merged_colors)


def _by_class(pairs: Iterable[tuple[Any, str]], classes: Sequence[str], *, keep_first: bool = True) -> Any:
    """Return the first value of each class, the further ones with their classes, and those of void."""
    first: dict[str, Any] = {}
    merged = []
    void = []
    for value, name in pairs:
        if is_void(name):
            void.append(value)
        elif keep_first and name not in first:
            first[name] = value
        else:
            merged.append((value, classes.index(name)))
    return tuple(first[name] for name in classes if name in first), tuple(merged), tuple(void)


def parse_mask_values(mask_values: MaskValuesLike | None) -> MaskValues | MaskMapping | None:
    """Return what the values in masks are, of a kind, a text such as `0=background,255=cell`, or a mapping.

    Raises ValueError for another kind, a value that is no number or color, a value that occurs twice, numbers beside
    colors, and fewer than 2 classes.
    """
    if mask_values is None:
        return None
    if isinstance(mask_values, str):
        if "=" not in mask_values:
            return _parse_kind(mask_values)
        pairs = [_split_pair(part) for part in mask_values.split(",") if part.strip()]
        return _to_mapping([(_parse_value(value), name) for value, name in pairs])
    if not isinstance(mask_values, Mapping):
        raise invalid("mask_values as a text or a mapping", f"a {type(mask_values).__name__}", _quoted(EXAMPLE))
    return _to_mapping([(_parse_value(value), str(name).strip()) for value, name in mask_values.items()])


def record_mask_values(mask_values: MaskValues | MaskMapping | None) -> str | dict[str, str] | None:
    """Return what a split record holds of them, as JSON that `parse_mask_values` reads."""
    if isinstance(mask_values, MaskMapping):
        return {str(value): name for value, name in mask_values.pairs}
    return mask_values and str(mask_values)


def _parse_kind(text: str) -> MaskValues:
    if text not in list(MaskValues):
        next_step = f"or give the class of each value: {_quoted(EXAMPLE)}"
        raise unknown_name("mask_values", text, list(MaskValues), next_step)
    return MaskValues(text)


def _split_pair(text: str) -> tuple[str, str]:
    value, separator, name = (part.strip() for part in text.partition("="))
    if not separator or not name:
        raise invalid("VALUE=CLASS for each value of the masks", repr(text.strip()), _quoted(EXAMPLE))
    return value, name


def _parse_value(value: int | str) -> int | str:
    """Return a number, or a color as `#ff8000`."""
    required = f"a value of a mask: a number from 0 to {_MAX_NUMBER}, or a color #rrggbb"
    text = str(value).strip().lower()
    if text.isdecimal() and int(text) <= _MAX_NUMBER:
        return int(text)
    if len(text) == 7 and text[0] == "#" and all(digit in "0123456789abcdef" for digit in text[1:]):
        return text
    raise invalid(required, repr(value), "0, 255 or '#ff8000'")


def _to_mapping(pairs: Sequence[tuple[int | str, str]]) -> MaskMapping:
    values = [value for value, _ in pairs]
    mapping = MaskMapping(tuple(pairs))
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        names = " and ".join(name for value, name in pairs if value == twice)
        raise invalid("one class for each value", f"{twice} for {names}", next_step="leave one of them out")
    numbers = [value for value in values if isinstance(value, int)]
    if numbers and len(numbers) < len(values):
        nearest = format_color((min(numbers[0], 255),) * 3)
        got = f"the number {numbers[0]} beside a color"
        raise invalid("numbers alone, or colors alone (a gray level is a color)", got, nearest)
    if not 2 <= len(mapping.classes) <= MAX_CLASSES:
        got = f"{len(mapping.classes)} ({', '.join(mapping.classes[:5])})" if mapping.classes else "none"
        raise invalid(f"2 to {MAX_CLASSES} classes in mask_values", got, _quoted(EXAMPLE))
    return mapping


def _quoted(text: str) -> str:
    return f'"{text}"'


CLASS_LISTS = ("labelmap.txt", "classes.txt", "class_names.txt", "labels.txt")
"""The files that list the classes of a dataset of masks, the preferred ones first.

One name a line, the first of number 0; or with the color of the class, `NAME:RED,GREEN,BLUE` (CVAT's labelmap.txt).
"""
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_COLOR_LINE = re.compile(r"(?P<name>[^:]+):(?P<color>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)(:.*)?")
_BINARY = frozenset({0, VOID})


@dataclass(frozen=True)
class ScannedMask:
    """The content of a mask file: its size and the pixels of each value, or why it cannot be read.

    `counts` are by value: `7` for a number, `#ff8000` for a color. `palette` has the colors of numbers.
    """

    height: int
    width: int
    error: str
    counts: dict[str, int]
    palette: dict[str, str]


@dataclass(frozen=True)
class MaskClasses:
    """The names of the classes in order, and how masks encode them; `messages` say where both come from."""

    names: tuple[str, ...]
    encoding: MaskEncoding
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ClassList:
    """The lines of a list of classes: their names, and their colors if the list has them."""

    path: Path
    names: tuple[str, ...]
    colors: tuple[Color, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if not is_void(name))

    def encoding(self) -> MaskEncoding:
        """Return the encoding where the number of a class is its line, from 0."""
        kept = [i for i, name in enumerate(self.names) if not is_void(name)]
        void = [i for i, name in enumerate(self.names) if is_void(name)]
        if not self.colors:
            return MaskEncoding(tuple(kept), void_numbers=(*void, VOID))
        colors, void_colors = (tuple(self.colors[i] for i in lines) for lines in (kept, void))
        extra = () if VOID_COLOR in self.colors else (VOID_COLOR,)
        return MaskEncoding(tuple(kept), colors, (*void, VOID), (*void_colors, *extra))


def find_mask_classes(
    root: Path, layout: MaskLayout, masks: Iterable[ScannedMask], values: MaskValues | MaskMapping | None = None
) -> MaskClasses:
    """Return the classes of a dataset: by the user's mapping, a list in its folder, VOC's palette, or the numbers.

    Raises ValueError for values that the mapping lacks, a list that is damaged, colors without a list, and more than
    `MAX_CLASSES` classes.
    """
    readable = [mask for mask in masks if not mask.error]
    if isinstance(values, MaskMapping):
        return _mapped_classes(root, values, readable)
    class_list = read_class_list(root)
    if (values or layout.values) is MaskValues.INSTANCES:
        return _instance_classes(layout, class_list)
    numbers = {int(value) for mask in readable for value in mask.counts if not value.startswith("#")}
    if class_list is not None:
        return _listed_classes(class_list, numbers, has_palettes=any(mask.palette for mask in readable))
    colors = sorted({value for mask in readable for value in mask.counts if value.startswith("#")})
    if colors:
        shown = ", ".join(colors[:6]) + (" ..." if len(colors) > 6 else "")
        next_step = "write one class a line: NAME:RED,GREEN,BLUE"
        raise invalid(f"a list of the classes and their colors, {root / CLASS_LISTS[0]}", shown, next_step=next_step)
    if layout.lists and readable and all(_has_voc_palette(mask) for mask in readable):
        message = "masks with the palette of PASCAL VOC: its 21 classes, 255 is void"
        return MaskClasses(VOC_CLASSES, MaskEncoding(tuple(range(len(VOC_CLASSES)))), (message,))
    return _occurring_classes(root, numbers)


def count_classes(mask: ScannedMask, encoding: MaskEncoding) -> dict[int, int]:
    """Return the pixels of each class in a mask, void among them. Raises ValueError for a value of no class."""
    counts = Counter[int]()
    for label, count in zip(encoding.decode(_each_value(mask))[0].tolist(), mask.counts.values(), strict=True):
        counts[label] += count
    return dict(counts)


def _each_value(mask: ScannedMask) -> StoredMask:
    """Return a mask of one row that has each value once, in the order of `counts`."""
    if any(value.startswith("#") for value in mask.counts):
        return StoredMask(np.array([parse_color(value) for value in mask.counts], dtype=np.uint8)[None])
    numbers = np.array([[int(value) for value in mask.counts]])
    values = numbers.astype(np.uint8) if numbers.min() >= 0 and numbers.max() <= 255 else numbers
    palette = None
    if mask.palette:
        palette = np.zeros((256, 3), dtype=np.uint8)
        for number, color in mask.palette.items():
            palette[int(number)] = parse_color(color)
    return StoredMask(values, palette)


def _mapped_classes(root: Path, mapping: MaskMapping, masks: Sequence[ScannedMask]) -> MaskClasses:
    """Return the classes of the user's mapping. Raises ValueError naming the values of masks that it lacks."""
    encoding = mapping.encoding()
    unknown, present = Counter[str](), set[str]()
    for mask in masks:
        # Where the mapping is of colors, a palette says the color of a number.
        shown = [mask.palette.get(value, value) if encoding.colors else value for value in mask.counts]
        known = encoding.knows(_each_value(mask))[0].tolist()
        present.update(shown)
        unknown.update({value for value, is_known in zip(shown, known, strict=True) if not is_known})
    if unknown:
        values = [f"{value} in {count} of {len(masks)} masks" for value, count in unknown.most_common(4)]
        more = f" and {len(unknown) - 4} more values" if len(unknown) > 4 else ""
        nearest, next_step = f"{min(unknown)}=void", "give it a class, or leave it out as void, in mask_values"
        raise invalid(f"a class for each value in the masks of {root}", ", ".join(values) + more, nearest, next_step)
    unused = [f"{value} ({name})" for value, name in mapping.pairs if str(value) not in present | _gray_colors(present)]
    unused_messages = (f"no mask has the value {', '.join(unused[:8])}",) if unused else ()
    message = f"{len(mapping.classes)} classes by mask_values: {', '.join(mapping.classes[:8])}"
    return MaskClasses(mapping.classes, encoding, (message, *unused_messages))


def _gray_colors(values: Iterable[str]) -> set[str]:
    return {format_color((int(value),) * 3) for value in values if value.isdecimal() and int(value) <= 255}


def _instance_classes(layout: MaskLayout, class_list: _ClassList | None) -> MaskClasses:
    names = class_list.classes if class_list else layout.classes or ("background", "object")
    if len(names) != 2:
        required = "2 classes, background and object, for masks that number the objects of an image"
        raise invalid(required, f"{len(names)} in {class_list.path if class_list else layout.name}")
    message = f"masks number the objects of an image: every number above 0 is {names[1]}"
    return MaskClasses(names, MaskEncoding((0, 1), void_numbers=(), is_instances=True), (message,))


def _listed_classes(class_list: _ClassList, numbers: set[int], *, has_palettes: bool) -> MaskClasses:
    encoding = class_list.encoding()
    if numbers == _BINARY and len(class_list.names) == 2 and not (class_list.colors and has_palettes):
        encoding = MaskEncoding((0, VOID), encoding.colors, (), encoding.void_colors)
    return MaskClasses(
        class_list.classes, encoding, (f"{len(class_list.classes)} classes from {class_list.path.name}",)
    )


def _occurring_classes(root: Path, numbers: set[int]) -> MaskClasses:
    is_binary = numbers == _BINARY
    present = tuple(sorted(numbers if is_binary else numbers - {VOID}))
    if len(present) > MAX_CLASSES:
        next_step = "for masks that number the objects of an image, set mask_values=instances"
        raise invalid(f"at most {MAX_CLASSES} classes in {root}", f"{len(present)} numbers in the masks", "", next_step)
    shown = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
    void = " (255 is void)" if VOID in numbers and not is_binary else ""
    message = f"classes by the numbers in the masks: {shown}{void}; {CLASS_LISTS[1]} beside them gives names"
    encoding = MaskEncoding(present, void_numbers=() if is_binary else (VOID,))
    return MaskClasses(tuple(map(str, present)), encoding, (message,))


def _has_voc_palette(mask: ScannedMask) -> bool:
    numbers = [int(value) for value in mask.counts]
    is_voc = all(mask.palette.get(str(number)) == format_color(voc_color(number)) for number in numbers)
    return bool(mask.palette) and is_voc and all(number < len(VOC_CLASSES) or number == VOID for number in numbers)


def read_class_list(root: Path) -> _ClassList | None:
    """Return the list of classes in a folder (`CLASS_LISTS`), if there is one.

    Raises ValueError with the line that repeats a class or a color, or that has no color where others have one.
    """
    by_name = {path.name.lower(): path for path in sorted(root.iterdir()) if path.suffix.lower() == ".txt"}
    path = next((by_name[name] for name in CLASS_LISTS if name in by_name), None)
    if path is None:
        return None
    lines = [(number, line.strip()) for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    matches = [_COLOR_LINE.fullmatch(line) for _, line in lines]
    has_colors = any(matches)
    names, colors = [], []
    for (number, line), match in zip(lines, matches, strict=True):
        if has_colors and match is None:
            raise invalid(f"NAME:RED,GREEN,BLUE in line {number} of {path}", line)
        names.append(match["name"].strip() if match else line)
        if match:
            colors.append(_line_color(path, number, match["color"]))
    if not has_colors and names and names[0].lower() == "__ignore__":
        names = names[1:]  # labelme gives it the number -1
    _check_unique(path, [str(name) for name in names])
    _check_unique(path, [format_color(color) for color in colors])
    if len(names) > MAX_CLASSES:
        raise invalid(f"at most {MAX_CLASSES} classes in {path}", len(names))
    return _ClassList(path, tuple(names), tuple(colors))


def _line_color(path: Path, line: int, text: str) -> Color:
    red, green, blue = (int(part) for part in text.split(","))
    if max(red, green, blue) > 255:
        raise invalid(f"a color from 0,0,0 to 255,255,255 in line {line} of {path}", text.strip())
    return red, green, blue


def _check_unique(path: Path, values: Sequence[str]) -> None:
    repeated = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if repeated is not None:
        raise invalid(f"every class and color once in {path}", f"{repeated} twice", next_step="keep one of the lines")
