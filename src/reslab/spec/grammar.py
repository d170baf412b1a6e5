"""Expressions of operations: `pad(4) crop(32) flip`, `conv norm act drop(0.3)`, `se(0.25, of=in)`."""

import functools
import re
from dataclasses import dataclass

from reslab.spec.errors import invalid

# `evonorm-s0` as an argument is a name; only an operation of an expression has a size and a stride attached to it.
_OP_PATTERN = re.compile(r"(?P<name>[A-Za-z+|][A-Za-z0-9_-]*?)(?P<size>\d+(?:x\d+)*)?(?:/(?P<stride>\d+(?:x\d+)*))?$")
_KEYWORD_PATTERN = re.compile(r"(?P<key>[A-Za-z][A-Za-z0-9_-]*)\s*=(?P<value>.*)", re.DOTALL)

Arg = float | str


@dataclass(frozen=True)
class Op:
    """One operation: a name, the numbers attached to it (`conv7/2`: size 7, stride 2) and arguments in brackets.

    An argument is a number or a text; a text with brackets (`norm(group(32))`) is parsed where it is used. `kwargs` are
    the arguments given by name (`se(0.25, of=in)`), in order. Size and stride are None where the expression does not
    give them. `conv3x7x7/1x2x2` has `sides` and `strides`, one for each dimension of the map; size and stride are then
    the largest.
    """

    name: str
    args: tuple[Arg, ...] = ()
    size: int | None = None
    stride: int | None = None
    kwargs: tuple[tuple[str, Arg], ...] = ()
    sides: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def __str__(self) -> str:
        size = "x".join(map(str, self.sides)) or ("" if self.size is None else str(self.size))
        stride = "x".join(map(str, self.strides)) or ("" if self.stride is None else str(self.stride))
        stride = f"/{stride}" if stride else ""
        args = [format_arg(arg) for arg in self.args] + [f"{key}={format_arg(arg)}" for key, arg in self.kwargs]
        return f"{self.name}{size}{stride}" + (f"({','.join(args)})" if args else "")


def format_arg(arg: Arg) -> str:
    """Return the shortest text that parses to the same value; 6.0 becomes `6`, 1e-06 `1e-6`."""
    if not isinstance(arg, float):
        return str(arg)
    text = f"{arg:g}" if float(f"{arg:g}") == arg else repr(arg)
    return text.replace("e-0", "e-").replace("e+0", "e+")


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Return the parts of `text` between separators that no bracket encloses; a space stands for any white space.

    Raises ValueError for brackets that do not match.
    """
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 0:
            break
        if depth == 0 and (char == separator or (separator == " " and char.isspace())):
            parts.append(text[start:i])
            start = i + 1
    if depth:
        raise invalid("brackets that match", repr(text), next_step="check the brackets")
    return [*parts, text[start:]]


@functools.lru_cache(maxsize=1024)
def parse_ops(expression: str) -> tuple[Op, ...]:
    """Return the operations of an expression, which are separated by spaces.

    `conv3/2(32)` has size 3, stride 2 and the argument 32. Raises ValueError for text that is no operation.
    """
    return tuple(_parse_op(text) for text in split_outside_brackets(expression, " ") if text)


def _parse_op(text: str) -> Op:
    head, bracket, rest = text.partition("(")
    match = _OP_PATTERN.match(head)
    if match is None or (bracket and not _ends_with_its_bracket(text)):
        raise invalid(
            "operations such as 'conv3/2(32) norm act', separated by spaces", repr(text), next_step="check the brackets"
        )
    args, kwargs = _parse_args(match["name"], rest[:-1]) if bracket else ((), ())
    sides, strides = (
        tuple(map(int, numbers.split("x"))) if numbers else () for numbers in (match["size"], match["stride"])
    )
    return Op(
        match["name"],
        args,
        max(sides, default=None),
        max(strides, default=None),
        kwargs,
        sides if len(sides) > 1 else (),
        strides if len(strides) > 1 else (),
    )


def _ends_with_its_bracket(text: str) -> bool:
    """Return whether the first opening bracket closes at the very end of the text."""
    depth = 0
    for i, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == ")" and depth == 0:
            return i == len(text) - 1
    return False


def _parse_args(name: str, text: str) -> tuple[tuple[Arg, ...], tuple[tuple[str, Arg], ...]]:
    if not text.strip():
        return (), ()
    args: list[Arg] = []
    kwargs: dict[str, Arg] = {}
    for part in split_outside_brackets(text, ","):
        keyword = _KEYWORD_PATTERN.match(part.strip())
        value = keyword["value"] if keyword else part
        if not value.strip():
            raise invalid("an argument between any two commas", repr(f"{name}({text})"), repr(name))
        if value.strip().startswith("(") and _ends_with_its_bracket(value.strip()):
            raise invalid("an argument without brackets around it", repr(f"{name}({text})"))
        if keyword and keyword["key"] in kwargs:
            raise invalid("each argument once", repr(f"{name}({text})"), next_step=f"keep one {keyword['key']}=")
        if kwargs and not keyword:
            raise invalid("arguments without a name before those with one", repr(f"{name}({text})"))
        if keyword:
            kwargs[keyword["key"]] = parse_arg(value)
        else:
            args.append(parse_arg(value))
    return tuple(args), tuple(kwargs.items())


def parse_arg(text: str) -> Arg:
    """Return a number, or else the text without white space around commas, brackets and equals signs."""
    text = re.sub(r"\s*([,()=])\s*", r"\1", text.strip())
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
