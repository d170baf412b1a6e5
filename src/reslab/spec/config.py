"""Override the fields of frozen dataclasses by typed `key=value` or a TOML file; convert them to plain data and back.

A key may be shortened where that is unambiguous (`expand_keys`): `lr` means `optimizer.lr`, `optimizer=adamw` means
`optimizer.name=adamw`. A TOML file names what it changes and the keys that differ from it:

    base = "resnet50"                     base = "cifar"
    order = "full-preact"                 duration = "90 epochs"
    widths = [64, 128, 256, 512]          optimizer = { lr = 0.2 }
"""

import contextlib
import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from reslab.spec.errors import invalid, unknown_name

T = TypeVar("T")


_EXAMPLES: dict[Any, str] = {bool: "true", int: "4", float: "0.1", tuple: "1,2"}


def override(value: T, overrides: Mapping[str, Any], kind: str = "key") -> T:
    """Return `value` with the named fields replaced; a dotted key addresses a nested field (`optimizer.lr`).

    A string is parsed as the field's type (`"2,2,2"` for a tuple of integers, `"true"` for a truth value). All fields
    are replaced at once, so that the order of the overrides does not matter and checks see the final values. Raises
    ValueError for an unknown key, with the nearest ones, or a value of another type.
    """
    return _apply_overrides(value, overrides, "", kind)


def _apply_overrides(value: Any, overrides: Mapping[str, Any], prefix: str, kind: str) -> Any:
    hints, changes = typing.get_type_hints(type(value)), {}
    nested: dict[str, dict[str, Any]] = {}
    for key, new_value in overrides.items():
        field_name, _, subkey = key.partition(".")
        if field_name not in hints:
            raise unknown_name(kind, prefix + key, [prefix + name for name in override_keys(value)])
        if subkey and not dataclasses.is_dataclass(getattr(value, field_name)):
            raise unknown_name(kind, prefix + key, [prefix + field_name])
        if subkey:
            nested.setdefault(field_name, {})[subkey] = new_value
        else:
            hint, key_path = hints[field_name], prefix + key
            try:
                changes[field_name] = convert(hint, new_value, key_path)
            except ValueError:
                if isinstance(new_value, Mapping):  # the error is about one of its entries
                    raise
                example = _example(hint, getattr(value, field_name), new_value)
                raise _wrong_type(hint, new_value, key_path, f"{key_path}={example}" if example else "") from None
    for field_name, nested_overrides in nested.items():
        changes[field_name] = _apply_overrides(
            changes.get(field_name, getattr(value, field_name)), nested_overrides, f"{prefix}{field_name}.", kind
        )
    return dataclasses.replace(value, **changes) if changes else value


def expand_keys(
    value: Any, overrides: Mapping[str, Any], shorthands: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the overrides with shortened keys written out, for the fields of `value`.

    * `lr` means the only key that ends in `.lr`.
    * a group of keys means its name: `optimizer=adamw` is `optimizer.name=adamw`.
    * `shorthands` maps further names to keys.

    Unknown keys stay as they are, for `override` to report. Raises ValueError for a short key that several keys end in,
    a group without a name, and a key that is given twice.
    """
    keys, expanded = override_keys(value), dict[str, Any]()
    for key, new_value in overrides.items():
        full_key = _expand_key(value, keys, key, new_value, shorthands or {})
        if full_key in expanded:
            got = f"{full_key} twice" if full_key == key else f"{full_key} and its short form {key}"
            raise invalid(f"{full_key} once", got, next_step="leave one of them out")
        expanded[full_key] = new_value
    return expanded


def _expand_key(value: Any, keys: list[str], key: str, new_value: Any, shorthands: Mapping[str, str]) -> str:
    if key in shorthands:
        return shorthands[key]
    if key in keys:
        is_group = any(other.startswith(f"{key}.") for other in keys)
        if not is_group or isinstance(new_value, Mapping) or dataclasses.is_dataclass(new_value):
            return key
        if f"{key}.name" in keys and isinstance(new_value, str):
            return f"{key}.name"
        group = ", ".join(other for other in keys if other.startswith(f"{key}."))
        raise invalid(f"one of the keys {group}", f"{key}={new_value}")
    matches = [other for other in keys if other.endswith(f".{key}")]
    if len(matches) > 1:
        raise invalid(f"one of the keys {', '.join(matches)}", key, nearest=f"{matches[0]}={new_value}")
    return matches[0] if matches else key


def override_keys(value: Any, prefix: str = "") -> list[str]:
    """Return every dotted key that `override` accepts for this value."""
    result = []
    for field in dataclasses.fields(value):
        field_value = getattr(value, field.name)
        result.append(prefix + field.name)
        if dataclasses.is_dataclass(field_value):
            result += override_keys(field_value, f"{prefix}{field.name}.")
    return result


def convert(hint: Any, value: Any, key: str) -> Any:
    """Return `value` as the type `hint`, parsing strings. Raises ValueError, naming the key, if it does not fit."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, key)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type[Any], hint), value)
    if origin is tuple:
        return _convert_tuple(hint, value, key)
    if hint is bool:
        return _convert_bool(value, key)
    if hint in (int, float) and not isinstance(value, bool):
        return _convert_number(hint, value, key)
    if hint is type(None):
        if value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null")):
            return None
        raise _wrong_type(hint, value, key)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is object or not isinstance(value, bool)):
        return value
    raise _wrong_type(hint, value, key)


