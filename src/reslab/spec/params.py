"""The arguments of operations, merges and shortcuts: types, ranges, and how they follow from a function's signature."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reslab.spec.arithmetic import check_expression
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Arg, Op


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
