"""Transform expressions: calls separated by spaces, such as `pad(4) crop(32) flip` or `rotate(15, fill=128)`.

expression = call*                      call  = NAME | NAME(value, ..., KEY=value, ...)
value      = number | word | 'text' | true | false | none | [value, ...] | (value, ...) | call with brackets
"""

import re
from dataclasses import dataclass
from typing import Union

from reslab.spec.errors import invalid

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
