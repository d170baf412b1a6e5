"""Architectures and recipes in TOML files: `base = "resnet50"` and the keys that differ from it.

base = "resnet50"                     base = "cifar"
order = "full-preact"                 duration = "90 epochs"
widths = [64, 128, 256, 512]          optimizer = { lr = 0.2 }
"""

import tomllib
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid

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
