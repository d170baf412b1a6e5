"""A run is a folder: run.json, log.jsonl, model.safetensors, state/, report.html.

log.jsonl: one JSON object a line, written as it happens.

A trained network, ready to use.
"""

import contextlib
import html
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from reslab.nn.checkpoints.safetensors_io import load_weights
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import choose_device
from reslab.runtime.files import room_for, write_whole
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, to_dict
from reslab.spec.errors import invalid
from reslab.spec.recipe import Recipe
from reslab.spec.zoo import ARCHS
from reslab.training.checkpoint import list_snapshots


class Log:
    """The lines of a run. A line that a crash cut short is not a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Write one line at the end. Raises DiskFull without room, ValueError where a number is not finite."""
        text = json.dumps(line, allow_nan=False)
        with room_for(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line, in order; empty where there is no file."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return found

    def cut(self, step: int) -> None:
        """Forget what was written after `step`, and a torn last line."""
        kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        write_whole(self.path, "".join(kept).encode())


# Who the network is, and what follows from the data.
_NO_AXES = ("name", "reference", "num_classes", "in_channels", "image_size")


class Run:
    """The folder of one training run; `facts` is run.json: network, recipe, data, split, seed, and where it came from.

    Raises ValueError where `path` is not the folder of a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.facts = _read_facts(self.path)
        self.log = Log(self.path / "log.jsonl")

    @classmethod
    def create(cls, path: str | Path, facts: Mapping[str, Any]) -> "Run":
        """Begin a run in `path`, a new or empty folder. Raises ValueError, and touches nothing, where it is neither."""
        path = Path(path)
        refuse_occupied(path)
        write_whole(path / "run.json", _json(facts))
        return cls(path)

    def update(self, **facts: Any) -> None:
        """Write more facts into run.json, the others kept."""
        self.facts = {**self.facts, **facts}
        write_whole(self.path / "run.json", _json(self.facts))

    def discard(self) -> None:
        """Take back a run that has only begun."""
        (self.path / "run.json").unlink()
        with contextlib.suppress(OSError):  # where something else was put there
            self.path.rmdir()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def weights_path(self) -> Path:
        """Where the weights are, once the run has ended."""
        return self.path / "model.safetensors"

    @property
    def report_path(self) -> Path:
        """Where the report is, once the run has ended."""
        return self.path / "report.html"

    def snapshots(self) -> list[tuple[int, Path]]:
        """The weights that were kept along the way: after how many steps, and the file (`load_weights` reads it)."""
        return list_snapshots(self.path)

    @property
    def network(self) -> str:
        """The network's name with the axes that differ from the zoo's: `resnet20_cifar:order=full-preact:merge=none`.

        Not those that follow from the data: classes, channels, size of the pictures.
        """
        name, arch = self.facts["model"]["name"], self.facts["model"]["arch"]
        if arch is None or name not in ARCHS:
            return str(name)
        own = to_dict(ARCHS[name])
        changed = {key: value for key, value in arch.items() if key not in _NO_AXES and value != own.get(key)}
        return ":".join([name, *(f"{key}={_axis(value)}" for key, value in changed.items())])

    @property
    def arch(self) -> Arch | None:
        """The network as data; None where the run trained a module of the user's own."""
        found = self.facts["model"]["arch"]
        return None if found is None else from_dict(Arch, found)

    @property
    def recipe(self) -> Recipe:
        """The training procedure, as it was carried out."""
        return from_dict(Recipe, self.facts["recipe"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs."""
        return tuple(self.facts["data"]["classes"])

    @property
    def result(self) -> dict[str, Any] | None:
        """Scores of the saved weights on the held-out split, how they were chosen, speed; None before the end."""
        return self.facts.get("result")

    @property
    def top1(self) -> float | None:
        """The accuracy of the saved weights on the held-out split, a fraction; None before the end."""
        return None if self.result is None else self.result["top1"]

    def __repr__(self) -> str:
        model, data = self.facts["model"]["name"], self.facts["data"]["name"]
        end = "not finished" if self.top1 is None else f"top1 {self.top1:.4f}"
        return f"Run({str(self.path)!r}: {model} on {data}, {end})"

    def _repr_html_(self) -> str:
        """The report, shown in a notebook in a frame of its own."""
        if not self.report_path.exists():
            return f"<p>{html.escape(repr(self))}</p>"
        page = html.escape(self.report_path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:0"></iframe>'


def header_facts(run: Run) -> dict[str, Any]:
    """What a file of weights tells of its run in its header, beside its scores."""
    data = run.facts["data"]
    return {
        "data": data["name"],
        "recipe": run.facts["recipe"]["name"],
        "seed": run.facts["seed"],
        "classes": list(data["classes"]),
        "preprocess": data["preprocess"],
    }


def _axis(value: Any) -> str:
    return ",".join(map(_axis, value)) if isinstance(value, list) else str(value)


def _json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def _read_facts(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        what = "a folder without run.json" if path.is_dir() else "a file" if path.exists() else "nothing there"
        near = ", ".join(str(run.path) for run in list_runs(path)[:3]) if path.is_dir() else ""
        raise invalid(
            "the folder of a run", f"{path} ({what})", nearest=near, next_step="`reslab runs` lists the runs here"
        )
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise invalid("a run.json that can be read", f"{file}: {error}") from error
    if not isinstance(facts, dict) or not {"model", "recipe", "data"} <= facts.keys():
        raise invalid(
            "a run.json with model, recipe and data", str(file), next_step="is it the file of another program?"
        )
    return facts


def holds_something(path: Path) -> bool:
    """Whether `path` is more than a new or empty folder."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def refuse_occupied(path: Path) -> None:
    """ValueError where a new run cannot begin in `path` without touching what is there."""
    if not holds_something(path):
        return
    if (path / "run.json").is_file():
        raise invalid(
            "a new or empty output folder",
            f"{path}, which holds a run",
            next_step="add --resume to go on with it, or choose another --output",
        )
    raise invalid(
        "a new or empty output folder", f"{path}, which holds other files", next_step="choose another --output"
    )


def new_path(model: str, data: str, parent: Path = Path("runs")) -> Path:
    """`runs/<time>-<model>-<data>`, a name that is free."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(model)}-{_slug(data)}"
    names: Iterable[str] = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
    return next(parent / name for name in names if not (parent / name).exists())


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name).strip("-") or "run"


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """The runs in `folder`, oldest name first; a folder that is no run is passed over."""
    folder = Path(folder)
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (path / "run.json").is_file():
            try:
                found.append(Run(path))
            except ValueError:
                continue
    return found


def load(source: Run | str | Path, device: str | torch.device = "cpu") -> ResidualNetwork:
    """The network of a run (its folder), of a `model.safetensors`, or of a folder that `export` made, in eval mode,
    with its `classes` and `preprocess`.

    Raises ValueError where the run has not ended, or trained a module of the user's own.
    """
    place = choose_device(device)
    return load_weights(find_weights(source), place)


def find_weights(source: Run | str | Path) -> Path:
    """The file of the weights of a run, of an exported folder, or the file itself; raises as `run_weights`."""
    if isinstance(source, Run):
        return run_weights(source)
    folder = Path(source)
    inside = folder / "model.safetensors"
    if folder.is_dir() and not (folder / "run.json").exists() and inside.is_file():
        return inside
    return run_weights(Run(folder)) if folder.is_dir() else folder


def run_weights(run: Run) -> Path:
    """The file of a run's weights. Raises ValueError where the run has not ended."""
    if not run.weights_path.exists():
        raise invalid(
            "a run that has ended",
            f"{run.path}, which holds no weights yet",
            next_step=f"go on with it: --output {run.path} --resume",
        )
    return run.weights_path
