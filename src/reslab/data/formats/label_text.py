"""Labels as text, of a CSV file or of shards: which task they suit, and their classes or numbers."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reslab.data.targets import TASK_OF_TARGET
from reslab.spec.errors import invalid, nearest
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task

NAME_SEPARATORS = ("|", ";", ",", " ")
"""What separates the names of several classes in one cell; the first that occurs in any cell is taken."""
_CERTAIN_SEPARATORS = ("|", ";")  # class names do not contain these, but commas and blanks
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_SEVERAL = re.compile(r"[\s|;\[]")
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "?"})
_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_MIN_MANY_NUMBERS = 20
_MIN_SHARE_OF_NUMBERS = 0.9  # a few texts among numbers are mistakes, which an error names
_NUM_NAMED = 5
_MAX_SHOWN = 40


@dataclass(frozen=True)
class LabelTexts:
    """Labels as text: the cells of each image under the names of the columns.

    `location(i)` says where the labels of image i are, and `row(i)` is all that is written there, for errors.
    `class_names` are those that a list of classes gives.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    location: Callable[[int], str]
    row: Callable[[int], str]
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParsedLabels:
    """The labels of a task: the index of its class, or the numbers, of each image; `names` are those of the outputs.

    `shown` are the names in each cell, where the labels are written as names. `task_reason` says why
    this task was inferred, `messages` which other one may be meant.
    """

    task: str
    names: tuple[str, ...]
    labels: tuple[int, ...] | tuple[tuple[float, ...], ...]
    shown: tuple[tuple[str, ...], ...] = ()
    task_reason: str = ""
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class InferredTask:
    """The task that labels as text suit, classification where others are possible; why, and which may be meant."""

    name: str
    reason: str = ""
    hint: str = ""


def parse_labels(texts: LabelTexts, task: str | None = None) -> ParsedLabels:
    """Return the labels of a task; without one of the task that the texts leave no doubt about, else of classification.

    Raises ValueError with the location of a label that does not suit the task.
    """
    _check_column_names(texts)
    texts = _expand_vectors(texts)
    inferred = infer_task(texts) if task is None else InferredTask(task)
    kind = find_task(inferred.name).target
    if kind not in _PARSERS:
        known = ", ".join(TASK_OF_TARGET[known] for known in _PARSERS)
        raise invalid(f"a task whose labels are texts ({known})", inferred.name)
    names, labels, shown = _PARSERS[kind](texts)
    messages = (inferred.hint,) if inferred.hint else ()
    return ParsedLabels(inferred.name, names, labels, shown, inferred.reason, messages)


def _check_column_names(texts: LabelTexts) -> None:
    for index, name in enumerate(texts.columns):
        if not name or name in texts.columns[:index]:
            got = f"{name!r} twice" if name else f"none for one of {_join(texts.columns)}"
            raise invalid("a name of its own for each column of labels", got, next_step="rename it")


def _expand_vectors(texts: LabelTexts) -> LabelTexts:
    """Return a column for each number where every cell is a vector of 0 and 1, as `1 1 0` or `[0, 1, 1]`.

    Cells that never have the same number twice are names instead: `0 1` are the classes 0 and 1.
    """
    if len(texts.columns) > 1:
        return texts
    vectors = {cell: _split_numbers(cell) for cell in {row[0] for row in texts.rows}}
    sizes = {len(vector) for vector in vectors.values()}
    if len(sizes) != 1 or sizes == {1} or not all(map(are_binary, vectors.values())):
        return texts
    if all(len(set(vector)) == len(vector) for vector in vectors.values()):
        return texts
    size = sizes.pop()
    numbered = tuple(f"{texts.columns[0]} {k}" for k in range(size))
    columns = texts.class_names if len(texts.class_names) == size else numbered
    return replace(texts, columns=columns, rows=[vectors[row[0]] for row in texts.rows])


def infer_task(texts: LabelTexts) -> InferredTask:
    """Return the task that labels as text suit."""
    return _infer_from_columns(texts) if len(texts.columns) > 1 else _infer_from_cells(texts)


def _infer_from_columns(texts: LabelTexts) -> InferredTask:
    columns = f"columns {_join(texts.columns)}"
    if all(cell.lower() in _BINARY for row in texts.rows for cell in row):
        if all(_count_ones(row) == 1 for row in texts.rows):
            reason = f"{columns} hold one 1 a row: the task is classification; --task multi-label keeps them apart"
            return InferredTask(DEFAULT_TASK, reason)
        return InferredTask("multi-label", f"{columns} hold 0 and 1, not one 1 a row: the task is multi-label")
    if all(_is_number(cell) or cell.lower() in _MISSING for row in texts.rows for cell in row):
        return InferredTask("regression", f"{columns} hold numbers: the task is regression")
    return InferredTask(DEFAULT_TASK)


