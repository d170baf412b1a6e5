"""Frozen values: overridden by typed `key=value`, turned into plain data and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from reslab.spec.errors import refuse, unknown

T = TypeVar("T")


def override(value: T, settings: Mapping[str, Any], kind: str = "key") -> T:
    """`value` with the named fields replaced; a dotted key reaches inside (`optimizer.lr`).

    A string is read as the field's type (`"2,2,2"` for a tuple of integers, `"true"` for a truth value). All are
    replaced at once, so their order does not matter.
    Raises ValueError for an unknown key (with the nearest) or a value of another type.
    """
    return _override(value, settings, "", kind)


def _override(value: Any, settings: Mapping[str, Any], prefix: str, kind: str) -> Any:
    hints, changes = typing.get_type_hints(type(value)), {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, given in settings.items():
        head, _, rest = path.partition(".")
        if head not in hints:
            raise unknown(kind, prefix + path, [prefix + name for name in keys(value)])
        if rest and not dataclasses.is_dataclass(getattr(value, head)):
            raise unknown(kind, prefix + path, [prefix + head])
        if rest:
            deeper.setdefault(head, {})[rest] = given
        else:
            changes[head] = convert(hints[head], given, prefix + path)
    for head, inner in deeper.items():
        changes[head] = _override(changes.get(head, getattr(value, head)), inner, f"{prefix}{head}.", kind)
    return dataclasses.replace(value, **changes) if changes else value


def keys(value: Any, prefix: str = "") -> list[str]:
    """Every dotted key that `override` takes for this value."""
    found = []
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        found.append(prefix + field.name)
        if dataclasses.is_dataclass(inner):
            found += keys(inner, f"{prefix}{field.name}.")
    return found


def convert(hint: Any, given: Any, key: str) -> Any:
    """`given` as the type `hint` says; strings are parsed. Raises ValueError naming the key where it cannot be."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, given, key)
    if dataclasses.is_dataclass(hint) and isinstance(given, Mapping):
        return from_dict(typing.cast(type[Any], hint), given)
    if origin is tuple:
        return _convert_tuple(hint, given, key)
    if hint is bool:
        return _convert_bool(given, key)
    if hint in (int, float) and not isinstance(given, bool):
        return _convert_number(hint, given, key)
    if hint is type(None):
        if given is None or (isinstance(given, str) and given.strip().lower() in ("none", "null")):
            return None
        raise _wrong("none", given, key)
    if isinstance(hint, type) and isinstance(given, hint) and (hint is object or not isinstance(given, bool)):
        return given
    raise _wrong(getattr(hint, "__name__", str(hint)), given, key)


def _wrong(required: str, given: Any, key: str) -> ValueError:
    return refuse(f"{key} as {required}", repr(given))


def _convert_union(hint: Any, given: Any, key: str) -> Any:
    options = sorted(typing.get_args(hint), key=lambda option: (option is not type(None), option is str))
    for option in options:
        try:
            return convert(option, given, key)
        except ValueError:
            continue
    raise _wrong(" or ".join(getattr(option, "__name__", str(option)) for option in options), given, key)


def _convert_tuple(hint: Any, given: Any, key: str) -> tuple[Any, ...]:
    item = typing.get_args(hint)[0]
    if isinstance(given, str):
        inner = given.strip().removeprefix("(").removesuffix(")").strip().removesuffix(",")
        given = [part.strip() for part in inner.split(",")] if inner else []
    if isinstance(given, list | tuple):
        fixed = None if typing.get_args(hint)[-1] is Ellipsis else len(typing.get_args(hint))
        if fixed not in (None, len(given)):
            raise _wrong(f"{fixed} values separated by commas", given, key)
        return tuple(convert(item, part, key) for part in given)
    raise _wrong("values separated by commas, such as 2,2,2", given, key)


def _convert_bool(given: Any, key: str) -> bool:
    if isinstance(given, bool):
        return given
    truth = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(given, str) and given.strip().lower() in truth:
        return truth[given.strip().lower()]
    raise _wrong("true or false", given, key)


def _convert_number(hint: type[int] | type[float], given: Any, key: str) -> int | float:
    required = "a whole number" if hint is int else "a number"
    if isinstance(given, str):
        try:
            return hint(given.strip().replace("_", ""))
        except ValueError:
            raise _wrong(required, given, key) from None
    if isinstance(given, int) or (hint is float and isinstance(given, float)):
        return hint(given)
    raise _wrong(required, given, key)


def to_dict(value: Any) -> Any:
    """A frozen value as plain data (dictionaries, lists, numbers, strings), ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): to_dict(item) for name, item in value.items()}
    return value


def departures(value: Any) -> Any:
    """A frozen value as plain data, without the fields that have their default.

    A field added later, with a default, changes nothing in it: so a description can be known again by its departures.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_dict(value)
    inside = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {field.name: departures(inner) for field, inner in inside if inner != _default(field)}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """The frozen value that `to_dict` wrote; fields that are missing take their defaults, unknown ones are an error."""
    hints = typing.get_type_hints(cls)
    for name in data:
        if name not in hints:
            raise unknown(f"field of {cls.__name__}", name, hints)
    return cls(**{name: convert(hints[name], given, name) for name, given in data.items()})
