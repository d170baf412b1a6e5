"""Files of predictions: JSON, CSV or Parquet by their ending, whole or not there, gone on with where they were left.

Rows written down one by one as they come, so that what was done is not done again.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reslab.deploy.extras import need_extra
from reslab.deploy.inputs import Item
from reslab.deploy.predict import Prediction, read_prediction
from reslab.runtime.files import write_whole
from reslab.spec.errors import invalid


class Journal:
    """A file of JSON lines: first `facts`, which tell how the rows were made, then a row a line.

    With `keep` it is gone on with, a last line that was torn cut off; else it is begun anew.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], keep: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, before = self.read(path) if keep else ([], None)
        if before is None or not rows:
            path.write_text(json.dumps(dict(facts)) + "\n", encoding="utf-8")
        else:
            with path.open("r+b") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)

    @staticmethod
    def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """The rows and the facts; none where there is no journal. A last line without its end is left out."""
        if not path.is_file():
            return [], None
        lines = path.read_bytes().split(b"\n")[:-1]
        found = [json.loads(line) for line in lines]
        return found[1:], found[0] if found else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row down; it outlives this process from here on."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Take the journal away."""
        os.unlink(self.path)


Facts = Mapping[str, Any]
COLUMNS = ("path", "rank", "class", "probability", "error")
_MORE = ("features", "heat_map")


def csv_text(found: Iterable[Prediction]) -> str:
    """A line a class: path, rank, class, probability, error; with features and heat_map on the first of each picture
    where there are any."""
    rows = list(found)
    more = [name for name in _MORE if any(getattr(row, name) for row in rows)]
    held = io.StringIO(newline="")
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow([*COLUMNS, *more])
    for row in rows:
        extra = [_cell(getattr(row, name)) for name in more]
        if row.error:
            writer.writerow([row.path, "", "", "", row.error, *extra])
        for rank, guess in enumerate(row.classes, 1):
            cells = [row.path, rank, guess.name, f"{guess.probability:.6g}", ""]
            writer.writerow([*cells, *(extra if rank == 1 else [""] * len(more))])
    return held.getvalue()


def _cell(value: str | tuple[float, ...]) -> str:
    return value if isinstance(value, str) else " ".join(f"{number:.7g}" for number in value)


def json_text(found: Iterable[Prediction], facts: Facts) -> str:
    """One object: `predictions` and, under `how`, what made them."""
    told = {"predictions": [row.to_dict() for row in found], "how": dict(facts)}
    return json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n"


def parquet_bytes(found: Iterable[Prediction], facts: Facts) -> bytes:
    """A row a picture: path, classes, probabilities, features, heat_map, error; `facts` under the key `reslab`."""
    need_extra("parquet", "a .parquet file")
    import pyarrow
    import pyarrow.parquet

    rows = list(found)
    columns = {
        "path": pyarrow.array([row.path for row in rows], pyarrow.string()),
        "classes": pyarrow.array([[guess.name for guess in row.classes] for row in rows], _list(pyarrow.string())),
        "probabilities": pyarrow.array(
            [[guess.probability for guess in row.classes] for row in rows], _list(pyarrow.float64())
        ),
        "features": pyarrow.array([list(row.features) for row in rows], _list(pyarrow.float32())),
        "heat_map": pyarrow.array([row.heat_map for row in rows], pyarrow.string()),
        "error": pyarrow.array([row.error for row in rows], pyarrow.string()),
    }
    table = pyarrow.table(columns).replace_schema_metadata({"reslab": json.dumps(dict(facts))})
    held = io.BytesIO()
    pyarrow.parquet.write_table(table, held)
    return held.getvalue()


def _list(of: Any) -> Any:
    import pyarrow

    return pyarrow.list_(of)


def _read_csv(path: Path) -> tuple[list[Prediction], Facts | None]:
    rows: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"columns {', '.join(reader.fieldnames or ())}")
        for line in reader:
            row = rows.setdefault(line["path"], {"path": line["path"], "classes": [], "error": line["error"]})
            if line["class"]:
                row["classes"].append({"name": line["class"], "probability": float(line["probability"])})
            if line.get("features"):
                row["features"] = [float(number) for number in line["features"].split()]
            row["heat_map"] = row.get("heat_map") or line.get("heat_map") or ""
    return [read_prediction(row) for row in rows.values()], None


