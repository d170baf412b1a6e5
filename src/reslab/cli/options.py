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

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, and nothing else there.")]
DataArgument = Annotated[str | None, typer.Argument(metavar="[DATA]", help="The same as --data.")]
DataName = Annotated[
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
Batch = Annotated[int | None, typer.Option("-b", "--batch-size", min=1, help="Images a step.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one value (repeatable): model.KEY the network's, KEY the recipe's."
    ),
]
SettingsFile = Annotated[
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


def one_data_set(folder: str | None, data: str | None) -> str | None:
    """The data set, named as the argument or by `--data`; ValueError where both are given and differ."""
    if folder is not None and data is not None and folder != data:
        raise invalid("one data set", f"{folder} and --data {data}", next_step="leave one of them out")
    return data or folder


def read_settings(settings: Sequence[str] | None) -> dict[str, str]:
    """`["model.merge=none", "optimizer.lr=0.2"]` as a dictionary.

    Raises ValueError where the `=` or the key is missing, or a key is given twice.
    """
    found: dict[str, str] = {}
    for setting in settings or ():
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key.removeprefix("model."):
            raise invalid("--set KEY=VALUE", setting, "--set optimizer.lr=0.2 or --set model.order=full-preact")
        if key in found:
            raise invalid(f"each key once in --set, {key} came twice", setting, next_step="leave one of them out")
        found[key] = value
    return found


def read_pretrained(text: str | None) -> bool | str | None:
    """`--pretrained` as the functions take it: `true` is the published weights, `false` none, else a file or tag."""
    return {"true": True, "false": False}.get((text or "").lower(), text)


def read_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """`0.5,0.5,0.5` as numbers; ValueError naming the option where they are none."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise invalid(f"{option} as numbers, one a channel", repr(text), f"{option} 0.49 0.48 0.45") from None


def gather_numbers(words: Sequence[str], options: Sequence[str] = ("--mean", "--std")) -> list[str]:
    """The command line with `--mean 0.1 0.2 0.3` written as `--mean 0.1,0.2,0.3`, one value as the parser wants it."""
    found: list[str] = []
    collecting = False
    for word in words:
        if collecting and _is_number(word) and _is_number(found[-1].rpartition(",")[2]):
            found[-1] += f",{word}"
            continue
        collecting = word in options or (collecting and _is_number(word))
        found.append(word)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


KINDS = (".toml", ".yaml", ".yml")


def read_settings_file(path: Path | None) -> dict[str, Any]:
    """`[optimizer]` with `lr = 0.2` as `{"optimizer.lr": 0.2}`; empty where there is no file.

    Raises ValueError where the file is not there, is of another kind, cannot be read, or holds no table.
    """
    if path is None:
        return {}
    if path.suffix.lower() not in KINDS:
        raise invalid("a settings file ending in .toml, .yaml or .yml", str(path), nearest=f"{path.stem}.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("a settings file that can be read", f"{path} ({error})") from None
    found = _toml(text, path) if path.suffix.lower() == ".toml" else _yaml(text, path)
    if not isinstance(found, Mapping):
        raise invalid(f"keys and their values in {path}", f"a {type(found).__name__}", nearest="optimizer: {lr: 0.2}")
    return flat(found, path)


def _toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid("a TOML file", f"{path}: {error}", nearest='augment = "pad(4) crop(32) flip"') from None


def _yaml(text: str, path: Path) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        advice = "pip install 'reslab[yaml]', or write the file as TOML"
        raise invalid(f"PyYAML to read {path.name}", "none installed", next_step=advice) from None
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise invalid("a YAML file", f"{path}: {' '.join(str(error).split())}") from None
    return {} if found is None else found


def flat(table: Mapping[Any, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted keys; ValueError for a key that comes twice, as a table and with a dot."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        inner = flat(value, path, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        for key in inner:
            if key in found:
                raise invalid(f"each key once in {path}", f"{key} twice", next_step="leave one of them out")
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
    flags = {"duration": epochs, "batch_size": batch, "optimizer.lr": lr, **others}
    kept = {key: value for key, value in file.items() if flags.get(key) is None}
    return {**kept, **said}
