"""The meaning of the values in masks, as a user sets it: `classes`, `instances`, or the class of each value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.data.mask_colors import format_color, parse_color
from reslab.data.masks import MAX_CLASSES, MaskEncoding, MaskValues
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
