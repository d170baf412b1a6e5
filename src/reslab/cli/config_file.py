"""The file of `--config`: TOML, YAML or JSON, merged with the options of the command line."""

import importlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid

CONFIG_SUFFIXES = (".toml", ".yaml", ".yml", ".json")


_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_config_file(path: Path | None) -> dict[str, Any]:
    """Read a config file; `[optimizer]` with `lr = 0.2` becomes `{"optimizer.lr": 0.2}`. Without a path: empty.

    Raises ValueError if the file is missing, unreadable, of another type, or not a table.
    """
    if path is None:
        return {}
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise invalid("a config file ending in .toml, .yaml, .yml or .json", str(path), nearest=f"{path.stem}.toml")
    try:
        content = path.read_bytes()
        # Windows editors and shells begin a file with a byte order mark, or write it as UTF-16.
        text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("a readable config file", f"{path} ({error})") from None
    parse = {".toml": _parse_toml, ".json": _parse_json}.get(path.suffix.lower(), _parse_yaml)
    config = parse(text, path)
    if not isinstance(config, Mapping):
        raise invalid(f"keys and their values in {path}", f"a {type(config).__name__}", nearest="optimizer: {lr: 0.2}")
    return flatten_table(config, path)


def _parse_toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid("a TOML file", f"{path}: {error}", nearest='train_transform = "pad(4) crop(32) flip"') from None


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise invalid("a JSON file", f"{path}: {error}", nearest='{"optimizer.lr": 0.2}') from None


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        next_step = "pip install 'reslab[yaml]', or write the file as TOML"
        raise invalid(f"PyYAML to read {path.name}", "PyYAML is not installed", next_step=next_step) from None
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise invalid("a YAML file", f"{path}: {' '.join(str(error).split())}") from None
    return {} if parsed is None else parsed


def flatten_table(table: Mapping[Any, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys; raise ValueError for a key given both as a table and with a dot."""
    flattened: dict[str, Any] = {}
    for name, value in table.items():
        entries = (
            flatten_table(value, path, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
        for key in entries:
            if key in flattened:
                raise invalid(f"each key once in {path}", f"{key} twice", next_step="leave one of them out")
        flattened |= entries
    return flattened


_OPTION_NAMES = ("seed", "output", "device", "workers", "num_images", "data_dir", "skip_bad_images", "save_every")


def merge_config(
    config: Mapping[str, Any],
    overrides: Mapping[str, str],
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    **other_flags: Any,
) -> dict[str, Any]:
    """Merge --set over the config file. Keys of the file that a flag sets are dropped, so that the flag wins.

    Keys may be shortened: see `expand_recipe_keys`. Raises ValueError if a key is the name of an option.
    """
    for key in (*config, *overrides):
        if key.replace("-", "_") in _OPTION_NAMES:
            raise invalid("a key of the recipe or the network", key, nearest=f"the option --{key.replace('_', '-')}")
    from reslab.spec.recipe import expand_recipe_keys  # not needed by the commands that only look something up

    config, overrides = expand_recipe_keys(config), expand_recipe_keys(overrides)
    flags = {"duration": epochs, "batch_size": batch_size, "optimizer.lr": lr, **other_flags}
    file_overrides = {key: value for key, value in config.items() if flags.get(key) is None}
    return {**file_overrides, **overrides}
