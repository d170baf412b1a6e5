"""The page of the demonstration: its words follow its numbers, also where the plain network wins."""

import math
from dataclasses import replace

import pytest
from page_reader import assert_sound
from sample_pages import profile, sample_demo, sample_log

from reslab.report.pages.demo import DemoPage
from reslab.report.render import render_page


def _text(page: DemoPage) -> str:
    return assert_sound(render_page(page)).text


def test_a_page_is_sound_and_the_same_every_time() -> None:
    html = render_page(sample_demo())
    page = assert_sound(html)
    assert html == render_page(sample_demo())
    assert [label.split(" against")[0] for label in page.values("aria-label") if "against" in label] == [
        "Training loss", "Accuracy",
    ]  # fmt: skip
    assert "accuracy on 360 validation images" in page.text
    assert "855,770" in page.text


def test_where_the_residual_network_wins_the_degradation_is_named() -> None:
    text = _text(sample_demo(0.97, 0.91))
    assert "with shortcuts the network is 6.0 percentage points more accurate" in text
    assert "this is not overfitting: it is the degradation problem" in text


def test_the_page_reports_that_the_plain_network_wins() -> None:
    text = _text(sample_demo(0.91, 0.97))
    assert "the plain network is more accurate, by 6.0 percentage points" in text
    assert "the plain network fits its training images more closely" in text
    assert "not overfitting" not in text


def test_equal_accuracies_are_stated() -> None:
    text = _text(sample_demo(0.95, 0.951))
    assert "Both are equally accurate" in text
    assert "no degradation" in text


def test_the_page_reports_that_only_the_training_loss_is_worse() -> None:
    page = sample_demo(0.97, 0.91)
    plain = replace(page.networks[1], top1=0.98)
    text = _text(replace(page, networks=[page.networks[0], plain]))
    assert "shows in the training loss alone" in text
    assert "the plain network is more accurate, by 1.0 percentage point;" in text


def test_where_both_fit_perfectly_a_ratio_of_tiny_losses_is_no_degradation() -> None:
    networks = [
        replace(network, log=sample_log(20, loss=loss, top1=0.999))
        for network, loss in zip(sample_demo(0.99, 0.97).networks, (0.001, 0.01), strict=True)
    ]
    text = _text(sample_demo(networks=networks))
    assert "Both fit the training images almost perfectly" in text
    assert "not overfitting" not in text


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (5000.0, "the gradient grows towards the input: at the first block it is 5,000 times larger"),
        (0.0005, "the gradient shrinks towards the input: at the first block it is 2,000 times smaller"),
        (1.1, "the gradient keeps its size: at the first block it is 1.1 times"),
    ],
)
def test_the_text_on_gradients_follows_the_gradients(first: float, message: str) -> None:
    page = sample_demo()
    plain = replace(page.networks[1], gradient_norms=profile(first, 1))
    text = _text(replace(page, networks=[page.networks[0], plain]))
    assert f"In plain56 {message}" in text
    steeper = first > 2 or first < 0.5
    assert ("resnet56 is flatter" in text) == steeper


def test_the_flatter_one_can_be_the_plain_one() -> None:
    page = sample_demo()
    networks = [
        replace(page.networks[0], gradient_norms=profile(1e-3, 1)),
        replace(page.networks[1], gradient_norms=profile(1, 1)),
    ]
    assert "plain56 is flatter" in _text(replace(page, networks=networks))


def test_gradients_after_training_are_dashed_and_explained() -> None:
    networks = [replace(network, gradient_norms_trained=profile(3, 1)) for network in sample_demo().networks]
    text = _text(sample_demo(networks=networks))
    assert "resnet56, untrained" in text
    assert "plain56, trained" in text
    assert "Dashed: after training." in text


def test_gradients_that_vanish_or_overflow_are_left_out_and_counted() -> None:
    broken = [("unit 0", 0.0), ("unit 1", math.inf), ("unit 2", math.nan), ("unit 3", 1.0)]
    page = sample_demo()
    text = _text(replace(page, networks=[page.networks[0], replace(page.networks[1], gradient_norms=broken)]))
    assert "Left out: 3 blocks" in text
    assert "In plain56 the gradient" not in text


def test_without_gradients_there_is_no_section_of_them() -> None:
    networks = [replace(network, gradient_norms=()) for network in sample_demo().networks]
    assert "Gradient flow" not in _text(sample_demo(networks=networks))


def test_a_diverged_network_is_not_compared() -> None:
    page = sample_demo()
    log = [{**line, "loss": math.nan} for line in page.networks[1].log]
    text = _text(replace(page, networks=[page.networks[0], replace(page.networks[1], log=log, top1=math.nan)]))
    assert "The loss of plain56 became NaN or infinite" in text
    assert "did not reach a result" in text


def test_names_are_escaped() -> None:
    networks = [replace(network, name="<b>$x$</b>") for network in sample_demo().networks]
    assert "<b>$x$</b>" in _text(sample_demo(networks=networks))


def test_anything_but_two_networks_is_an_error() -> None:
    with pytest.raises(ValueError, match="two networks"):
        render_page(sample_demo(networks=sample_demo().networks[:1]))
