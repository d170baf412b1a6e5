"""Whether a network is as sure as it is right: the reliability diagram, and what it comes to in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reslab.report.format import count, number, percent
from reslab.report.pages.run_text import split_words
from reslab.report.plots.bars import FEW, reliability_figure
from reslab.report.plots.export import svg

Bins = Sequence[Mapping[str, Any]]


def calibration_parts(calibration: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The diagram of `calibration` (as `RunPage` has it) with its words and its bins; nothing where there is none."""
    if not calibration:
        return {"calibration": None}
    bins, scaled = calibration["reliability"], calibration.get("reliability_scaled", ())
    words = calibration_words(calibration, split)
    label = f"Reliability diagram: accuracy against confidence in {len(bins)} bins. {words[0]}"
    shown = {
        "svg": Markup(svg(reliability_figure(bins, scaled), "reliability", label)),
        "caption": _caption(bool(scaled)),
        "words": words,
        "rows": [_row(one) for one in bins if one["num_samples"]],
    }
    return {"calibration": shown}


def calibration_words(calibration: Mapping[str, Any], split: str) -> list[str]:
    """Paragraphs: how sure against how right, the calibration error, and what a temperature makes of it."""
    bins = [one for one in calibration["reliability"] if one["num_samples"]]
    return [_balance(bins), _error(bins, calibration["ece"]), _temperature(calibration, split)]


def chance_error(bins: Bins) -> float:
    """The calibration error to expect of a perfectly calibrated network on as many images: the mean of
    n_b / n |accuracy - confidence| where each bin's accuracy is a binomial share, sqrt(2 c (1 - c) / (pi n_b)).

    The normal approximation of the mean absolute deviation, summed over the bins.
    """
    found = 0.0
    for one in bins:
        sure = min(1.0, one["confidence"] or 0.0)
        found += math.sqrt(2 / math.pi * one["num_samples"] * sure * (1 - sure))
    return found / max(1, sum(one["num_samples"] for one in bins))


def _balance(bins: Bins) -> str:
    total = sum(one["num_samples"] for one in bins)
    sure, right = (sum(one["num_samples"] * one[key] for one in bins) / total for key in ("confidence", "accuracy"))
    said = f"On average it is {percent(sure, 1)} sure of its answers, and {percent(right, 1)} of them are right"
    if abs(sure - right) <= max(chance_error(bins), 0.005):
        return f"{said}: in sum it is as sure as it should be."
    return f"{said}: it is {'surer than it has reason to be' if sure > right else 'less sure than it could be'}."


def _error(bins: Bins, ece: float) -> str:
    by_chance = percent(chance_error(bins), 1)
    return (
        f"The expected calibration error is {percent(ece)}: the mean gap between bar and line, weighted by the images "
        f"of each bin (Guo et al. 2017, Eq. 3). On this many images about {by_chance} would come by chance alone."
    )


def _temperature(calibration: Mapping[str, Any], split: str) -> str:
    if "temperature" not in calibration:
        return (
            "No temperature was fitted: that takes validation images with at least one mistake, never the test set "
            "(--val-fraction sets some apart)."
        )
    images = f"{count(calibration['fitted_images'])} {split_words(calibration['fitted_on'])} images"
    said = (
        f"The {images} ask for a temperature of {number(calibration['temperature'], 3)}: outputs divided by it make "
        f"the network {'less' if calibration['temperature'] > 1 else 'more'} sure and change none of its answers. "
    )
    if "ece_scaled" not in calibration:
        return said + "There are too few mistakes to judge it on images it was not fitted on."
    after = percent(calibration["ece_scaled"])
    if calibration.get("in_halves"):
        return said + f"Fitted on one half and judged on the other, and the other way round, the error is {after}."
    return said + f"With it the error on these {split_words(split)} images is {after}."


def _caption(scaled: bool) -> str:
    dots = " Dots: the same after the temperature, hollow where few." if scaled else ""
    return (
        "Bars: the share of right answers among those given with that confidence; pale where fewer than "
        f"{FEW} images. Thin line: as sure as right.{dots} Below: how many images."
    )


def _row(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "range": f"{100 * one['low']:.0f} to {percent(one['high'], 0)}",
        "confidence": percent(one["confidence"], 1),
        "accuracy": percent(one["accuracy"], 1),
        "num_samples": count(one["num_samples"]),
    }
