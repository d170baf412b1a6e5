"""Numbers and tables as they are written."""

import csv
import io
import math

import pytest

from reslab.report.format import (
    encode_csv,
    format_duration,
    format_int,
    format_number,
    format_percent,
    format_shape,
    format_si,
    format_speed,
    main_metric_text,
    markdown_table,
    metric_rows,
    original_cell,
    pluralize,
    safe_cell,
)
from reslab.spec.task import TASKS


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (format_int(1727962), "1,727,962"),
        (format_si(252886208), "252.9 M"),
        (format_si(4089184256), "4.09 G"),
        (format_si(1_800_000_000_000), "1.80 T"),
        (format_si(18090), "18.1 k"),
        (format_si(999_960), "1.00 M"),
        (format_si(9999), "9,999"),
        (format_si(0), "0"),
        (format_percent(0.9806), "98.06 %"),
        (format_percent(1.0), "100.00 %"),
        (format_percent(0.0), "0.00 %"),
        (format_percent(0.99999, 1), "99.999 %"),
        (format_percent(0.00001, 1), "0.001 %"),
        (format_percent(1e-7), "< 0.0001 %"),
        (format_percent(1e-7, 0), "< 0.01 %"),
        (format_percent(1 - 1e-7), "> 99.9999 %"),
        (format_percent(None), "–"),
        (format_percent(math.nan), "–"),
        (format_number(0.25), "0.2500"),
        (format_number(0.00123, 2), "0.0012"),
        (format_number(1234.5678), "1,235"),
        (format_number(0), "0.000"),
        (format_number(1.5e-7), "1.500e-07"),
        (format_number(math.nan), "NaN"),
        (format_number(math.inf), "∞"),
        (format_number(None), "–"),
        (format_duration(4.21), "4.2 s"),
        (format_duration(41.4), "41 s"),
        (format_duration(59.7), "1 min 00 s"),
        (format_duration(125), "2 min 05 s"),
        (format_duration(3780), "1 h 03 min"),
        (format_duration(math.nan), "–"),
        (format_shape((16, 32, 32)), "16×32×32"),
        (pluralize(0, "mistake"), "no mistake"),
        (pluralize(1, "mistake"), "1 mistake"),
        (pluralize(1200, "mistake"), "1,200 mistakes"),
    ],
)
def test_number_formats(written: str, expected: str) -> None:
    assert written == expected


def test_an_accuracy_below_one_is_never_written_as_100_percent() -> None:
    assert all("100." not in format_percent(1 - 10**-power, 1) for power in range(1, 8))


def test_markdown_tables_are_padded_and_escaped() -> None:
    table = markdown_table(["name", "params"], [["a|b", "18,090"], ["resnet", 5]], "lr")
    assert table == (
        "| name   | params |\n"
        "| ------ | -----: |\n"
        "| a\\|b   | 18,090 |\n"
        "| resnet |      5 |\n"
    )  # fmt: skip


def test_a_row_of_the_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows of 2 cells"):
        markdown_table(["a", "b"], [["only one"]])


def test_a_row_for_each_metric_that_is_defined_and_the_loss() -> None:
    task, values = TASKS["classification"], {"top1": 0.75, "loss": 0.5, "num_correct": 3, "num_samples": 4}
    assert metric_rows(task, values) == [("accuracy", "75.00 % (3 of 4 correct)"), ("loss", "0.5000")]
    assert main_metric_text(task, values) == "75.00 %, loss 0.5000"


def test_a_task_without_a_loss_in_evaluation_has_no_row_for_it() -> None:
    task = TASKS["detection"]
    for values in ({"ap": 0.415, "ap50": 0.62, "loss": None}, {"ap": 0.415, "ap50": 0.62}):
        assert metric_rows(task, values) == [("COCO AP", "41.50 %"), ("AP at IoU 0.5", "62.00 %")]
        assert main_metric_text(task, values) == "41.50 %"


def test_speed_names_the_fraction_of_the_time_spent_waiting() -> None:
    result = {"images_per_second": 1234.4, "waiting_fraction": 0.116, "advised_workers": None}
    assert format_speed(result) == "1,234 images/s, 12 % of the time waiting for data"
    assert format_speed({**result, "advised_workers": 4}).endswith("waiting for data (try --workers 4)")
    assert format_speed({"images_per_second": 7.0, "waiting_fraction": None}) == "7 images/s"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-1;=2", "'=1", "''@x"]
)
def test_a_formula_becomes_text_and_can_be_read_back(text: str) -> None:
    safe = safe_cell(text)
    assert safe == f"'{text}"
    assert original_cell(safe) == text


@pytest.mark.parametrize(
    "cell", [-1.5, 3, True, None, "-0.5", "+3", "-1e-05", "-0.1 0.2 -3", "cat", "", "'quoted'", "a=b"]
)
def test_numbers_and_other_texts_stay(cell: object) -> None:
    assert safe_cell(cell) is cell
    if isinstance(cell, str):
        assert original_cell(cell) == cell


def test_every_cell_of_a_file_is_made_safe() -> None:
    text = encode_csv(["name", "=p"], [["=cmd|x", -0.5], ["a,b", "c\nd"]])
    assert list(csv.reader(io.StringIO(text))) == [["name", "'=p"], ["'=cmd|x", "-0.5"], ["a,b", "c\nd"]]