def _infer_from_cells(texts: LabelTexts) -> InferredTask:
    column, cells = texts.columns[0], list(dict.fromkeys(row[0] for row in texts.rows))
    fraction = _first_fraction(cells)
    if fraction:
        reason = f"column {column} holds numbers with fractions, such as {fraction}: the task is regression"
        return InferredTask("regression", reason)
    separator = next((mark for mark in _CERTAIN_SEPARATORS if any(mark in cell for cell in cells)), "")
    if not separator:
        separator = next((mark for mark in (",", " ") if _are_all_names_alone(cells, mark)), "")
    if separator or (cells and all(_LIST.fullmatch(cell) for cell in cells)):
        joined = f"joined by {separator!r}" if separator.strip() else "joined by blanks" if separator else "in lists"
        reason = f"cells of column {column} hold several names {joined}: the task is multi-label"
        return InferredTask("multi-label", reason)
    return InferredTask(DEFAULT_TASK, hint=_hint(column, cells, len(texts.rows)))


def _first_fraction(cells: Sequence[str]) -> str:
    """Return the first number with a fraction if (nearly) all cells hold numbers or nothing; else an empty text."""
    texts = [text for cell in cells for text in _split_numbers(cell) if text.lower() not in _MISSING]
    numbers = [text for text in texts if _is_number(text)]
    if len(numbers) < _MIN_SHARE_OF_NUMBERS * len(texts):
        return ""
    return next((number for number in numbers if _has_fraction(float(number))), "")


def _are_all_names_alone(cells: Sequence[str], separator: str) -> bool:
    """Return True if some cells hold several names, and each of these is also the only one of another cell."""
    alone = {cell for cell in cells if separator not in cell}
    joined = [name for cell in cells if separator in cell for name in split_names(cell, separator)]
    return bool(joined) and set(joined) <= alone


def _hint(column: str, distinct: Sequence[str], num_rows: int) -> str:
    """Return a message on labels that are read as classes but may be numbers, or several names; empty if neither."""
    if are_numbers(distinct):
        is_many = len(distinct) > max(_MIN_MANY_NUMBERS, num_rows // 10)
        if is_many or any(float(cell) < 0 for cell in distinct):
            text = f"{len(distinct):,} different numbers in column {column} are read as classes"
            return f"{text}; for amounts, set --task regression"
        return ""
    names = {name for cell in distinct for name in split_names(cell, " ")}
    joined = [cell for cell in distinct if " " in cell]
    if len(joined) > 1 and len(names) < len(distinct):
        text = f"labels such as {min(joined)!r} are read as one class each"
        return f"{text}; where they are several, set --task multi-label"
    return ""


def _parse_classes(texts: LabelTexts) -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[str, ...], ...]]:
    if len(texts.columns) > 1:
        return texts.columns, tuple(_only_class(texts, i) for i in range(len(texts.rows))), ()
    for i, row in enumerate(texts.rows):
        if not row[0]:
            raise invalid(f"a label in {texts.location(i)}", texts.row(i))
    names = texts.class_names or tuple(sorted({row[0] for row in texts.rows}))
    index_of = {name: index for index, name in enumerate(names)}
    return names, tuple(index_of[row[0]] for row in texts.rows), tuple((row[0],) for row in texts.rows)


def _only_class(texts: LabelTexts, i: int) -> int:
    values = _binary_values(texts, i)
    if sum(values) != 1:
        required = f"a single 1 among the columns {_join(texts.columns)} in {texts.location(i)}"
        next_step = "where an image may show several classes or none, set --task multi-label"
        raise invalid(required, f"{int(sum(values))} of them", next_step=next_step)
    return values.index(1.0)


def _parse_multi_hot(
    texts: LabelTexts,
) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...], tuple[tuple[str, ...], ...]]:
    if len(texts.columns) > 1 or all(row[0].lower() in _BINARY for row in texts.rows):
        return texts.columns, tuple(_binary_values(texts, i) for i in range(len(texts.rows))), ()
    cells = [row[0] for row in texts.rows]
    separator = next((mark for mark in NAME_SEPARATORS if any(mark in cell for cell in cells)), NAME_SEPARATORS[0])
    names_of = {cell: tuple(dict.fromkeys(split_names(cell, separator))) for cell in set(cells)}
    shown = tuple(names_of[cell] for cell in cells)
    if texts.class_names:
        shown = tuple(tuple(_known_name(texts, i, name) for name in names) for i, names in enumerate(shown))
    names = texts.class_names or tuple(sorted({name for names in shown for name in names}))
    if not names:
        raise invalid(f"names of classes in {texts.columns[0]}", "only empty cells")
    sets = [set(names_of_image) for names_of_image in shown]
    return names, tuple(tuple(float(name in there) for name in names) for there in sets), shown


def _known_name(texts: LabelTexts, i: int, name: str) -> str:
    """Return a class of the list of classes by its name or its index there."""
    known = texts.class_names
    if name in known:
        return name
    if name.isascii() and name.isdigit() and int(name) < len(known):
        return known[int(name)]
    matches = nearest(name, known, 1)
    required = f"classes of the list ({_join(known)}) in {texts.location(i)}"
    raise invalid(required, _show(name), nearest=matches[0] if matches else "")


