"""`-c FILE`: settings from a TOML or YAML file, with the keys of --set; tables are their dots."""

import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslab.spec.errors import refuse

KINDS = (".toml", ".yaml", ".yml")


def read_settings_file(path: Path | None) -> dict[str, Any]:
    """`[optimizer]` with `lr = 0.2` as `{"optimizer.lr": 0.2}`; empty where there is no file.

    Raises ValueError where the file is not there, is of another kind, cannot be read, or holds no table.
    """
    if path is None:
        return {}
    if path.suffix.lower() not in KINDS:
        raise refuse("a settings file ending in .toml, .yaml or .yml", str(path), nearest=f"{path.stem}.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse("a settings file that can be read", f"{path} ({error})") from None
    found = _toml(text, path) if path.suffix.lower() == ".toml" else _yaml(text, path)
    if not isinstance(found, Mapping):
        raise refuse(f"keys and their values in {path}", f"a {type(found).__name__}", nearest="optimizer: {lr: 0.2}")
    return flat(found, path)


def _toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse("a TOML file", f"{path}: {error}", nearest='augment = "pad(4) crop(32) flip"') from None


def _yaml(text: str, path: Path) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        advice = "pip install 'reslab[yaml]', or write the file as TOML"
        raise refuse(f"PyYAML to read {path.name}", "none installed", next_step=advice) from None
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise refuse("a YAML file", f"{path}: {' '.join(str(error).split())}") from None
    return {} if found is None else found


def flat(table: Mapping[Any, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted keys; ValueError for a key that comes twice, as a table and with a dot."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        inner = flat(value, path, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        for key in inner:
            if key in found:
                raise refuse(f"each key once in {path}", f"{key} twice", next_step="leave one of them out")
        found |= inner
    return found


def merged(
    file: Mapping[str, Any],
    said: Mapping[str, str],
    epochs: float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The settings of --set over those of the file; what a flag says leaves the file's word for it out."""
    flags = {"length": epochs, "batch": batch, "optimizer.lr": lr, **others}
    kept = {key: value for key, value in file.items() if flags.get(key) is None}
    return {**kept, **said}
