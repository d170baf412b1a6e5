"""The page of a check of data: sound, whole, and in words that follow its numbers."""

from dataclasses import replace

import numpy as np
import pytest
from page_reader import assert_sound

from reslab.report.pages.data_check import CaptionedImage, DataCheckPage, ImageGroup
from reslab.report.render import render_page

NOISE = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
PAGE = DataCheckPage(
    title="Ants & <bees>",
    counts={"train": {"ants": 40, "b<e>es": 10}, "val": {"ants": 5, "b<e>es": 5}},
    findings=[("error", "3 files cannot be read."), ("warning", "Uneven."), ("note", "Few.")],
    sizes={"train": [(90, 120), (90, 120), (300, 200)], "val": [(90, 120)]},
    unreadable=[("train/ants/x.png", "empty (0 bytes)")],
    duplicate_groups=[
        ImageGroup(
            "The same pixels", [CaptionedImage(NOISE[0], "ants, train", "a.png"), CaptionedImage(NOISE[0], "", "b.png")]
        )
    ],
    num_duplicate_groups=1,
    batch=[CaptionedImage(image, "ants", f"{k}.png") for k, image in enumerate(NOISE)],
    train_transform="crop(32) flip",
    metadata={"location": "/somewhere"},
)


def test_a_page_is_sound_and_the_same_every_time() -> None:
    html = render_page(PAGE)
    page = assert_sound(html)
    assert html == render_page(PAGE)
    assert "60 images of 2 classes: 1 error to fix before training." in page.text
    assert "Ants & <bees>" in page.text
    for message in (
        "b<e>es",
        "3 files cannot be read.",
        "empty (0 bytes)",
        "The same pixels",
        "crop(32) flip",
        "80.0 %",
    ):
        assert message in page.text
    assert len(page.tags("img")) == 6
    assert "Heights from 90 to 300 pixels, widths from 120 to 200, 2 different sizes." in page.text
    assert len(page.tags("svg")) == 1


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ((), "ready to train."),
        ((("note", "Few."),), "ready to train."),
        ((("warning", "a"), ("warning", "b")), "ready to train, with 2 warnings."),
        ((("warning", "a"), ("error", "b")), "1 error to fix"),
    ],
)
def test_the_summary_follows_the_findings(findings: tuple[tuple[str, str], ...], message: str) -> None:
    assert message in assert_sound(render_page(replace(PAGE, findings=findings))).text


def test_an_empty_page_is_sound() -> None:
    page = assert_sound(render_page(DataCheckPage("nothing")))
    assert page.tags("img") == []
    assert "No findings" in page.text


def test_one_size_and_far_apart_sizes() -> None:
    page = assert_sound(render_page(replace(PAGE, sizes={"train": [(28, 30)] * 3})))
    assert "Every image is 28 pixels high and 30 pixels wide." in page.text
    assert page.tags("svg") == []
    assert len(assert_sound(render_page(replace(PAGE, sizes={"train": [(10, 10), (4000, 3000)]}))).tags("svg")) == 1


def test_many_classes_are_collapsed() -> None:
    counts = {"train": {f"class {k}": 100 - k for k in range(50)}}
    page = assert_sound(render_page(replace(PAGE, counts=counts)))
    assert "The ten smallest classes of the training split." in page.text
    assert "All 50 classes" in page.text
    table = page.text[: page.text.index("All 50 classes")]  # from the smallest on, the others below
    assert table.index("class 49") < table.index("class 40")
    assert "class 39 " not in table


def test_many_groups_are_counted() -> None:
    assert (
        "1 of 66 groups, those across splits first."
        in assert_sound(render_page(replace(PAGE, num_duplicate_groups=66))).text
    )


def test_pixels_of_another_dtype_are_an_error() -> None:
    with pytest.raises(ValueError, match="uint8 pixels"):
        render_page(replace(PAGE, batch=[CaptionedImage(NOISE[0].astype(np.float32))]))


def test_images_with_several_classes_count_once() -> None:
    page = assert_sound(render_page(replace(PAGE, num_images={"train": 45, "val": 8})))
    assert "53 images of 2 classes" in page.text
    assert "88.9 %" in page.text


def test_values_have_a_table_instead_of_classes() -> None:
    rows = [["weight", "train", "45", "0.000", "5.625", "3.319", "11.25"], ["weight", "val", "8", "1", "2", "1", "3"]]
    page = assert_sound(render_page(replace(PAGE, counts={}, num_images={"train": 45, "val": 8}, values=rows)))
    assert "53 images of 1 value" in page.text
    assert "11.25" in page.text
