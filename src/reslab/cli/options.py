"""The options that several verbs share, named as other tools name them.

`-c FILE`: settings from a TOML or YAML file, with the keys of --set; tables are their dots.
"""

import importlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reslab.spec.errors import invalid

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on standard output, and nothing else there.")
]
DataArgument = Annotated[str | None, typer.Argument(metavar="[DATA]", help="The same as --data.")]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="NAME|FOLDER", help="A data set, or a folder of class folders.")
]
RecipeName = Annotated[str | None, typer.Option("--recipe", metavar="NAME", help="`reslab recipes` lists them.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the data set lies, or is to be kept.")
]
Device = Annotated[str, typer.Option("--device", help="auto (cuda, mps, cpu: the first there is), or one by name.")]
Workers = Annotated[
    int | None, typer.Option("-j", "--workers", min=0, help="Processes that decode pictures. (default: chosen)")
]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", min=1, help="Images a step.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one value (repeatable): model.KEY the network's, KEY the recipe's."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", metavar="FILE", help="Settings from a TOML or YAML file, with the keys of --set, which wins."
    ),
]
ValFraction = Annotated[
    float | None, typer.Option("--val-fraction", metavar="P", help="Split this part off for validation, stratified.")
]
NumImages = Annotated[
    int | None,
    typer.Option("--num-images", metavar="N", min=2, help="Train on so many of the pictures, a share of each class."),
]
SkipBadImages = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read, and list them.")
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="NAME", help="`reslab models` lists them.")]
Pretrained = Annotated[
    str | None,
    typer.Option("--pretrained", metavar="FILE|TAG", help="Weights to start from: a file, or a published tag."),
]


def resolve_data_option(argument: str | None, data: str | None) -> str | None:
    """The data set, named as the argument or by `--data`; ValueError where both are given and differ."""
    if argument is not None and data is not None and argument != data:
        raise invalid("one data set", f"{argument} and --data {data}", next_step="leave one of them out")
    return data or argument


def parse_overrides(overrides: Sequence[str] | None) -> dict[str, str]:
    """`["model.merge=none", "optimizer.lr=0.2"]` as a dictionary.

    Raises ValueError where the `=` or the key is missing, or a key is given twice.
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


def parse_pretrained(text: str | None) -> bool | str | None:
    """`--pretrained` as the functions take it: `true` is the published weights, `false` none, else a file or tag."""
    return {"true": True, "false": False}.get((text or "").lower(), text)


def parse_channel_values(text: str | None, option: str) -> tuple[float, ...] | None:
    """`0.5,0.5,0.5` as numbers; ValueError naming the option where they are none."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise invalid(f"{option} as numbers, one a channel", repr(text), f"{option} 0.49 0.48 0.45") from None


def join_channel_values(arguments: Sequence[str], options: Sequence[str] = ("--mean", "--std")) -> list[str]:
    """The command line with `--mean 0.1 0.2 0.3` written as `--mean 0.1,0.2,0.3`, one value as the parser wants it."""
    joined: list[str] = []
    is_collecting = False
    for argument in arguments:
        if is_collecting and _is_number(argument) and _is_number(joined[-1].rpartition(",")[2]):
            joined[-1] += f",{argument}"
            continue
        is_collecting = argument in options or (is_collecting and _is_number(argument))
        joined.append(argument)
    return joined


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


CONFIG_SUFFIXES = (".toml", ".yaml", ".yml")


def read_config_file(path: Path | None) -> dict[str, Any]:
    """`[optimizer]` with `lr = 0.2` as `{"optimizer.lr": 0.2}`; empty where there is no file.

    Raises ValueError where the file is not there, is of another kind, cannot be read, or holds no table.
    """
    if path is None:
        return {}
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise invalid("a settings file ending in .toml, .yaml or .yml", str(path), nearest=f"{path.stem}.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("a settings file that can be read", f"{path} ({error})") from None
    config = _parse_toml(text, path) if path.suffix.lower() == ".toml" else _parse_yaml(text, path)
    if not isinstance(config, Mapping):
        raise invalid(f"keys and their values in {path}", f"a {type(config).__name__}", nearest="optimizer: {lr: 0.2}")
    return flatten_table(config, path)


def _parse_toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid("a TOML file", f"{path}: {error}", nearest='augment = "pad(4) crop(32) flip"') from None


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        next_step = "pip install 'reslab[yaml]', or write the file as TOML"
        raise invalid(f"PyYAML to read {path.name}", "none installed", next_step=next_step) from None
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise invalid("a YAML file", f"{path}: {' '.join(str(error).split())}") from None
    return {} if parsed is None else parsed


def flatten_table(table: Mapping[Any, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted keys; ValueError for a key that comes twice, as a table and with a dot."""
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


def merge_config(
    config: Mapping[str, Any],
    overrides: Mapping[str, str],
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    **other_flags: Any,
) -> dict[str, Any]:
    """The settings of --set over those of the file; what a flag says leaves the file's word for it out."""
    flags = {"duration": epochs, "batch_size": batch_size, "optimizer.lr": lr, **other_flags}
    file_overrides = {key: value for key, value in config.items() if flags.get(key) is None}
    return {**file_overrides, **overrides}
