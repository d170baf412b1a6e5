"""The values that a user sets in a recipe or an architecture: --set, --config and flags, merged and checked.

`-c FILE` reads a TOML, YAML or JSON file with the keys of --set; `[optimizer]` with `lr = 0.2` is `optimizer.lr=0.2`.
Everything here is done without torch, so that a mistake is an error at once.
"""

import importlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from reslab.cli.options import Panel, complete_recipe
from reslab.spec.config import is_toml
from reslab.spec.errors import invalid
from reslab.spec.task import find_task

T = TypeVar("T")
R = TypeVar("R")

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        rich_help_panel=Panel.TRAINING,
        autocompletion=complete_recipe,
        help="Recipe name (`reslab recipes` lists them), or a TOML file.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        rich_help_panel=Panel.TRAINING,
        help="TOML, YAML or JSON file with the keys of --set, which takes precedence.",
    ),
]
TrainOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=Panel.TRAINING,
        help="Override a value of the recipe, or with model.KEY=VALUE of the architecture. Repeatable. "
        "`reslab recipes NAME` lists the keys; the last part of one is enough (lr, schedule=cosine).",
    ),
]
ModelOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=Panel.MODEL,
        help="Override a value of the architecture, such as model.order=full-preact. Repeatable.",
    ),
]

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
    config: Mapping[str, Any], overrides: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Merge --set over the config file. Keys of the file that one of the `flags` sets are dropped: the flag wins.

    `flags` are by key of the recipe, None if not given. Keys may be shortened: see `expand_recipe_keys`. Raises
    ValueError if a key is the name of an option.
    """
    for key in (*config, *overrides):
        if key.replace("-", "_") in _OPTION_NAMES:
            raise invalid("a key of the recipe or the network", key, nearest=f"the option --{key.replace('_', '-')}")
    from reslab.spec.recipe import expand_recipe_keys  # not needed by the commands that only look something up

    config, overrides = expand_recipe_keys(config), expand_recipe_keys(overrides)
    file_overrides = {key: value for key, value in config.items() if (flags or {}).get(key) is None}
    return {**file_overrides, **overrides}


def require_model_and_recipe(model: str | None, recipe: str | None, task: str | None = None) -> None:
    """Raise ValueError for an unknown model or recipe, before anything is imported that takes time.

    The error for an unknown model names the nearest ones for the task. Networks of libraries and factories are found
    by the libraries themselves, and so later.
    """
    from reslab.spec.recipes import find_recipe
    from reslab.spec.zoo.dense import find_dense_arch, require_model
    from reslab.spec.zoo.resolve import get_arch

    if task is not None:
        find_task(task)
    if model is not None and not _is_outside_zoo(model):
        require_model(model, task)
        if find_dense_arch(model) is None:
            get_arch(model)
    if recipe is not None:
        find_recipe(recipe)


def _is_outside_zoo(model: str) -> bool:
    """Return True for a library's network that the zoo lacks (`timm/NAME`) and a factory (`package.module:NAME`)."""
    from reslab.spec.zoo.dense import find_dense_arch
    from reslab.spec.zoo.resolve import find_model_name

    is_form = ("/" in model or ":" in model) and not is_toml(model)
    return is_form and find_dense_arch(model) is None and find_model_name(model) is None


# One of them is trained if the user names none: see `default_model`.
DEFAULT_MODELS = (
    "resnet20_cifar",
    "resnet18",
    "unet_resnet20_cifar",
    "unet_resnet18",
    "fasterrcnn_resnet18_fpn_320",
)


def check_overrides(overrides: Mapping[str, Any], model: str | None, recipe: str | None) -> None:
    """Raise ValueError for a value of `--set` that no training could use, before torch is imported.

    Where the user names no recipe or model, the data decide which one it is: then a value is wrong if it suits none.
    """
    from reslab.spec.recipe import apply_recipe_overrides
    from reslab.spec.recipes import RECIPES, find_recipe

    arch_overrides, recipe_overrides = split_model_prefix(overrides)
    recipes = RECIPES.values() if recipe is None else (find_recipe(recipe),)
    used, _ = _first_valid(recipes, lambda base: apply_recipe_overrides(base, recipe_overrides))
    model = model or used.model
    if not model or not _is_outside_zoo(model):
        _first_valid((model,) if model else DEFAULT_MODELS, lambda name: _check_arch_overrides(name, arch_overrides))


def _check_arch_overrides(model: str, overrides: Mapping[str, Any]) -> None:
    from reslab.spec.layout import layout_stages
    from reslab.spec.zoo.dense import find_dense_arch, has_dense_axes, override_dense_arch
    from reslab.spec.zoo.resolve import resolve_arch

    dense_arch = find_dense_arch(model)
    if dense_arch is not None:
        layout_stages(override_dense_arch(dense_arch, overrides).backbone)
    elif not has_dense_axes(overrides):  # of a head that this network gets for another task
        layout_stages(resolve_arch(model, overrides))


def _first_valid(candidates: Iterable[T], check: Callable[[T], R]) -> R:
    """Return the result of the check for the first candidate that passes; raise the error of the first if none does."""
    errors: list[ValueError] = []
    for candidate in candidates:
        try:
            return check(candidate)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def parse_overrides(overrides: Sequence[str] | None) -> dict[str, str]:
    """Return `["model.merge=none", "optimizer.lr=0.2"]` as a dictionary.

    Raises ValueError if the `=` or the key is missing, or a key is given twice.
    """
    parsed: dict[str, str] = {}
    for override in overrides or ():
        key, separator, value = (part.strip() for part in override.partition("="))
        if not separator or not key.removeprefix("model."):
            raise invalid("--set KEY=VALUE", override, "--set optimizer.lr=0.2 or --set model.order=full-preact")
        if key in parsed:
            raise invalid(f"each key once in --set, {key} came twice", override, next_step="leave one of them out")
        parsed[key] = value
    return parsed


def parse_model_overrides(overrides: Sequence[str] | None) -> dict[str, str]:
    """Return overrides that are all `model.KEY`, without the prefix; raise ValueError for any other key."""
    arch_overrides, other_overrides = split_model_prefix(parse_overrides(overrides))
    for key, value in other_overrides.items():
        raise invalid("an architecture key model.KEY", f"--set {key}={value}", f"--set model.{key}={value}")
    return arch_overrides


def split_model_prefix(overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split overrides into those of the architecture (`model.KEY`, without the prefix) and all others."""
    arch_overrides = {key.removeprefix("model."): value for key, value in overrides.items() if key.startswith("model.")}
    return arch_overrides, {key: value for key, value in overrides.items() if not key.startswith("model.")}
