"""Errors for a user's mistake: what was required, what came, the nearest valid value, the next step.

The functions return the error, so that a call reads `raise invalid(...)`.
"""

import difflib
from collections.abc import Iterable
from itertools import islice

_MAX_COMPARED_LENGTH = 100
_MAX_COMPARED_NAMES = 10_000


def nearest(name: str, known_names: Iterable[str], max_matches: int = 3) -> list[str]:
    """Return up to `max_matches` known names similar to `name`, best first; else names that contain it.

    Nothing is similar to a name of more than 100 characters, and of many known names only the first 10,000 are
    compared: comparing takes time with the product of the lengths.
    """
    if len(name) > _MAX_COMPARED_LENGTH:
        return []
    names = [
        known_name for known_name in islice(known_names, _MAX_COMPARED_NAMES) if len(known_name) <= _MAX_COMPARED_LENGTH
    ]
    matches = difflib.get_close_matches(
        name.lower(), [known_name.lower() for known_name in names], n=max_matches, cutoff=0.5
    )
    if not matches and len(name) > 2:
        matches = [known_name.lower() for known_name in names if name.lower() in known_name.lower()][:max_matches]
    by_lower = {known_name.lower(): known_name for known_name in reversed(names)}
    return [by_lower[known_name] for known_name in matches]


def unknown_name(kind: str, got: object, known_names: Iterable[str], next_step: str = "") -> ValueError:
    """Return the error for a name that is not in a table: `unknown model 'resnt50'; nearest: 'resnet50'; ...`."""
    names = [str(name) for name in known_names]
    text = got if isinstance(got, str) else str(got)
    matches = nearest(text, names)
    if matches:
        suggestion = "nearest: " + ", ".join(repr(name) for name in matches)
    elif not names:
        suggestion = "there are none"
    elif len(names) <= 12:
        suggestion = "known: " + ", ".join(repr(name) for name in names)
    else:
        suggestion = f"none of the {len(names)} known names is similar"
    shown = repr(got) if len(text) <= _MAX_COMPARED_LENGTH else f"{text[:_MAX_COMPARED_LENGTH]!r}..."
    return ValueError("; ".join(part for part in (f"unknown {kind} {shown}", suggestion, next_step) if part))


def invalid(required: str, got: object, nearest: str = "", next_step: str = "") -> ValueError:
    """Return the error for an invalid value: `required: X; got: Y; nearest valid: Z; next step`."""
    parts = [f"required: {required}", f"got: {got}"]
    if nearest:
        parts.append(f"nearest valid: {nearest}")
    if next_step:
        parts.append(next_step)
    return ValueError("; ".join(parts))