def describe_type(hint: Any) -> str:
    """Return a type for people: `a whole number`, `2 numbers separated by commas`, `none or text`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(option) for option in _union_options(hint))
    if origin is tuple:
        plurals = {int: "whole numbers", float: "numbers", bool: "values, each true or false,"}
        count = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"{count}{plurals.get(args[0], 'values')} separated by commas"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    if dataclasses.is_dataclass(hint):
        return f"a table of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _wrong_type(hint: Any, value: Any, key: str, nearest: str = "") -> ValueError:
    return invalid(f"{key} as {describe_type(hint)}", repr(value), nearest=nearest)


def _example(hint: Any, current: Any, value: Any) -> str:
    """Return a valid value as text: the given one rounded, else the current one, else one of that type."""
    if hint is int and isinstance(value, str | float):
        with contextlib.suppress(ValueError, OverflowError):
            return str(round(float(value)))
    if current not in (None, "", ()) and not dataclasses.is_dataclass(current):
        is_sequence = isinstance(current, list | tuple)
        return ",".join(_format_value(item) for item in current) if is_sequence else _format_value(current)
    return _EXAMPLES.get(typing.get_origin(hint) or hint, "")


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _union_options(hint: Any) -> list[Any]:
    # None first and str last: `none` must not become a text, and a number must not either.
    return sorted(typing.get_args(hint), key=lambda option: (option is not type(None), option is str))


def _convert_union(hint: Any, value: Any, key: str) -> Any:
    for option in _union_options(hint):
        try:
            return convert(option, value, key)
        except ValueError:
            continue
    raise _wrong_type(hint, value, key)


def _convert_tuple(hint: Any, value: Any, key: str) -> tuple[Any, ...]:
    item_type = typing.get_args(hint)[0]
    if isinstance(value, str):
        inner = value.strip().removeprefix("(").removesuffix(")").strip().removesuffix(",")
        value = [part.strip() for part in inner.split(",")] if inner else []
    num_items = None if typing.get_args(hint)[-1] is Ellipsis else len(typing.get_args(hint))
    if not isinstance(value, list | tuple) or num_items not in (None, len(value)):
        raise _wrong_type(hint, value, key)
    return tuple(convert(item_type, part, key) for part in value)


def _convert_bool(value: Any, key: str) -> bool:
    if isinstance(value, bool):
        return value
    values = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in values:
        return values[value.strip().lower()]
    raise _wrong_type(bool, value, key)


def _convert_number(hint: type[int] | type[float], value: Any, key: str) -> int | float:
    if isinstance(value, str):
        try:
            return hint(value.strip().replace("_", ""))
        except ValueError:
            raise _wrong_type(hint, value, key) from None
    if isinstance(value, int) or (hint is float and isinstance(value, float)):
        return hint(value)
    raise _wrong_type(hint, value, key)


def to_dict(value: Any) -> Any:
    """Return a frozen value as plain data (dictionaries, lists, numbers, strings) for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): to_dict(item) for name, item in value.items()}
    return value


def non_default_fields(value: Any) -> Any:
    """Return a frozen value as plain data, without the fields that have their default value.

    A field added later, with a default, does not change the result, so it can serve as a stable key of the value.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return to_dict(value)
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {
        field.name: non_default_fields(field_value)
        for field, field_value in fields
        if field_value != _default_value(field)
    }


def _default_value(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """Return the frozen value that `to_dict` wrote; missing fields take their defaults, unknown ones are an error."""
    hints = typing.get_type_hints(cls)
    for name in data:
        if name not in hints:
            raise unknown_name(f"field of {cls.__name__}", name, hints)
    return cls(**{name: convert(hints[name], value, name) for name, value in data.items()})


SUFFIX = ".toml"
_MAX_BASES = 20


def is_toml(name: object) -> bool:
    """Return whether a model or a recipe is named by a TOML file."""
    return isinstance(name, str | Path) and str(name).lower().endswith(SUFFIX)


def described(path: Path, base: str) -> dict[str, Any]:
    """Return the name and the reference of a file that gives none: its stem, and the file with its base."""
    return {"name": path.stem, "reference": f"{path.name}, from {base}" if base else path.name}


def read_toml(name: str | Path, level: int) -> tuple[Path, dict[str, Any]]:
    """Return the path and the table of a file, which `level` files lead to, each the base of another."""
    path = Path(name).expanduser()
    if level > _MAX_BASES:
        raise invalid(f"at most {_MAX_BASES} files, one the base of another", f"more at {path}", "", "end the circle")
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        others = ", ".join(sorted(other.name for other in path.parent.glob(f"*{SUFFIX}"))[:3])
        raise invalid("a readable TOML file", f"{path} ({error})", others) from None
    except tomllib.TOMLDecodeError as error:
        raise invalid("a TOML file", f"{path}: {error}", 'base = "resnet50"') from None


def base_of(path: Path, base: Any) -> str | Path:
    """Return the name, or the file relative to the folder of `path`, that `base` in it names."""
    if not isinstance(base, str):
        raise invalid(f"base in {path} as a name or a TOML file", repr(base), 'base = "resnet50"')
    return path.parent / base if is_toml(base) else base


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
