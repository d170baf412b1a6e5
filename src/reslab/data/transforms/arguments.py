"""The arguments of an augmentation word: how many, of what kind, between which bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op


@dataclass(frozen=True)
class Argument:
    """One argument of a word: a number of `kind` between bounds, or one of `choices`; required where no `default`."""

    name: str
    kind: type = int
    least: float = 1
    most: float = math.inf
    choices: tuple[str, ...] = ()
    default: float | str | None = None


def read_arguments(word: Op, arguments: Sequence[Argument], example: str) -> tuple[float | str, ...]:
    """One value for each argument: the word's in order, else the defaults; a choice may skip numbers before it.

    `resize(236,bicubic)` leaves the width between the two at its default.
    Raises ValueError where there are too many or too few, or one is not of its kind or out of its bounds.
    """
    if word.size is not None or word.stride not in (None, 1):
        raise invalid(f"arguments in brackets, {example}", str(word), nearest=f"{word.name}({word.size})")
    left, found = list(word.args), []
    for place, argument in enumerate(arguments):
        if left and not _belongs_later(left[0], argument, arguments[place + 1 :]):
            found.append(_checked(argument, left.pop(0), word, example))
        elif argument.default is not None:
            found.append(argument.default)
        else:
            raise _wrong_number(word, arguments, example)
    if left:
        raise _wrong_number(word, arguments, example)
    return tuple(found)


def _belongs_later(value: float | str, argument: Argument, later: Sequence[Argument]) -> bool:
    return isinstance(value, str) and not argument.choices and any(value in other.choices for other in later)


def _wrong_number(word: Op, arguments: Sequence[Argument], example: str) -> ValueError:
    names = ", ".join(argument.name for argument in arguments) or "none"
    return invalid(f"{word.name} with its arguments ({names})", str(word), nearest=example)


def _checked(argument: Argument, value: float | str, word: Op, example: str) -> float | str:
    if argument.choices:
        if value not in argument.choices:
            raise unknown_name(f"{argument.name} of {word.name}", value, argument.choices)
        return value
    right_kind = isinstance(value, int) or (argument.kind is float and isinstance(value, float))
    if not right_kind or not argument.least <= float(value) <= argument.most:
        bounds = f"from {argument.least:g}" + ("" if argument.most == math.inf else f" to {argument.most:g}")
        what = "a whole number" if argument.kind is int else "a number"
        raise invalid(f"{argument.name} of {word.name} as {what} {bounds}", str(word), nearest=example)
    return float(value) if argument.kind is float else int(value)
