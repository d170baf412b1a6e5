"""How a user's mistake is told: what was required, what came, the nearest valid value, the next step."""

import difflib
from collections.abc import Iterable


def nearest(got: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names most like `got`, best first, or that have it in them; empty where none is alike."""
    names = list(known)
    alike = difflib.get_close_matches(got.lower(), [name.lower() for name in names], n=count, cutoff=0.5)
    if not alike and len(got) > 2:
        alike = [name.lower() for name in names if got.lower() in name.lower()][:count]
    by_lower = {name.lower(): name for name in reversed(names)}
    return [by_lower[name] for name in alike]


def unknown(kind: str, got: object, known: Iterable[str], next_step: str = "") -> ValueError:
    """The error for a name that is not in a table: `unknown model 'resnt50': nearest are 'resnet50'; ...`."""
    names = list(known)
    near = nearest(str(got), names)
    if near:
        said = "nearest: " + ", ".join(repr(name) for name in near)
    elif len(names) <= 12:
        said = "known: " + ", ".join(repr(name) for name in names)
    else:
        said = f"{len(names)} are known, none of them alike"
    return ValueError("; ".join(part for part in (f"unknown {kind} {got!r}", said, next_step) if part))


def refuse(required: str, got: object, nearest: str = "", next_step: str = "") -> ValueError:
    """The error for a value that means nothing: `required X; got Y; nearest valid: Z; do W`."""
    parts = [f"required: {required}", f"got: {got}"]
    if nearest:
        parts.append(f"nearest valid: {nearest}")
    if next_step:
        parts.append(next_step)
    return ValueError("; ".join(parts))
