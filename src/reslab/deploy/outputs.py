"""Prediction files: their format by the ending of the name, written atomically, resumed after an interruption."""

import contextlib
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslab.deploy.inputs import InputItem
from reslab.deploy.prediction import Prediction, prediction_from_dict
from reslab.deploy.prediction_formats import (
    BOX_FORMATS,
    PREDICTION_FORMATS,
    BoxResultFormat,
    PredictionFormat,
    PredictionMetadata,
    ResultIds,
    encode_text,
    find_ids,
    write_folder,
)
from reslab.runtime.extras import require_extra
from reslab.runtime.files import DiskFullError, atomic_path, disk_full_guard
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind, Task


class PartialResults:
    """A file of JSON lines: first the `metadata`, then one row per line, appended as rows are computed.

    With `resume` an existing file is kept and a torn last line cut off; otherwise the file is overwritten.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any], resume: bool) -> None:
        self.path, self.num_rows = path, 0
        try:
            with self._disk_full_guard():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("ab").close()
        except DiskFullError:
            raise
        except OSError as error:
            got = f"{path.parent} ({error.strerror})"
            raise invalid("a folder that can be written", got, next_step="name a file in another") from error
        rows, previous_metadata = self.read(path) if resume else ([], None)
        self.num_rows = len(rows)
        if previous_metadata is None or not rows:
            with self._disk_full_guard():
                path.write_text(json.dumps(dict(metadata)) + "\n", encoding="utf-8")
        else:
            with path.open("r+b") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)

    @staticmethod
    def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Return the rows and the metadata, or none without a file. An unfinished last line is skipped."""
        if not path.is_file():
            return [], None
        lines = path.read_bytes().split(b"\n")[:-1]
        records = [json.loads(line) for line in lines]
        return records[1:], records[0] if records else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row. Raises DiskFullError, with the number of rows that are in the file."""
        with self._disk_full_guard(), self.path.open("ab") as file:
            file.write(encode_text(json.dumps(row, ensure_ascii=False) + "\n"))
        self.num_rows += 1

    def _disk_full_guard(self) -> contextlib.AbstractContextManager[None]:
        return disk_full_guard(self.path, _saved_rows(self.num_rows, self.path), _RESUME_STEP)

    def delete(self) -> None:
        """Delete the file."""
        os.unlink(self.path)


_RESUME_STEP = "run the same command again with --resume"


def _saved_rows(num_rows: int, path: Path) -> str:
    return f"the {num_rows} rows written so far are in {path}"


_FORMATS: dict[str, PredictionFormat | BoxResultFormat] = {**PREDICTION_FORMATS, **BOX_FORMATS}


def _find_ending(path: Path) -> str | None:
    """Return the ending of a format that the name has, the longest if several; None without one."""
    endings = sorted(_FORMATS, key=len, reverse=True)
    return next((ending for ending in endings if path.name.lower().endswith(ending)), None)


def _find_format(path: Path) -> PredictionFormat | BoxResultFormat:
    ending = _find_ending(path)
    assert ending is not None, path  # checked by check_output_path
    return _FORMATS[ending]


class PredictionFile:
    """A file that collects the predictions of `items`; `metadata` describes how they are made.

    Every row is appended at once to `FILE.part`; at the end the file is written atomically and `FILE.part` deleted.
    With `resume` the rows of both files are reused, except those with an error, and `remaining` lists the items still
    to compute; of COCO's and VOC's results only `FILE.part` can be resumed. `ids` are those of classes and images in
    these. Raises ValueError for an unknown ending, an existing file without `resume`, and rows that were made with
    other options.
    """

    def __init__(
        self,
        path: Path,
        items: Sequence[InputItem],
        metadata: PredictionMetadata,
        resume: bool = False,
        ids: ResultIds | None = None,
    ) -> None:
        self.path, self.items, self.metadata, self.ids = path, items, metadata, ids or ResultIds()
        check_output_path(path, resume)
        partial_path = _partial_path(path)
        self.completed: dict[str, Prediction] = {}
        if resume:
            self._merge(_read_existing(path))
            self._merge(_read_partial(partial_path))
        self.partial = PartialResults(partial_path, metadata, resume=resume)

    def _merge(self, existing: tuple[list[Prediction], PredictionMetadata | None]) -> None:
        rows, metadata = existing
        if rows and metadata is not None and dict(metadata) != dict(self.metadata):
            changed = [name for name in self.metadata if metadata.get(name) != self.metadata[name]]
            old_values, new_values = (
                ", ".join(f"{name}={values.get(name)}" for name in changed) for values in (metadata, self.metadata)
            )
            step = "use the earlier options, or leave out --resume and name another file"
            raise invalid(
                f"rows made with the same options ({new_values})", f"{self.path} with {old_values}", next_step=step
            )
        self.completed |= {row.path: row for row in rows if not row.error}

    @property
    def remaining(self) -> list[InputItem]:
        """Return the items without a row."""
        return [item for item in self.items if item.path not in self.completed]

    def add(self, prediction: Prediction) -> None:
        """Append a row to the partial file."""
        self.completed[prediction.path] = prediction
        self.partial.append(prediction.to_dict())

    def finish(self) -> list[Prediction]:
        """Write the file, earlier rows first, then those of the items in order; return the latter."""
        requested = {item.path for item in self.items}
        earlier = [prediction for path, prediction in self.completed.items() if path not in requested]
        predictions = [self.completed[path] for path in dict.fromkeys(item.path for item in self.items)]
        saved = _saved_rows(self.partial.num_rows, self.partial.path)
        with disk_full_guard(self.path, saved, _RESUME_STEP):
            self._write([*earlier, *predictions])
        self.partial.delete()
        return predictions

    def _write(self, predictions: Sequence[Prediction]) -> None:
        output_format = _find_format(self.path)
        if isinstance(output_format, BoxResultFormat):
            content = output_format.encode(predictions, self.ids)
        else:
            content = output_format.encode(predictions, self.metadata)
        if isinstance(content, Mapping):
            write_folder(self.path, content)
            return
        with atomic_path(self.path) as temp_path:
            temp_path.write_bytes(content)


def check_output_path(path: Path, resume: bool) -> None:
    """Raise ValueError if the file cannot be written, before anything is computed."""
    ending, suffixes = _find_ending(path), "".join(path.suffixes[-2:]).lower()
    # `.cooc.json` would be read as `.json`.
    misspelled = difflib.get_close_matches(suffixes, [known for known in _FORMATS if known.count(".") > 1], 1, 0.85)
    if ending is None or (misspelled and misspelled[0] != ending):
        nearest = misspelled or difflib.get_close_matches(path.suffix.lower(), _FORMATS, 1, 0.5) or [".csv"]
        name = f"{path.name.partition('.')[0]}{nearest[0]}"
        raise invalid(f"a file that ends in {', '.join(_FORMATS)}", path.name, name)
    if ending == ".parquet":
        require_extra("parquet", "a .parquet file")
    can_resume = resume and not isinstance(_FORMATS[ending], BoxResultFormat)
    if path.exists() and (path.is_dir() or not can_resume):
        step = "name another" if isinstance(_FORMATS[ending], BoxResultFormat) else "add --resume to continue it"
        raise invalid("a new file", f"{path}, which exists", next_step=step)
    partial_path = _partial_path(path)
    if partial_path.exists() and not resume:
        step = f"add --resume to continue it, or delete {partial_path.name}"
        raise invalid("a new file", f"{partial_path}, rows of an interrupted command", next_step=step)


def check_output_format(path: Path, task: Task) -> None:
    """Raise ValueError if the predictions of a task cannot be written in the format of the file."""
    if isinstance(_find_format(path), BoxResultFormat) and task.target is not TargetKind.BOXES:
        nearest = f"{path.name.partition('.')[0]}.json"
        raise invalid(f"a network for detection for {path.name}", f"one for {task.name}", nearest)


def find_result_ids(path: Path, source: Path, classes: Sequence[str]) -> ResultIds | None:
    """Return the ids for the results in this file, from the data of the run `source`; None if its format has none."""
    output_format = _find_format(path)
    if not isinstance(output_format, BoxResultFormat):
        return None
    return find_ids(source, classes) if output_format.has_ids else ResultIds(tuple(classes))


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _read_existing(path: Path) -> tuple[list[Prediction], PredictionMetadata | None]:
    output_format = _find_format(path)
    if not path.exists() or isinstance(output_format, BoxResultFormat):
        return [], None
    try:
        return output_format.read(path)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise invalid(f"a file written by `reslab predict` in {path}", f"other content ({error})") from error


def _read_partial(path: Path) -> tuple[list[Prediction], PredictionMetadata | None]:
    rows, metadata = PartialResults.read(path)
    return [prediction_from_dict(row) for row in rows], metadata
