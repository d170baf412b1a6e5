"""Transform expressions: calls separated by spaces, such as `pad(4) crop(32) flip` or `rotate(15, fill=128)`.

expression = call*                      call  = NAME | NAME(value, ..., KEY=value, ...)
value      = number | word | 'text' | true | false | none | [value, ...] | (value, ...) | call with brackets

They are parsed and checked against the table of transforms; errors name the nearest valid call.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.transforms import CUSTOM_NAME, TORCHVISION_NAME, TRANSFORMS, TransformArg, TransformKind, TransformSpec

TransformValue = Union[None, bool, int, float, str, tuple["TransformValue", ...], "TransformCall"]
"""The value of an argument: a number, a word, a list (a tuple here) or a nested call."""

EXAMPLE = "'random-resized-crop(224) flip'"
LIST_HINT = "`reslab transforms` lists all"
_TOKEN_PATTERN = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z0-9_.]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)|'(?P<text>[^']*)'|(?P<sign>[()\[\],=])"
)
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}
_CLOSING = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class TransformCall:
    """A transform by name, with its arguments by position and by name."""

    name: str
    args: tuple[TransformValue, ...] = ()
    kwargs: tuple[tuple[str, TransformValue], ...] = ()

    def __str__(self) -> str:
        args = [_format(arg) for arg in self.args] + [f"{key}={_format(value)}" for key, value in self.kwargs]
        return f"{self.name}({','.join(args)})" if args else self.name


def _format(value: TransformValue) -> str:
    """Return the shortest text that parses to the same value; 6.0 becomes `6`."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_format, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, TransformCall):
        return str(value) if value.args or value.kwargs else f"{value.name}()"
    if isinstance(value, int):
        return str(value)
    is_word = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", value) and value.lower() not in _CONSTANTS
    return value if is_word else f"'{value}'"


def parse_transforms(expression: str) -> tuple[TransformCall, ...]:
    """Return the calls of an expression. Raises ValueError, with an example, for text that is none."""
    if re.fullmatch(r"\s*\d+\s*", expression):
        nearest = f"'random-resized-crop({expression.strip()}) flip'"
        raise invalid(f"transforms such as {EXAMPLE}", repr(expression), nearest, LIST_HINT)
    return _Parser(expression).parse_expression()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    def parse_expression(self) -> tuple[TransformCall, ...]:
        calls = []
        while self._skip_spaces() < len(self.text):
            match = self._next_token()
            if match["word"] is None:
                raise self._error(match.start())
            calls.append(self._parse_call(match["word"]))
            if self.position < len(self.text) and not self.text[self.position].isspace():
                raise self._error(self.position)
        return tuple(calls)

    def _parse_call(self, name: str) -> TransformCall:
        """Parse the arguments of a call whose name has been read."""
        if not self.text.startswith("(", self.position):
            return TransformCall(name)
        self.position += 1
        args: list[TransformValue] = []
        kwargs: dict[str, TransformValue] = {}
        while not self._accept(")"):
            if (args or kwargs) and not self._accept(","):
                raise self._error(self.position)
            key = re.compile(r"\s*([A-Za-z_]\w*)\s*=").match(self.text, self.position)
            if key is None and not kwargs:
                args.append(self._parse_value())
            elif key is not None and key[1] not in kwargs:
                self.position = key.end()
                kwargs[key[1]] = self._parse_value()
            else:
                raise self._error(self.position, "name each argument once, after those by position")
        return TransformCall(name, tuple(args), tuple(kwargs.items()))

    def _parse_value(self) -> TransformValue:
        match = self._next_token()
        if match["number"] is not None:
            return float(match["number"]) if re.search("[.eE]", match["number"]) else int(match["number"])
        if match["text"] is not None:
            return match["text"]
        if match["sign"] in _CLOSING:
            return self._parse_list(_CLOSING[match["sign"]])
        word = match["word"]
        if word is None:
            raise self._error(match.start(), "put an argument between any two commas")
        if self.text.startswith("(", self.position):
            return self._parse_call(word)
        return _CONSTANTS.get(word.lower(), word)

    def _parse_list(self, closing: str) -> tuple[TransformValue, ...]:
        values: list[TransformValue] = []
        while not self._accept(closing):
            if values and not self._accept(","):
                raise self._error(self.position)
            if not values or not self._accept(closing):  # a comma may follow the last value
                values.append(self._parse_value())
            else:
                break
        return tuple(values)

    def _skip_spaces(self) -> int:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
        return self.position

    def _accept(self, sign: str) -> bool:
        if not self.text.startswith(sign, self._skip_spaces()):
            return False
        self.position += 1
        return True

    def _next_token(self) -> "re.Match[str]":
        match = _TOKEN_PATTERN.match(self.text, self._skip_spaces())
        if match is None:
            raise self._error(self.position)
        self.position = match.end()
        return match

    def _error(self, position: int, next_step: str = "") -> ValueError:
        if position >= len(self.text):
            return invalid(f"transforms such as {EXAMPLE}", repr(self.text), next_step="check the brackets at the end")
        rest = self.text[position:].split(maxsplit=1)[0]
        got = f"{self.text!r}, which is not understood from {rest!r} on"
        return invalid(
            f"transforms such as {EXAMPLE}, separated by spaces", got, next_step=next_step or "check the brackets"
        )


