"""Check transform expressions against the table of transforms, and name the nearest valid one in errors."""

import re
from collections.abc import Sequence

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.transform_grammar import LIST_HINT, TransformCall, TransformValue, parse_transforms
from reslab.spec.transforms import CUSTOM_NAME, TORCHVISION_NAME, TRANSFORMS, TransformArg, TransformKind, TransformSpec

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
