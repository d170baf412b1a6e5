"""The watch of a series of evaluations."""

import math

from reslab.training.watching import Watch


def test_it_speaks_where_the_value_has_not_fallen_for_as_many_evaluations() -> None:
    watch = Watch(2)
    assert [watch.see(value) for value in (3.0, 2.0, 2.0, 2.5, 2.5)] == [False, False, False, True, True]
    assert watch.least == 2.0


def test_a_rest_counts_anew_and_keeps_the_least() -> None:
    watch = Watch(1)
    assert [watch.see(value) for value in (1.0, 1.0)] == [False, True]
    watch.rest()
    assert watch.since == 0
    assert watch.see(1.0)  # still not below the least


def test_what_is_not_a_number_has_not_fallen() -> None:
    watch = Watch(1)
    assert watch.see(math.nan)


def test_a_saved_watch_goes_on() -> None:
    first, second = Watch(3), Watch(3)
    for value in (5.0, 6.0):
        first.see(value)
    second.load(first.state())
    assert [first.see(value) for value in (6.0, 6.0)] == [second.see(value) for value in (6.0, 6.0)] == [False, True]