def _read_json(path: Path) -> tuple[list[Prediction], Facts | None]:
    told = json.loads(path.read_text(encoding="utf-8"))
    return [read_prediction(row) for row in told["predictions"]], told.get("how")


def _read_parquet(path: Path) -> tuple[list[Prediction], Facts | None]:
    need_extra("parquet", "a .parquet file")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    kept = (table.schema.metadata or {}).get(b"reslab")
    rows = []
    for row in table.to_pylist():
        pairs = zip(row["classes"], row["probabilities"], strict=True)
        row["classes"] = [{"name": name, "probability": probability} for name, probability in pairs]
        rows.append(read_prediction(row))
    return rows, json.loads(kept) if kept else None


Reader = Callable[[Path], tuple[list[Prediction], Facts | None]]
Writer = Callable[[Iterable[Prediction], Facts], bytes]
ENDINGS: dict[str, tuple[Writer, Reader]] = {
    ".json": (lambda rows, facts: json_text(rows, facts).encode(), _read_json),
    ".csv": (lambda rows, facts: csv_text(rows).encode(), _read_csv),
    ".parquet": (parquet_bytes, _read_parquet),
}


class Rows:
    """The predictions of `items` on their way into a file; `facts` tell how they are made.

    Every row is written down at once in a journal beside the file (`FILE.part`); at the end the file is written whole
    and the journal is gone. With `resume` the rows of both are taken over, but those with an error, and `left` are the
    items that are still to be computed. Raises ValueError for an unknown ending, a file that is there without `resume`,
    and rows that were made otherwise.
    """

    def __init__(self, path: Path, items: Sequence[Item], facts: Facts, resume: bool = False) -> None:
        self.path, self.items, self.facts = path, items, facts
        check_output(path, resume)
        journal = _journal_path(path)
        self.done: dict[str, Prediction] = {}
        if resume:
            self._take(_kept(path))
            self._take(_journalled(journal))
        self.journal = Journal(journal, facts, keep=resume)

    def _take(self, found: tuple[list[Prediction], Facts | None]) -> None:
        rows, facts = found
        if rows and facts is not None and dict(facts) != dict(self.facts):
            names = [name for name in self.facts if facts.get(name) != self.facts[name]]
            was, now = (", ".join(f"{name}={told.get(name)}" for name in names) for told in (facts, self.facts))
            step = "ask as before, or leave --resume away to begin anew in another file"
            raise invalid(f"rows made as asked now ({now})", f"{self.path} with {was}", next_step=step)
        self.done |= {row.path: row for row in rows if not row.error}

    @property
    def left(self) -> list[Item]:
        """The items without a row."""
        return [item for item in self.items if item.path not in self.done]

    def add(self, row: Prediction) -> None:
        """Keep a row, at once."""
        self.done[row.path] = row
        self.journal.add(row.to_dict())

    def finish(self) -> list[Prediction]:
        """Write the file, the rows in the order of the items after those that it had before; the rows of the items."""
        asked = {item.path for item in self.items}
        before = [row for path, row in self.done.items() if path not in asked]
        found = [self.done[path] for path in dict.fromkeys(item.path for item in self.items)]
        write_whole(self.path, ENDINGS[self.path.suffix.lower()][0]([*before, *found], self.facts))
        self.journal.remove()
        return found


def check_output(path: Path, resume: bool) -> None:
    """Raises ValueError where the file cannot be written, before anything is computed."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise invalid(f"a file that ends in {', '.join(ENDINGS)}", path.name, path.with_suffix(".csv").name)
    if ending == ".parquet":
        need_extra("parquet", "a .parquet file")
    if path.is_dir() or (path.exists() and not resume):
        raise invalid("a file that is not there yet", f"{path}, which is", next_step="add --resume to go on with it")
    journal = _journal_path(path)
    if journal.exists() and not resume:
        step = f"add --resume to go on with it, or remove {journal.name}"
        raise invalid("a file that nobody began", f"{journal}, rows of an earlier try", next_step=step)


def _journal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _kept(path: Path) -> tuple[list[Prediction], Facts | None]:
    if not path.exists():
        return [], None
    try:
        return ENDINGS[path.suffix.lower()][1](path)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise invalid(f"{path} as `reslab predict` wrote it", f"a file that reads otherwise ({error})") from error


def _journalled(path: Path) -> tuple[list[Prediction], Facts | None]:
    rows, facts = Journal.read(path)
    return [read_prediction(row) for row in rows], facts
