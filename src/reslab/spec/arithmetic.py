"""Arithmetic over a few names, for widths and factors: `4*w`, `1/sqrt(L)`, `divisible(in*2.25, 8)`."""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping

from reslab.spec.errors import invalid, unknown_name

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
