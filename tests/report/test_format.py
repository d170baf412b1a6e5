"""Numbers and tables as they are written."""

import math

import pytest

from reslab.report.format import amount, count, markdown_table, number, percent, plural, seconds, shape


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count(1727962), "1,727,962"),
        (amount(252886208), "252.9 M"),
        (amount(4089184256), "4.09 G"),
        (amount(1_800_000_000_000), "1.80 T"),
        (amount(18090), "18.1 k"),
        (amount(999_960), "1.00 M"),
        (amount(9999), "9,999"),
        (amount(0), "0"),
        (percent(0.9806), "98.06 %"),
        (percent(1.0), "100.00 %"),
        (percent(0.0), "0.00 %"),
        (percent(0.99999, 1), "99.999 %"),
        (percent(0.00001, 1), "0.001 %"),
        (percent(None), "–"),
        (percent(math.nan), "–"),
        (number(0.25), "0.2500"),
        (number(0.00123, 2), "0.0012"),
        (number(1234.5678), "1,235"),
        (number(0), "0.000"),
        (number(1.5e-7), "1.500e-07"),
        (number(math.nan), "not a number"),
        (number(math.inf), "infinite"),
        (number(None), "–"),
        (seconds(4.21), "4.2 s"),
        (seconds(41.4), "41 s"),
        (seconds(59.7), "1 min 00 s"),
        (seconds(125), "2 min 05 s"),
        (seconds(3780), "1 h 03 min"),
        (seconds(math.nan), "–"),
        (shape((16, 32, 32)), "16×32×32"),
        (plural(0, "mistake"), "no mistake"),
        (plural(1, "mistake"), "1 mistake"),
        (plural(1200, "mistake"), "1,200 mistakes"),
    ],
)
def test_numbers_are_written_one_way(written: str, expected: str) -> None:
    assert written == expected


def test_no_accuracy_short_of_all_is_written_as_all() -> None:
    assert all("100." not in percent(1 - 10**-power, 1) for power in range(1, 8))


def test_markdown_lines_up_and_escapes() -> None:
    table = markdown_table(["name", "params"], [["a|b", "18,090"], ["resnet", 5]], "lr")
    assert table == (
        "| name   | params |\n"
        "| ------ | -----: |\n"
        "| a\\|b   | 18,090 |\n"
        "| resnet |      5 |\n"
    )  # fmt: skip


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of 2 cells"):
        markdown_table(["a", "b"], [["only one"]])