_BY_OTHER_NAME = {
    name.replace("-", ""): spec.name for spec in TRANSFORMS.values() for name in (spec.name, *spec.other_names)
}


def check_transforms(expression: str) -> tuple[TransformCall, ...]:
    """Return the calls of an expression. Raises ValueError for an unknown transform or wrong arguments."""
    calls = parse_transforms(expression)
    for call in calls:
        bind_args(call)
    return calls


def bind_args(call: TransformCall) -> tuple[float | str, ...]:
    """Return one value for each argument of a transform: the one given, by position or name, else the default.

    A choice may skip the numbers before it: `resize(236,bicubic)` leaves the width between the two at its default.
    The arguments of `torchvision` and `callable` are not checked here. Raises ValueError for an unknown name, too many
    or too few arguments, or one of the wrong type or out of bounds.
    """
    if call.name == CUSTOM_NAME:
        return ()
    if call.name not in TRANSFORMS:
        raise unknown_transform(call)
    spec = TRANSFORMS[call.name]
    if spec.kind is TransformKind.OPEN:
        if not call.args or not isinstance(call.args[0], str):
            raise invalid("torchvision with the name of a transform first", str(call), spec.example)
        return ()
    remaining, named = list(call.args), dict(call.kwargs)
    names = [arg.name for arg in spec.args]
    for key in named:
        if key not in names:
            raise unknown_name(f"argument of {call.name}", key, names, f"example: {spec.example}")
    values: list[float | str] = []
    for index, arg in enumerate(spec.args):
        is_positional = remaining and not _belongs_to_later(remaining[0], arg, spec.args[index + 1 :])
        if is_positional and arg.name in named:
            raise invalid(f"{arg.name} of {call.name} once", str(call), nearest=spec.example)
        if is_positional:
            values.append(_convert_arg(arg, remaining.pop(0), call))
        elif arg.name in named:
            values.append(_convert_arg(arg, named[arg.name], call))
        elif arg.default is not None:
            values.append(arg.default)
        else:
            raise _wrong_arg_count(call)
    if remaining:
        raise _wrong_arg_count(call)
    _check_increasing(spec, dict(zip(names, values, strict=True)), call)
    return tuple(values)


def _belongs_to_later(value: TransformValue, arg: TransformArg, later_args: Sequence[TransformArg]) -> bool:
    return isinstance(value, str) and not arg.choices and any(value in other.choices for other in later_args)


def _wrong_arg_count(call: TransformCall) -> ValueError:
    spec = TRANSFORMS[call.name]
    names = ", ".join(arg.name for arg in spec.args) or "none"
    return invalid(f"{call.name} with its arguments ({names})", str(call), nearest=spec.example)


def _convert_arg(arg: TransformArg, value: TransformValue, call: TransformCall) -> float | str:
    if arg.choices:
        if not isinstance(value, str) or value not in arg.choices:
            raise unknown_name(f"{arg.name} of {call.name}", value, arg.choices)
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    has_valid_type = is_number and (arg.value_type is float or isinstance(value, int))
    in_bounds = has_valid_type and arg.minimum <= float(value) <= arg.maximum  # type: ignore[arg-type]
    if not in_bounds or (arg.odd and value % 2 != 1):  # type: ignore[operator]
        required = f"{arg.name} of {call.name} as {'an' if arg.odd else 'a'} {arg.type_text} {arg.range_text}"
        raise invalid(required, str(call), nearest=TRANSFORMS[call.name].example)
    return float(value) if arg.value_type is float else int(value)  # type: ignore[arg-type]


def _check_increasing(spec: TransformSpec, values: dict[str, float | str], call: TransformCall) -> None:
    in_order = [float(values[name]) for name in spec.increasing]
    if in_order != sorted(in_order):
        raise invalid(f"{' <= '.join(spec.increasing)} in {call.name}", str(call), nearest=spec.example)


def unknown_transform(call: TransformCall) -> ValueError:
    """Return the error for an unknown transform, with the nearest one, also for the names of other libraries."""
    size = re.fullmatch(r"(.*?)(\d+)", call.name)
    if size is not None and size[1] in TRANSFORMS:
        return invalid(
            f"arguments in brackets, as in {TRANSFORMS[size[1]].example}", str(call), f"{size[1]}({size[2]})"
        )
    is_class_name = call.name[0].isupper() and call.name.isidentifier()
    as_torchvision = TransformCall(TORCHVISION_NAME, (call.name, *call.args), call.kwargs)
    next_step = f"a transform of torchvision is {as_torchvision}; {LIST_HINT}" if is_class_name else LIST_HINT
    known = _BY_OTHER_NAME.get(re.sub("[-_]", "", call.name).lower())
    if known is None:
        return unknown_name("transform", call.name, TRANSFORMS, next_step)
    renamed = _with_name(call, known)
    next_step = next_step if renamed == TRANSFORMS[known].example and call.args else LIST_HINT
    return invalid("the name of a transform", str(call), renamed, next_step)


def _with_name(call: TransformCall, name: str) -> str:
    """Return the call under another name, or that transform's example if it has other arguments."""
    renamed = TransformCall(name, call.args, call.kwargs)
    try:
        bind_args(renamed)
    except ValueError:
        return TRANSFORMS[name].example
    return str(renamed)
