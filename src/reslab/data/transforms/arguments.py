"""The arguments of an augmentation word: how many, of what kind, between which bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op


@dataclass(frozen=True)
class TransformArg:
    """One argument of a word: a number of `kind` between bounds, or one of `choices`; required where no `default`."""

    name: str
    value_type: type = int
    minimum: float = 1
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    default: float | str | None = None


def parse_transform_args(op: Op, args: Sequence[TransformArg], example: str) -> tuple[float | str, ...]:
    """One value for each argument: the word's in order, else the defaults; a choice may skip numbers before it.

    `resize(236,bicubic)` leaves the width between the two at its default.
    Raises ValueError where there are too many or too few, or one is not of its kind or out of its bounds.
    """
    if op.size is not None or op.stride not in (None, 1):
        raise invalid(f"arguments in brackets, {example}", str(op), nearest=f"{op.name}({op.size})")
    remaining, values = list(op.args), []
    for index, arg in enumerate(args):
        if remaining and not _belongs_to_later(remaining[0], arg, args[index + 1 :]):
            values.append(_convert_arg(arg, remaining.pop(0), op, example))
        elif arg.default is not None:
            values.append(arg.default)
        else:
            raise _wrong_arg_count(op, args, example)
    if remaining:
        raise _wrong_arg_count(op, args, example)
    return tuple(values)


def _belongs_to_later(value: float | str, arg: TransformArg, later_args: Sequence[TransformArg]) -> bool:
    return isinstance(value, str) and not arg.choices and any(value in other.choices for other in later_args)


def _wrong_arg_count(op: Op, args: Sequence[TransformArg], example: str) -> ValueError:
    names = ", ".join(arg.name for arg in args) or "none"
    return invalid(f"{op.name} with its arguments ({names})", str(op), nearest=example)


def _convert_arg(arg: TransformArg, value: float | str, op: Op, example: str) -> float | str:
    if arg.choices:
        if value not in arg.choices:
            raise unknown_name(f"{arg.name} of {op.name}", value, arg.choices)
        return value
    has_valid_type = isinstance(value, int) or (arg.value_type is float and isinstance(value, float))
    if not has_valid_type or not arg.minimum <= float(value) <= arg.maximum:
        bounds = f"from {arg.minimum:g}" + ("" if arg.maximum == math.inf else f" to {arg.maximum:g}")
        type_text = "a whole number" if arg.value_type is int else "a number"
        raise invalid(f"{arg.name} of {op.name} as {type_text} {bounds}", str(op), nearest=example)
    return float(value) if arg.value_type is float else int(value)
