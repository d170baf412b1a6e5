"""Architectures and recipes in TOML files: `base = "resnet50"` and the keys that differ from it.

base = "resnet50"                     base = "cifar"
order = "full-preact"                 duration = "90 epochs"
widths = [64, 128, 256, 512]          optimizer = { lr = 0.2 }
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.recipe import Recipe, expand_recipe_keys
from reslab.spec.recipes import RECIPES
from reslab.spec.zoo import ARCHS

SUFFIX = ".toml"
_MAX_BASES = 20


def is_toml(name: object) -> bool:
    """Return whether a model or a recipe is named by a TOML file."""
    return isinstance(name, str | Path) and str(name).lower().endswith(SUFFIX)


def find_arch(name: str | Path, level: int = 0) -> Arch:
    """Return the architecture of a name or a TOML file; a file without `base` has at least `depths` and `widths`.

    A base is a name or a file, relative to the folder of the file that names it; `level` counts the files on the way.
    Raises ValueError for an unknown name or key, with the nearest ones, and for a file that is none.
    """
    if not is_toml(name):
        if str(name) not in ARCHS:
            raise unknown_name("model", str(name), ARCHS, "`reslab models` lists them all")
        return ARCHS[str(name)]
    path, table = _read_toml(name, level)
    base_name = table.pop("base", None)
    if base_name is None and not {"depths", "widths"} <= table.keys():
        raise invalid(f"base, or depths and widths, in {path}", ", ".join(table) or "no keys", 'base = "resnet50"')
    base = Arch("", "", (), ()) if base_name is None else find_arch(_base_of(path, base_name), level + 1)
    return override(base, _described(path, base.name) | table, kind=f"key of {path}, an axis,")


def find_recipe(name: str | Path, level: int = 0) -> Recipe:
    """Return the recipe of a name or a TOML file; keys may be shortened as in `--set` (`lr = 0.2`).

    A base is a name or a file, as in `find_arch`. Raises ValueError for an unknown name or key, with the nearest ones,
    and for a file that is none.
    """
    if not is_toml(name):
        if str(name) not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES, "`reslab recipes` lists all of them")
        return RECIPES[str(name)]
    path, table = _read_toml(name, level)
    base_name = table.pop("base", None)
    base = Recipe("", "") if base_name is None else find_recipe(_base_of(path, base_name), level + 1)
    values = _described(path, base.name) | _flatten(table)
    described = {key: str(values.pop(key)) for key in ("name", "reference", "notes") if key in values}
    return replace(override(base, expand_recipe_keys(values), kind=f"key of {path}"), **described)  # type: ignore[arg-type]


def _described(path: Path, base: str) -> dict[str, Any]:
    """Return the name and the reference of a file that gives none: its stem, and the file with its base."""
    return {"name": path.stem, "reference": f"{path.name}, from {base}" if base else path.name}


def _read_toml(name: str | Path, level: int) -> tuple[Path, dict[str, Any]]:
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


def _base_of(path: Path, base: Any) -> str | Path:
    if not isinstance(base, str):
        raise invalid(f"base in {path} as a name or a TOML file", repr(base), 'base = "resnet50"')
    return path.parent / base if is_toml(base) else base


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
