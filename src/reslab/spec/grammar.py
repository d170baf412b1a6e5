"""Expressions of operations: `pad(4) crop(32) flip`, `conv norm act drop(0.3)`."""

import re
from dataclasses import dataclass

from reslab.spec.errors import invalid

_OP_PATTERN = re.compile(
    r"(?P<name>[A-Za-z+|][A-Za-z0-9_-]*?)(?P<size>\d+)?(?:/(?P<stride>\d+))?(?:\((?P<args>[^()]*)\))?$"
)


@dataclass(frozen=True)
class Op:
    """One operation: a name, the numbers attached to it (`conv7/2`: size 7, stride 2) and arguments in brackets.

    Size and stride are None where the expression does not give them.
    """

    name: str
    args: tuple[float | str, ...] = ()
    size: int | None = None
    stride: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else str(self.size)
        stride = "" if self.stride is None else f"/{self.stride}"
        args = f"({','.join(_format_arg(arg) for arg in self.args)})" if self.args else ""
        return f"{self.name}{size}{stride}{args}"


def _format_arg(arg: float | str) -> str:
    """Return the shortest text that parses to the same value; 6.0 becomes `6`."""
    if not isinstance(arg, float):
        return str(arg)
    return f"{arg:g}" if float(f"{arg:g}") == arg else repr(arg)


def _parse_arg(text: str) -> float | str:
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def parse_ops(expression: str) -> tuple[Op, ...]:
    """Return the operations of an expression, which are separated by spaces.

    `conv3/2(32)` has size 3, stride 2 and the argument 32. Raises ValueError for text that is no operation.
    """
    ops = []
    for text in re.sub(r"\s*,\s*", ",", expression).split():
        match = _OP_PATTERN.match(text)
        if match is None:
            raise invalid(
                "operations such as 'conv3/2(32) norm act', separated by spaces",
                repr(text),
                next_step="check the brackets",
            )
        args = match["args"]
        if args and not all(part.strip() for part in args.split(",")):
            raise invalid("an argument between any two commas", repr(text), repr(match["name"]))
        ops.append(
            Op(
                match["name"],
                tuple(_parse_arg(part) for part in args.split(",")) if args else (),
                int(match["size"]) if match["size"] else None,
                int(match["stride"]) if match["stride"] else None,
            )
        )
    return tuple(ops)
