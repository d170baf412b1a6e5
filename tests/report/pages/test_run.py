"""The page of a run: sound, safe, the same every time, and at ease with the odd cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from page_reader import assert_sound
from sample_pages import sample_confusion, sample_layers, sample_log, sample_mistakes, sample_run

from reslab.report.pages.classification import ClassificationResults, MisclassifiedImage
from reslab.report.pages.run import RunPage
from reslab.report.render import render_page


def test_a_page_is_sound_and_holds_every_part() -> None:
    page = assert_sound(render_page(sample_run()))
    for heading in (
        "Training curves",
        "Confusion matrix",
        "Top losses",
        "Per-class metrics",
        "Size and cost",
        "Details",
    ):
        assert heading in page.text
    labels = [figure["aria-label"] or "" for figure in page.tags("svg")]
    plots, drawings = labels[:3], labels[3:]
    assert [label.split(" against")[0] for label in plots] == ["Loss", "Accuracy", "Learning rate"]
    assert drawings == ["resnet20_cifar", "resnet20_cifar, layer1.0", "resnet20_cifar, layer2.0"]
    assert len(page.tags("img")) == 5
    assert "269,722" in page.text
    assert "reslab train --data digits" in page.text


def test_the_summary_is_a_sentence_with_the_metrics() -> None:
    scores = {"split": "test", "num_samples": 360, "num_correct": 354, "loss": 0.1}
    assert (
        "98.3 % accuracy on 360 test images: 6 misclassified."
        in assert_sound(render_page(sample_run(metrics=scores))).text
    )
    assert "100.0 % accuracy on 300 test images: none misclassified." in render_page(
        sample_run(metrics={"split": "test", "num_samples": 300, "num_correct": 300})
    )
    assert "Said by me." in render_page(sample_run(summary="Said by me."))


def test_the_same_page_is_the_same_text() -> None:
    assert render_page(sample_run(30)) == render_page(sample_run(30))


def test_the_users_own_matplotlib_settings_change_nothing() -> None:
    import matplotlib

    expected = render_page(sample_run())
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "axes.labelsize": 30}
    ):
        assert render_page(sample_run()) == expected


def test_what_users_supply_is_escaped() -> None:
    evil = '<script>alert("x")</script>&$\\frac{1}{2}$_'
    mistake = MisclassifiedImage(np.zeros((4, 4), np.uint8), 0, 1, 0.9, 2.5, name=f'{evil}" onerror="x')
    html = render_page(
        RunPage(
            evil,
            summary=evil,
            metadata={evil: evil, "command": evil},
            metrics={"split": evil, "num_samples": 3, "num_correct": 2, "selection_text": evil},
            log=sample_log(split=evil),
            results=ClassificationResults(
                classes=(evil, "b"), confusion_matrix=[[1, 1], [0, 1]], misclassified=[mistake]
            ),
            layers=[{**sample_layers()[0], "name": evil}],
        )
    )
    page = assert_sound(html)
    assert "<script" not in html
    assert "onerror" not in [name for _, attributes in page.elements for name in attributes]
    assert evil in page.text
    # A figure of many classes writes their names itself.
    assert_sound(render_page(sample_run(25, classes=[f"{evil}{n}" for n in range(25)])))


def test_one_log_line_is_a_dot() -> None:
    page = assert_sound(render_page(sample_run(log=sample_log(1)[:1])))
    assert "Training loss 2.00." in page.text


def test_a_run_without_held_out_images_is_reported() -> None:
    page = assert_sound(render_page(RunPage("bare", log=[line for line in sample_log() if line["kind"] == "train"])))
    assert "Not evaluated" in page.text
    assert "Confusion matrix" not in page.text


def test_a_title_alone_is_a_page() -> None:
    assert "bare" in assert_sound(render_page(RunPage("bare"))).text


def test_a_perfect_accuracy_is_stated() -> None:
    scores = {"split": "val", "num_samples": 20, "num_correct": 20, "loss": 0.0, "top5": 1.0}
    changes = {"metrics": scores, "confusion_matrix": [[10, 0], [0, 10]], "misclassified": []}
    page = assert_sound(render_page(sample_run(2, **changes)))
    assert "None: all images are classified correctly." in page.text
    assert page.text.count("all images are classified correctly") == 2


@pytest.mark.parametrize("broken", [math.nan, None, math.inf])
def test_a_diverged_run_is_stated(broken: float | None) -> None:
    log = [{**line, "loss": broken} if float(str(line["epoch"])) > 5 else line for line in sample_log()]
    page = assert_sound(render_page(sample_run(log=log)))
    assert "Training diverged: the loss became NaN or infinite, first at epoch 6" in page.text
    assert "training loss 3 times, validation loss 3 times" in page.text
    everywhere = [{**line, "loss": broken} for line in sample_log()]
    scores = {"split": "val", "num_samples": 9, "num_correct": 1, "loss": math.nan}
    assert "NaN" in assert_sound(render_page(sample_run(log=everywhere, metrics=scores))).text


def test_cells_show_their_counts_up_to_twenty_classes() -> None:
    few, many = (assert_sound(render_page(sample_run(classes))) for classes in (20, 21))
    cells = [attributes for attributes in few.tags("td") if attributes.get("class") in ("correct", "wrong")]
    assert len(cells) == sum(value > 0 for row in sample_confusion(20) for value in row)
    assert not [attributes for attributes in many.tags("td") if attributes.get("class") in ("correct", "wrong")]
    assert any("Confusion matrix of 21 classes" in (figure["aria-label"] or "") for figure in many.tags("svg"))
    assert "class 0" in [attributes.get("title") for attributes in few.tags("th")]


def test_of_many_classes_the_weakest_come_first_and_all_are_there() -> None:
    page = assert_sound(render_page(sample_run(100)))
    assert "The ten classes of lowest F1" in page.text
    assert "All 100 classes" in page.text
    assert len([1 for attributes in page.tags("th") if attributes.get("scope") == "row"]) >= 110


def test_a_thousand_layers_are_added_up_by_unit() -> None:
    layers = sample_layers(units=300)
    page = assert_sound(render_page(sample_run(layers=layers, depth=1202)))
    assert f"All {len(layers):,} layers, summed by block" in page.text
    assert "layer3.299" in page.text
    assert "layer3.299.conv1" not in page.text
    assert "900,000" not in page.text
    assert page.text.count("300,000") == 3


def test_only_the_top_losses_are_shown_and_large_images_shrink() -> None:
    mistakes = sample_mistakes(60, 10, side=700)
    mistakes[7] = replace(mistakes[7], loss=9.87, probability=0.51)  # not confident, but the loss is the highest
    html = render_page(
        sample_run(misclassified=mistakes, metrics={"split": "val", "num_samples": 300, "num_correct": 240})
    )
    page = assert_sound(html)
    assert "The 24 of 60 misclassified images with the highest loss, the highest first." in page.text
    images = page.tags("img")
    assert len(images) == 24
    assert all(int(image["width"] or 0) <= 192 for image in images)
    assert ["img/0007.png" in (images[0]["alt"] or ""), "img/0059.png" in (images[1]["alt"] or "")] == [True, True]
    assert "51 %, loss 9.87" in page.text


def test_long_logs_are_thinned() -> None:
    assert len(render_page(sample_run(log=sample_log(20_000)))) < 200_000


def test_an_image_of_another_dtype_is_an_error() -> None:
    for pixels in (np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 pixels"):
            render_page(sample_run(misclassified=[MisclassifiedImage(pixels, 0, 1, 0.5, 0.7)]))


def test_a_confusion_matrix_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 rows and columns"):
        render_page(sample_run(confusion_matrix=sample_confusion(9)))


def test_a_metric_of_the_log_is_plotted_where_it_is_there() -> None:
    log = [{**line, "grad_norm": 1.5} if line["kind"] == "train" else line for line in sample_log()]
    page = assert_sound(render_page(sample_run(log=log)))
    labels = [figure["aria-label"] or "" for figure in page.tags("svg")]
    assert "Gradient norm" in [label.split(" against")[0] for label in labels]


def test_the_network_is_drawn_in_few_bytes() -> None:
    html = render_page(sample_run())
    assert_sound(html)
    assert html.count('class="reslab-drawing"') == 3  # the row of stages, and two kinds of blocks
    assert html.count("prefers-color-scheme:dark") == 1
    assert "16 channels of zeros" in html
    without = render_page(sample_run(arch=None))
    assert "reslab-drawing" not in without
    assert len(html) - len(without) < 20_000