def _binary_values(texts: LabelTexts, i: int) -> tuple[float, ...]:
    for column, cell in zip(texts.columns, texts.rows[i], strict=True):
        if cell.lower() not in _BINARY:
            required = f"0 or 1 in the column {column} in {texts.location(i)}"
            next_step = "write 1 where the image shows the class, and 0 where it does not"
            raise invalid(required, _show(cell), next_step=next_step)
    return tuple(_BINARY[cell.lower()] for cell in texts.rows[i])


def _parse_values(texts: LabelTexts) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...], tuple[()]]:
    if len(texts.columns) > 1:
        rows, columns = texts.rows, texts.columns
    else:
        rows = [_numbers_or_cell(row[0]) for row in texts.rows]
        num_values = max(map(len, rows), default=1)
        columns = texts.columns if num_values == 1 else tuple(f"{texts.columns[0]} {k}" for k in range(num_values))
    bad = [i for i, row in enumerate(rows) if len(row) != len(columns) or not all(map(_is_finite, row))]
    if bad:
        raise _invalid_values(texts, columns, rows, bad)
    return columns, tuple(tuple(_to_number(cell) for cell in row) for row in rows), ()


def _invalid_values(
    texts: LabelTexts, columns: Sequence[str], rows: Sequence[Sequence[str]], bad: Sequence[int]
) -> ValueError:
    i = bad[0]
    more = f", and in {len(bad) - 1:,} more rows" if len(bad) > 1 else ""
    next_step = "fill it in, or remove the row"
    if len(rows[i]) != len(columns):
        got = f"{len(rows[i])}: {texts.row(i)}{more}"
        return invalid(f"{len(columns)} numbers in {texts.location(i)}", got, next_step=next_step)
    column, cell = next(pair for pair in zip(columns, rows[i], strict=True) if not _is_finite(pair[1]))
    required = f"a number in the column {column} in {texts.location(i)}"
    return invalid(required, f"{_show(cell)}{more}", next_step=next_step)


Parsed = tuple[tuple[str, ...], tuple[int, ...] | tuple[tuple[float, ...], ...], tuple[tuple[str, ...], ...]]
_PARSERS: dict[TargetKind, Callable[[LabelTexts], Parsed]] = {
    TargetKind.CLASS: _parse_classes,
    TargetKind.MULTI_HOT: _parse_multi_hot,
    TargetKind.VALUES: _parse_values,
}


def split_names(cell: str, separator: str) -> list[str]:
    """Return the names in a cell; brackets around them and quotes are dropped, as in `['cat', 'dog']`."""
    is_list = _LIST.fullmatch(cell)
    inner = is_list[1] if is_list else cell
    parts = inner.split(separator) if separator.strip() else inner.split()
    names = (part.strip().strip("'\"" if is_list else "").strip() for part in parts)
    return [name for name in names if name]


def _split_numbers(cell: str) -> list[str]:
    """Return the numbers of a cell, separated by blanks, | or ;, in a list by commas."""
    if not _SEVERAL.search(cell):
        return [cell]
    is_list = _LIST.fullmatch(cell)
    return re.split(r"[,\s]+" if is_list else r"\s*[|;]\s*|\s+", (is_list[1] if is_list else cell).strip())


def _numbers_or_cell(cell: str) -> list[str]:
    numbers = _split_numbers(cell)
    return numbers if all(_is_number(number) for number in numbers) else [cell]


def are_binary(cells: Sequence[str]) -> bool:
    """Return True if all cells hold 0 or 1."""
    return all(cell.strip().lower() in _BINARY for cell in cells)


def may_be_numbers(cells: Sequence[str]) -> bool:
    """Return True if all cells hold numbers or nothing, but not all of them nothing."""
    present = [cell.strip() for cell in cells if cell.strip().lower() not in _MISSING]
    return bool(present) and are_numbers(present)


def are_numbers(cells: Sequence[str]) -> bool:
    """Return True if all cells hold numbers."""
    return all(_is_number(cell.strip()) for cell in cells)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _is_finite(text: str) -> bool:
    return (_is_number(text) or _DECIMAL_COMMA.fullmatch(text) is not None) and math.isfinite(_to_number(text))


def _to_number(text: str) -> float:
    return float(text.replace(",", "."))


def _has_fraction(number: float) -> bool:
    return math.isfinite(number) and not number.is_integer()


def _show(cell: str) -> str:
    if len(cell) > _MAX_SHOWN:
        return f"{cell[:_MAX_SHOWN]!r}..."
    return repr(cell) if cell else "an empty cell"


def _count_ones(row: Sequence[str]) -> int:
    return sum(_BINARY[cell.lower()] == 1 for cell in row)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (" ..." if len(names) > _NUM_NAMED else "")
