"""How a user's mistake is told: what was required, what came, the nearest valid value, the next step."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known_names: Iterable[str], max_matches: int = 3) -> list[str]:
    """The `count` known names most like `got`, best first, or that have it in them; empty where none is alike."""
    names = list(known_names)
    matches = difflib.get_close_matches(
        name.lower(), [known_name.lower() for known_name in names], n=max_matches, cutoff=0.5
    )
    if not matches and len(name) > 2:
        matches = [known_name.lower() for known_name in names if name.lower() in known_name.lower()][:max_matches]
    by_lower = {known_name.lower(): known_name for known_name in reversed(names)}
    return [by_lower[known_name] for known_name in matches]


def unknown_name(kind: str, got: object, known_names: Iterable[str], next_step: str = "") -> ValueError:
    """The error for a name that is not in a table: `unknown model 'resnt50': nearest are 'resnet50'; ...`."""
    names = list(known_names)
    matches = nearest(str(got), names)
    if matches:
        suggestion = "nearest: " + ", ".join(repr(name) for name in matches)
    elif len(names) <= 12:
        suggestion = "known: " + ", ".join(repr(name) for name in names)
    else:
        suggestion = f"{len(names)} are known, none of them alike"
    return ValueError("; ".join(part for part in (f"unknown {kind} {got!r}", suggestion, next_step) if part))


def invalid(required: str, got: object, nearest: str = "", next_step: str = "") -> ValueError:
    """The error for a value that means nothing: `required X; got Y; nearest valid: Z; do W`."""
    parts = [f"required: {required}", f"got: {got}"]
    if nearest:
        parts.append(f"nearest valid: {nearest}")
    if next_step:
        parts.append(next_step)
    return ValueError("; ".join(parts))
