"""Expressions: operations such as `pad(4) crop(32) flip`, arithmetic such as `1/sqrt(L)`, and arguments in a range."""

import ast
import functools
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reslab.spec.errors import invalid, unknown_name

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


_MAX_LENGTH = 100
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
}


def divisible(value: float, divisor: float = 8) -> float:
    """Return the multiple of `divisor` nearest to `value`, but not below 0.9 times it (the rule of MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "round": round,
    "int": int,
    "min": min,
    "max": max,
    "divisible": divisible,
}


def evaluate(expression: str, names: Mapping[str, float]) -> float:
    """Return the value of an expression: numbers, `names`, + - * / //, brackets, sqrt round int min max divisible.

    Raises ValueError for anything else, for an unknown name, and for a result that is not finite.
    """
    # `in` is a keyword of Python and a name here.
    text = re.sub(r"\bin\b", "in_", expression)
    required = f"arithmetic over {', '.join(names)}" if names else "arithmetic with numbers"
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) <= _MAX_LENGTH else None
        value = None if tree is None else _value(tree, {"in_" if key == "in" else key: names[key] for key in names})
    except (SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError):
        value = None
    if value is None or not math.isfinite(value):
        raise invalid(required, repr(expression), repr("2*w") if "w" in names else "")
    return value


def _value(node: ast.AST, names: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise unknown_name("name in an expression", node.id, ("in" if name == "in_" else name for name in names))
        return names[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise unknown_name("function in an expression", node.func.id, _FUNCTIONS)
        return _FUNCTIONS[node.func.id](*(_value(arg, names) for arg in node.args))
    raise TypeError(type(node).__name__)


def check_expression(expression: str, names: Iterable[str]) -> None:
    """Raise ValueError unless the expression is arithmetic over these names."""
    evaluate(expression, dict.fromkeys(names, 1.0))


@dataclass(frozen=True)
class Param:
    """An argument: its type (int, float or str), default and range, `low` to `high` or `choices`.

    Without a default, an argument that is not `required` is left to the builder. `below` is an upper bound that is
    itself invalid. With `names`, arithmetic over these names is valid too and stays a text.

    In the signature of a registered function a range stands beside the type, and the rest follows from the signature:
    `def ghost(site, ratio: Annotated[float, Param(low=0, high=1)] = 0.5)`.
    """

    name: str = ""
    type: type = float
    default: Arg | None = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    example: str = ""

    def convert(self, op: Op, value: Arg) -> Arg:
        """Return the value as this type. Raises ValueError for another type or a value out of range."""
        if self.names and isinstance(value, str):
            check_expression(value, self.names)
            return value
        if isinstance(value, int | float) and self.type in (int, float) and math.isfinite(value):
            is_in_range = self.low <= value <= self.high and value < self.below
            if is_in_range and (self.type is float or value % 1 == 0):
                return typing.cast(Arg, self.type(value))
        if self.type is str and isinstance(value, str) and (not self.choices or value in self.choices):
            return value
        if self.choices:
            raise unknown_name(f"{self.name} of {op.name}", value, self.choices)
        raise self.invalid(op, value)

    def invalid(self, op: Op, value: Arg | None = None) -> ValueError:
        """Return the error for an operation with a missing or invalid value of this argument."""
        example = self.example
        if isinstance(value, int | float) and math.isfinite(value) and not self.low <= value <= self.high:
            example = f"{min(max(value, self.low), self.high):g}"
        required = f"{op.name}({self.name.upper()}) with {self.describe()}"
        return invalid(required, repr(str(op)), repr(f"{op.name}({example})") if example else "")

    def describe(self) -> str:
        """Return a text that says which values are valid: `rate as a number in [0, 1)`."""
        bounds = ""
        if math.isfinite(self.low) and math.isfinite(min(self.high, self.below)):
            bounds = f" in [{self.low:g}, {min(self.high, self.below):g}{')' if self.below < math.inf else ']'}"
        elif math.isfinite(self.low):
            bounds = f" from {self.low:g}"
        noun = {int: "a whole number", float: "a number", str: "a name"}[self.type]
        return f"{self.name} as {noun}{bounds}"


def bind(op: Op, params: Sequence[Param]) -> dict[str, Arg]:
    """Return the value of every argument by name. Raises ValueError for arguments that it cannot take."""
    names = [param.name for param in params]
    for key, _ in op.kwargs:
        if key not in names:
            raise unknown_name(f"argument of {op.name}", key, names)
    given = dict(zip(names, op.args, strict=False)) | dict(op.kwargs)
    if len(op.args) > len(names) or len(given) < len(op.args) + len(op.kwargs):
        what = f"{op.name} with {', '.join(names)}" if names else f"'{op.name}' without arguments"
        raise invalid(what, repr(str(op)), repr(op.name))
    values = {}
    for param in params:
        if param.name not in given and param.required:
            raise param.invalid(op)
        values[param.name] = param.convert(op, given[param.name]) if param.name in given else param.default
    return {name: value for name, value in values.items() if value is not None}


def signature_params(function: Callable[..., Any], context: Sequence[str]) -> tuple[Param, ...]:
    """Return the arguments of a registered function: its parameters other than those of `context`, in order.

    Types are int, float, str or `Literal["a", "b"]`, each also `| None`; `Annotated[float, Param(low=0)]` adds a range.
    Raises ValueError for a parameter without a type or of another one.
    """
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function, include_extras=True)  # type: ignore[misc]
    params = []
    for name, parameter in inspect.signature(function).parameters.items():
        is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in context or (is_variable and isinstance(function, type)):  # `nn.Module.__init__(*args, **kwargs)`
            continue
        what = f"{name} of {getattr(function, '__name__', function)}"
        if is_variable or parameter.kind is parameter.POSITIONAL_ONLY:
            raise invalid(f"named parameters, beside {', '.join(context)}", what, f"{name}: float = 1.0")
        params.append(_signature_param(name, hints.get(name), parameter.default, what))
    return tuple(params)


def _signature_param(name: str, hint: Any, default: Any, what: str) -> Param:
    param = Param()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
        param = next((extra for extra in extras if isinstance(extra, Param)), param)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        # `float | str` with names: a number, or arithmetic over them.
        hint = float if param.names and set(options) == {float, str} else options[0] if len(options) == 1 else None
    choices = param.choices
    if typing.get_origin(hint) is typing.Literal:
        choices = tuple(map(str, typing.get_args(hint)))
        hint = str
    if hint not in (int, float, str):
        raise invalid(f"int, float, str or Literal as the type of {what}", str(hint), f"{name}: float = 1.0")
    is_required = default is inspect.Parameter.empty
    example = param.example or {int: "2", float: "0.5", str: choices[0] if choices else "name"}[hint]
    default = None if is_required else default
    return replace(param, name=name, type=hint, required=is_required, default=default, choices=choices, example=example)
