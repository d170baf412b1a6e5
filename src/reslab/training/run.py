"""A run: its folder (run.json, log.jsonl, model.safetensors, predictions.npz, checkpoint/, report.html) and network."""

import contextlib
import html
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from reslab.nn.factory import load_network
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.runtime.files import disk_full_guard, write_atomic
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, to_dict
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.zoo import ARCHS
from reslab.training.checkpoint import list_snapshots


class RunLog:
    """log.jsonl: one JSON object a line. A last line that a crash cut short is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Append a record. Raises DiskFullError, and ValueError if a number is not finite."""
        line = json.dumps(record, allow_nan=False)
        with disk_full_guard(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def records(self) -> list[dict[str, Any]]:
        """Return every complete record, in order; empty if there is no file."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def truncate(self, step: int) -> None:
        """Remove the records after `step`, and an incomplete last line."""
        lines = [json.dumps(record) + "\n" for record in self.records() if record["step"] <= step]
        write_atomic(self.path, "".join(lines).encode())


# What identifies the network, and what follows from the data.
_NON_OVERRIDE_FIELDS = ("name", "reference", "num_classes", "in_channels", "image_size")


class Run:
    """The folder of one training run; `metadata` is run.json: network, recipe, data, split, seed, versions, command.

    Raises ValueError if `path` is not the folder of a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata = _read_metadata(self.path)
        self.log = RunLog(self.path / "log.jsonl")

    @classmethod
    def create(cls, path: str | Path, metadata: Mapping[str, Any]) -> "Run":
        """Create a run in `path`, a new or empty folder. Raises ValueError, and changes nothing, if it is neither."""
        path = Path(path)
        require_empty_dir(path)
        write_atomic(path / "run.json", _to_json(metadata))
        return cls(path)

    def update(self, **values: Any) -> None:
        """Set values in run.json and keep the others."""
        self.metadata = {**self.metadata, **values}
        write_atomic(self.path / "run.json", _to_json(self.metadata))

    def discard(self) -> None:
        """Delete a run that has only run.json."""
        (self.path / "run.json").unlink()
        with contextlib.suppress(OSError):  # other files were put there
            self.path.rmdir()

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def weights_path(self) -> Path:
        """The file of the final weights, which exists once the run has ended."""
        return self.path / "model.safetensors"

    @property
    def predictions_path(self) -> Path:
        """The file of the predicted classes on the evaluation split, which exists once the run has ended."""
        return self.path / "predictions.npz"

    @property
    def report_path(self) -> Path:
        """The file of the report, which exists once the run has ended."""
        return self.path / "report.html"

    def snapshots(self) -> list[tuple[int, Path]]:
        """Return the snapshots of the weights as (step, file); `load_network` reads the files."""
        return list_snapshots(self.path)

    @property
    def model_spec(self) -> str:
        """The network's name with the axes that differ from the zoo's: `resnet20_cifar:order=full-preact:merge=none`.

        Axes that follow from the data are left out: classes, channels, image size.
        """
        name, arch = self.metadata["model"]["name"], self.metadata["model"]["arch"]
        if arch is None or name not in ARCHS:
            return str(name)
        defaults = to_dict(ARCHS[name])
        changed = {
            key: value for key, value in arch.items() if key not in _NON_OVERRIDE_FIELDS and value != defaults.get(key)
        }
        return ":".join([name, *(f"{key}={_format_value(value)}" for key, value in changed.items())])

    @property
    def arch(self) -> Arch | None:
        """The architecture; None if the run trained a user's own module."""
        fields = self.metadata["model"]["arch"]
        return None if fields is None else from_dict(Arch, fields)

    @property
    def recipe(self) -> Recipe:
        """The recipe with all overrides applied."""
        return from_dict(Recipe, self.metadata["recipe"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the outputs."""
        return tuple(self.metadata["data"]["classes"])

    @property
    def result(self) -> dict[str, Any] | None:
        """The metrics of the final weights on the evaluation split, their selection, speed; None before the end."""
        return self.metadata.get("result")

    @property
    def top1(self) -> float | None:
        """The accuracy of the final weights on the evaluation split, a fraction; None before the end."""
        return None if self.result is None else self.result["top1"]

    def __repr__(self) -> str:
        model, data = self.metadata["model"]["name"], self.metadata["data"]["name"]
        status = "not finished" if self.top1 is None else f"top1 {self.top1:.4f}"
        return f"Run({str(self.path)!r}: {model} on {data}, {status})"

    def _repr_html_(self) -> str:
        """Return the report in a frame, for notebooks."""
        if not self.report_path.exists():
            return f"<p>{html.escape(repr(self))}</p>"
        page = html.escape(self.report_path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:0"></iframe>'


def weights_header(run: Run) -> dict[str, Any]:
    """Return what the header of a weights file records of its run, besides the metrics."""
    data = run.metadata["data"]
    return {
        "data": data["name"],
        "recipe": run.metadata["recipe"]["name"],
        "seed": run.metadata["seed"],
        "classes": list(data["classes"]),
        "preprocess": data["preprocess"],
    }


def _format_value(value: Any) -> str:
    return ",".join(map(_format_value, value)) if isinstance(value, list) else str(value)


def _to_json(metadata: Mapping[str, Any]) -> bytes:
    return (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode()


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        description = "a folder without run.json" if path.is_dir() else "a file" if path.exists() else "nothing there"
        nearby_runs = ", ".join(str(run.path) for run in list_runs(path)[:3]) if path.is_dir() else ""
        raise invalid(
            "the folder of a run",
            f"{path} ({description})",
            nearest=nearby_runs,
            next_step="`reslab runs` lists the runs",
        )
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise invalid("a readable run.json", f"{file}: {error}") from error
    if not isinstance(metadata, dict) or not {"model", "recipe", "data"} <= metadata.keys():
        raise invalid("a run.json with model, recipe and data", str(file), next_step="it may belong to another program")
    return metadata


def is_non_empty(path: Path) -> bool:
    """Return True if `path` exists and is not an empty folder."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def require_empty_dir(path: Path) -> None:
    """Raise ValueError if `path` exists and is not an empty folder."""
    if not is_non_empty(path):
        return
    if (path / "run.json").is_file():
        raise invalid(
            "a new or empty output folder",
            f"{path}, which contains a run",
            next_step="add --resume to continue it, or choose another --output",
        )
    raise invalid(
        "a new or empty output folder", f"{path}, which contains other files", next_step="choose another --output"
    )


def make_run_path(model: str, data: str, parent: Path = Path("runs")) -> Path:
    """Return an unused path `runs/<time>-<model>-<data>`."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{make_slug(model)}-{make_slug(data)}"
    names: Iterable[str] = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
    return next(parent / name for name in names if not (parent / name).exists())


def make_slug(name: str) -> str:
    """Return a name as part of a file name: letters, digits, `.` and `_`, anything else as a dash."""
    return (
        "".join(character if character.isalnum() or character in "._" else "-" for character in name).strip("-")
        or "run"
    )


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """Return the runs in `folder` and in its subfolders (`seed0`, `seed1`), sorted by name; others are skipped."""
    runs = []
    for path in _subfolders(Path(folder)):
        is_run = (path / "run.json").is_file()
        for run_path in [path] if is_run else [inner for inner in _subfolders(path) if (inner / "run.json").is_file()]:
            with contextlib.suppress(ValueError):
                runs.append(Run(run_path))
    return runs


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, `seed2` before `seed10`; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural_key)


def _natural_key(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)  # every second part is a number
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def load(source: Run | str | Path, device: str | torch.device = "cpu") -> ResidualNetwork:
    """Load the network of a run, of a `model.safetensors`, or of an exported folder, in eval mode.

    It has `classes` and `preprocess`. Raises ValueError if the run has not ended, or trained a user's own module.
    """
    torch_device = choose_device(device)
    return load_network(find_weights_path(source), torch_device)


def find_weights_path(source: Run | str | Path) -> Path:
    """Return the weights file of a run or an exported folder, or the file itself. Raises like `run_weights_path`."""
    if isinstance(source, Run):
        return run_weights_path(source)
    folder = Path(source)
    exported_path = folder / "model.safetensors"
    if folder.is_dir() and not (folder / "run.json").exists() and exported_path.is_file():
        return exported_path
    return run_weights_path(Run(folder)) if folder.is_dir() else folder


def run_weights_path(run: Run) -> Path:
    """Return the file of a run's final weights. Raises ValueError if the run has not ended."""
    if not run.weights_path.exists():
        raise invalid(
            "a run that has ended",
            f"{run.path}, which has no weights yet",
            next_step=f"resume it: --output {run.path} --resume",
        )
    return run.weights_path
