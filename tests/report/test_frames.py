import base64
import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from reslab.report.frames import Frames


def test_each_figure_is_an_image_with_its_label_and_one_is_shown() -> None:
    figures = [Figure(figsize=(2, 1)) for _ in range(3)]
    page = Frames(figures, ["a: 1", "b <2>", "c"], alt="The kernel", start=1)._repr_html_()
    assert re.findall(r'data-label="([^"]*)"( hidden)?', page) == [
        ("a: 1", " hidden"),
        ("b &lt;2&gt;", ""),
        ("c", " hidden"),
    ]
    assert 'alt="The kernel: b &lt;2&gt;"' in page
    assert "<output>b &lt;2&gt;</output>" in page
    assert 'max="2" value="1"' in page


def test_the_images_are_svg_and_equal_each_time() -> None:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    page = Frames([figure, "<svg/>"])._repr_html_()
    first, second = (base64.b64decode(uri).decode() for uri in re.findall(r"base64,([^\"]+)", page))
    assert first.startswith("<?xml")
    assert "</svg>" in first
    assert second == "<svg/>"
    assert Frames([figure, "<svg/>"])._repr_html_() == page


def test_figures_are_closed_so_that_a_notebook_shows_them_once() -> None:
    figure = plt.figure()
    Frames([figure])
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([],), "from 1 to 64 figures"),
        ((["<svg/>"] * 2, ["one"]), "a label for each of 2 figures"),
        ((["<svg/>"], (), "", 1), "a start from 0 to 0"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Frames(*arguments)
