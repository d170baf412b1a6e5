"""A run: its record (run.json), the files in its folder, and its network."""

import contextlib
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reslab.runtime.files import (
    DiskFullError,
    parse_object,
    require_strings,
    require_types,
    with_checksum,
    without_checksum,
    write_atomic,
)
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, to_dict
from reslab.spec.dense import DenseArch, check_arch_size
from reslab.spec.errors import invalid
from reslab.spec.plugins import check_plugins, required_plugins
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe
from reslab.spec.task import Task, find_task
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import arch_from_dict
from reslab.training.run_folder import RunLog, list_snapshots, lock_run, require_empty_dir, unwritable

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
        """Create a run in `path`, a new or empty folder. Raises ValueError, and changes nothing, if it is neither.

        Leftovers of a process that died before writing run.json are ignored.
        """
        path = Path(path)
        require_empty_dir(path)
        try:
            with lock_run(path):
                require_empty_dir(path)  # another process may have created a run in the meantime
                write_atomic(path / "run.json", _to_json(_with_plugins(metadata)))
        except DiskFullError:
            raise
        except OSError as error:
            raise unwritable(path, error.strerror or str(error)) from error
        return cls(path)

    def update(self, **values: Any) -> None:
        """Set values in run.json and keep the others."""
        self.metadata = _with_plugins({**self.metadata, **values})
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
    def arch(self) -> Arch | DenseArch | None:
        """The architecture; None if the run trained a user's own module."""
        fields = self.metadata["model"]["arch"]
        if fields is None:
            return None
        arch = arch_from_dict(fields, self.metadata["model"].get("kind"))
        check_arch_size(arch, self.path / "run.json")
        return arch

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
        """The metrics of the final weights on the evaluation split, their selection, speed; None before the end.

        `val_metrics` are those on the validation split, None without one: choose settings by them.
        """
        return self.metadata.get("result")

    @property
    def task(self) -> Task:
        """The task that the run was trained for. Raises ValueError for one whose plugin is not loaded."""
        return find_task(self.metadata["task"]["name"])

    @property
    def main_metric(self) -> float | None:
        """The task's selection metric of the final weights on the evaluation split; None before the end."""
        return None if self.result is None else self.result.get(self.task.selection_metric.name)

    def __repr__(self) -> str:
        model, data = self.metadata["model"]["name"], self.metadata["data"]["name"]
        status = "not finished"
        if self.main_metric is not None:
            status = f"{self.task.selection_metric.name} {self.main_metric:.4f}"
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
        "task": run.metadata["task"],
        "kind": run.metadata["model"].get("kind"),
        **({"module": run.metadata["model"]} if run.metadata["model"]["arch"] is None else {}),
    }


def _format_value(value: Any) -> str:
    return ",".join(map(_format_value, value)) if isinstance(value, list) else str(value)


def _with_plugins(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata with the plugins that its network, recipe, preprocessing and task need, if any."""
    data, task = metadata["data"], metadata["task"]["name"]
    plugins = required_plugins(metadata["model"]["arch"], metadata["recipe"], data["preprocess"], task)
    return {**metadata, "plugins": plugins} if plugins else dict(metadata)


def _to_json(metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps(with_checksum(metadata), indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", errors="surrogateescape")


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
    fields = parse_object(file.read_bytes().decode("utf-8", errors="surrogateescape"), file)
    if not {"model", "recipe", "data"} <= fields.keys():
        raise invalid("a run.json with model, recipe and data", str(file), next_step="it may belong to another program")
    _check_metadata(fields, file)
    return without_checksum(fields, file, "restore it from a copy, or train again")


_NONE = type(None)
_METADATA_TYPES: dict[str, tuple[type, ...]] = {
    "model.name": (str,),
    "model.reference": (str,),
    "model.arch": (dict, _NONE),
    "recipe": (dict,),
    "data.name": (str,),
    "data.requested": (str, _NONE),
    "data.data_dir": (str, _NONE),
    "data.classes": (list,),
    "data.num_images": (dict,),
    "data.eval_split": (str,),
    "data.preprocess": (dict,),
    "data.split_record": (dict,),
    "data.fingerprint": (str,),
    "data.skipped_files": (list,),
    "seed": (int,),
    "val_fraction": (int, float, _NONE),
    "pretrained": (str, _NONE),
    "loss": (str, _NONE),
    "task": (dict,),
    "task.name": (str,),
}
_OPTIONAL_TYPES: dict[str, tuple[type, ...]] = {
    "result": (dict, _NONE),
    "snapshot_every": (str,),
    "grad_accumulation": (str, dict, _NONE),
    "world_size": (int,),
    "workers": (int,),
    "resume_commands": (list,),
    "temperature": (dict, _NONE),
    "plugins": (dict,),
}
_RESULT_TYPES: dict[str, tuple[type, ...]] = {"result.num_samples": (int,), "result.loss": (int, float, _NONE)}


def _check_metadata(fields: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError, naming the key, if a key is missing or of a wrong type, or a network is invalid."""
    optional = {key: types for key, types in _OPTIONAL_TYPES.items() if key in fields}
    if isinstance(fields["model"], dict) and "kind" in fields["model"]:
        optional["model.kind"] = (str,)
    require_types(fields, _METADATA_TYPES | optional, file)
    if fields.get("result") is not None:
        require_types(fields, _RESULT_TYPES, file)
    require_strings(fields["data"]["classes"], "data.classes", file)
    check_plugins(fields.get("plugins"), file)
    kind = fields["model"].get("kind")
    values: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "model.arch": (lambda value: arch_from_dict(value, kind), fields["model"]["arch"]),
        "recipe": (lambda value: from_dict(Recipe, value), fields["recipe"]),
        "data.preprocess": (lambda value: from_dict(Preprocess, value), fields["data"]["preprocess"]),
    }
    for key, (read, value) in values.items():
        try:
            if value is not None:
                read(value)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise invalid(f"a valid {key}", f"{file}: {error}") from None


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """Return the runs in `folder` and in its subfolders (`seed0`, `seed1`), sorted by name; others are skipped."""
    return find_runs(folder)[0]


def find_runs(folder: str | Path) -> tuple[list[Run], list[ValueError]]:
    """Return the runs that `list_runs` returns, and for each broken run.json the error that names it."""
    runs, errors = [], []
    for path in _subfolders(Path(folder)):
        is_run = (path / "run.json").is_file()
        for run_path in [path] if is_run else [inner for inner in _subfolders(path) if (inner / "run.json").is_file()]:
            try:
                runs.append(Run(run_path))
            except ValueError as error:
                errors.append(error)
    return runs, errors


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, `seed2` before `seed10`; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural_key)


def _natural_key(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)  # every second part is a number
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
