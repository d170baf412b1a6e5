"""Read JSON that may be damaged or hostile, and add a checksum that shows a changed byte."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from reslab.spec.errors import invalid

CHECKSUM_KEY = "crc32"


def parse_object(text: str | bytes, source: object) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises ValueError, naming `source`, for anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise invalid("a JSON object", f"{source}, which is nested too deeply") from None
    except ValueError as error:  # malformed JSON, bytes that are no text, an integer of thousands of digits
        raise invalid("a complete JSON object", f"{source}, which is damaged ({error})") from None
    if not isinstance(value, dict):
        raise invalid("a JSON object", f"{source}, which is {type(value).__name__} ({str(value)[:40]!r})")
    return value


def checksum(record: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a record as JSON, 8 hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with its checksum as the last key."""
    plain = {key: value for key, value in record.items() if key != CHECKSUM_KEY}
    return {**plain, CHECKSUM_KEY: checksum(plain)}


def without_checksum(record: Mapping[str, Any], source: object, next_step: str = "") -> dict[str, Any]:
    """Return a record that `with_checksum` made without its checksum. Raises ValueError if it does not fit."""
    plain = {key: value for key, value in record.items() if key != CHECKSUM_KEY}
    expected = checksum(plain)
    if record.get(CHECKSUM_KEY) != expected:
        got = f"{source}, whose checksum is {record.get(CHECKSUM_KEY)} instead of {expected}"
        raise invalid("content as it was written", f"{got}: it was damaged or edited", next_step=next_step)
    return plain


def require_types(record: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], source: object) -> None:
    """Raise ValueError, naming key and type, unless the record has every key with one of its types.

    A dotted key is one of a nested object (`data.classes`). A truth value is not a number.
    """
    for key, allowed in types.items():
        value: Any = record
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise invalid(f"the key {key}", f"{source} without it", next_step="it is damaged, or of other software")
            value = value[part]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join("null" if item is type(None) else item.__name__ for item in allowed)
            raise invalid(f"{key} as {names}", f"{str(value)[:40]!r} in {source}")


def require_strings(value: Any, key: str, source: object) -> None:
    """Raise ValueError unless `value` is a list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"{key} as a list of strings", f"{str(value)[:40]!r} in {source}")
