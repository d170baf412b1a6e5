"""What the demonstration's page says of its curves: every judgement follows the numbers, also where the plain wins.

What the demonstration's page says of the gradient's norm by unit, before training.

Everything that the template of the demonstration's page names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reslab.report.format import format_duration, format_int, format_number, format_percent, pluralize
from reslab.report.pages.run import make_tile, panel_context
from reslab.report.pages.run_text import DemoNetwork, DemoPage
from reslab.report.plots.curves import Curve, plot_accuracy, plot_loss
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.export import render_inline_svg
from reslab.report.series import Series, eval_series, eval_splits, tail_mean, train_series
from reslab.spec.errors import invalid

_ACCURACY_TOLERANCE = 0.005
_LOSS_RATIO_TOLERANCE = 1.25
_FITTED_ACCURACY = 0.98

_DEGRADATION_TEXT = (
    "The plain network is worse on the images it was trained on too, so this is not over-fitting: it is the "
    "degradation problem that residual networks were made for (He et al. 2015, Figures 1 and 6). A deeper plain "
    "network could copy a shallower one and do no worse, but plain training does not find that solution."
)
_DEGRADATION_IN_TRAINING_TEXT = (
    "The plain network fits its training images less closely, yet that does not cost it accuracy on new ones here: "
    "the degradation of He et al. (2015, Figure 1) shows in the training alone."
)
_PLAIN_FITS_BETTER_TEXT = (
    "Here the plain network fits its training images more closely: nothing of the degradation that He et al. report "
    "(2015, Figure 1) is to be seen at this depth. Their plain networks suffer as they grow deeper."
)
_SAME_FIT_TEXT = (
    "The two fit their training images about equally well: no degradation (He et al. 2015, Figure 1) at this depth. "
    "It appears in deeper plain networks and on harder images."
)


@dataclass(frozen=True)
class DemoResult:
    """The numbers of one network that the words are written from; NaN where there is none."""

    name: str
    top1: float
    train_loss: float
    train_top1: float
    diverged: bool


def compute_demo_result(network: DemoNetwork) -> DemoResult:
    """How a network ended: held-out accuracy, and training loss and accuracy over the last tenth of the log."""
    loss = train_series(network.log, "loss")
    diverged = loss.num_non_finite > 0 or not math.isfinite(network.top1)
    return DemoResult(
        network.name, network.top1, tail_mean(loss), tail_mean(train_series(network.log, "top1")), diverged
    )


def demo_summary_text(page: DemoPage) -> str:
    """One sentence: which of the two is ahead, by how much, or that they are level."""
    residual, plain = (compute_demo_result(network) for network in page.networks)
    gap = residual.top1 - plain.top1
    if not math.isfinite(gap):
        return "One of the two networks did not reach a result."
    if abs(gap) < _ACCURACY_TOLERANCE:
        return (
            "Here the two are level: at this depth and on this data the shortcuts make no difference to the accuracy."
        )
    if gap > 0:
        return f"The same layers, the same training: with shortcuts the network is {_points_text(gap)} more accurate."
    return f"A surprise: here the plain network is ahead, by {_points_text(-gap)}; the shortcuts did not pay."


def curve_paragraphs(page: DemoPage) -> list[str]:
    """Paragraphs on the training curves."""
    residual, plain = (compute_demo_result(network) for network in page.networks)
    return [paragraph for paragraph in (_accuracy_text(residual, plain), _fit_text(residual, plain)) if paragraph]


def _points_text(gap: float) -> str:
    value = f"{100 * gap:.1f}"
    return f"{value} percentage point{'' if value == '1.0' else 's'}"


def _accuracy_text(residual: DemoResult, plain: DemoResult) -> str:
    return (
        f"{residual.name} ends at {format_percent(residual.top1, 1)} on images it has never seen, {plain.name} at "
        f"{format_percent(plain.top1, 1)}. Both have the same layers in the same order and the same recipe; the one "
        "difference is the shortcut that adds each unit's input to its output."
    )


def _fit_text(residual: DemoResult, plain: DemoResult) -> str:
    """How well the two fit the images they learnt from: the side of the picture that degradation is about."""
    if residual.diverged or plain.diverged:
        names = " and ".join(result.name for result in (residual, plain) if result.diverged)
        return (
            f"The loss of {names} was not always a finite number: the training diverged, and nothing can be compared."
        )
    if not (residual.train_loss > 0 and plain.train_loss > 0):
        return ""
    accuracies = residual.train_top1, plain.train_top1
    if min(accuracies) > _FITTED_ACCURACY and max(accuracies) - min(accuracies) < _ACCURACY_TOLERANCE:
        accuracy_values = (
            f"{format_percent(accuracies[0], 1)} with shortcuts, {format_percent(accuracies[1], 1)} without"
        )
        return f"On the images they learn from both end almost perfect ({accuracy_values}). {_SAME_FIT_TEXT}"
    loss_values = (
        f"{format_number(residual.train_loss, 2)} with shortcuts and at {format_number(plain.train_loss, 2)} without"
    )
    return f"The training loss ends at {loss_values}. {_fit_verdict_text(residual, plain)}"


def _fit_verdict_text(residual: DemoResult, plain: DemoResult) -> str:
    ratio = plain.train_loss / residual.train_loss
    if ratio > _LOSS_RATIO_TOLERANCE:
        return _DEGRADATION_TEXT if plain.top1 < residual.top1 else _DEGRADATION_IN_TRAINING_TEXT
    return _PLAIN_FITS_BETTER_TEXT if ratio < 1 / _LOSS_RATIO_TOLERANCE else _SAME_FIT_TEXT


def demo_table_rows(page: DemoPage) -> list[list[str]]:
    """The numbers, a row each: its name, then its value for either network; what no network has is left out."""
    results = [compute_demo_result(network) for network in page.networks]
    rows = [
        ["layers with weights", *(format_int(network.depth) if network.depth else "–" for network in page.networks)],
        ["parameters", *(format_int(network.params) if network.params else "–" for network in page.networks)],
        ["accuracy on held-out images", *(format_percent(result.top1) for result in results)],
        ["loss on held-out images", *(_format_loss(_final_eval_loss(network)) for network in page.networks)],
        ["accuracy on training images", *(format_percent(result.train_top1) for result in results)],
        ["loss on training images", *(_format_loss(result.train_loss) for result in results)],
        ["training time", *(format_duration(network.train_seconds) for network in page.networks)],
    ]
    return [row for row in rows if set(row[1:]) != {"–"}]


def _final_eval_loss(network: DemoNetwork) -> float:
    """The last loss on the first split that was evaluated; NaN where there is none."""
    split_names = eval_splits(network.log)
    series = eval_series(network.log, split_names[0], "loss") if split_names else None
    return series.y[-1] if series else math.nan


def _format_loss(value: float) -> str:
    return format_number(value, 3) if math.isfinite(value) else "–"


_SIMILAR_SPREAD_TEXT = (
    "The spread over the units is about the same in both; a flat line would mean that all units hear the loss alike."
)
_CAVEAT_TEXT = (
    "Uneven gradients are not the whole story: with batch normalisation He et al. found the gradients of their plain "
    "networks healthy (2015, section 4.1) and left the cause open. What the shortcut changes for certain is what a "
    "unit has to learn: a correction to its input, not the whole signal anew. Doing nothing becomes easy."
)


def gradient_paragraphs(page: DemoPage) -> list[str]:
    """Paragraphs on how the gradient travels back through either network; none where no norm was measured."""
    residual, plain = page.networks
    sentences = [
        _gradient_change_text(network) for network in (residual, plain) if first_to_last_ratio(network.gradient_norms)
    ]
    return [" ".join(sentences), *_spread_paragraphs(residual, plain), _CAVEAT_TEXT] if sentences else []


def first_to_last_ratio(norms: Sequence[tuple[str, float]]) -> float:
    """The gradient's norm at the first unit over that at the last; 0 where it cannot be told."""
    values = [norm for _, norm in norms]
    if len(values) < 2 or not all(0 < value < math.inf for value in (values[0], values[-1])):
        return 0.0
    return values[0] / values[-1]


def _gradient_change_text(network: DemoNetwork) -> str:
    ratio, name = first_to_last_ratio(network.gradient_norms), network.name
    if 0.5 <= ratio <= 2:
        return (
            f"In {name} the gradient keeps its size on the way back: at the first unit it is {format_number(ratio, 2)} times "
            "what it is at the last."
        )
    verb, comparative, factor = ("shrinks", "smaller", 1 / ratio) if ratio < 1 else ("grows", "larger", ratio)
    clause = f"In {name} the gradient {verb} on the way back"
    return f"{clause}: at the first unit it is {_times_text(factor)} {comparative} than at the last."


def _times_text(ratio: float) -> str:
    return f"{format_int(round(ratio))} times" if 10 <= ratio < 1e6 else f"{format_number(ratio, 2)} times"


def _spread_paragraphs(residual: DemoNetwork, plain: DemoNetwork) -> list[str]:
    """Which of the two lets its units hear the loss more alike, by its largest norm over its smallest."""
    spreads = [_max_to_min_ratio(network.gradient_norms) for network in (residual, plain)]
    if not all(spreads):
        return []
    if max(spreads) / min(spreads) < 1.5:
        return [_SIMILAR_SPREAD_TEXT]
    flatter, steeper = (residual, plain) if spreads[0] < spreads[1] else (plain, residual)
    return [
        f"A flat line means that all units hear the loss alike. The flatter one is {flatter.name}: its largest norm is "
        f"{_times_text(min(spreads))} its smallest; in {steeper.name} it is {_times_text(max(spreads))}."
    ]


def _max_to_min_ratio(norms: Sequence[tuple[str, float]]) -> float:
    values = [norm for _, norm in norms if 0 < norm < math.inf]
    return max(values) / min(values) if len(values) > 1 else 0.0


_COLOR_CLASSES = ("one", "two")


def demo_context(page: DemoPage) -> dict[str, Any]:
    """The values of `demo.html`, by name. Raises ValueError unless there are two networks."""
    if len(page.networks) != 2:
        raise invalid("two networks: the residual one, then its plain twin", pluralize(len(page.networks), "network"))
    return {
        "title": page.title,
        "summary": page.summary or demo_summary_text(page),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [
            _network_tile(network, color_class, page.num_samples)
            for network, color_class in zip(page.networks, _COLOR_CLASSES, strict=True)
        ],
        "curves": _curve_panels(page.networks),
        "curve_paragraphs": curve_paragraphs(page),
        "gradient_svg": _gradient_svg(page.networks),
        "gradient_caption": _gradient_caption(page.networks),
        "gradient_paragraphs": gradient_paragraphs(page),
        "names": [network.name for network in page.networks],
        "rows": demo_table_rows(page),
    }


def _network_tile(network: DemoNetwork, color_class: str, num_samples: int) -> dict[str, Any]:
    note = f"of {format_int(num_samples)} held-out images right" if num_samples else "of the held-out images right"
    return make_tile(
        network.name,
        format_percent(network.top1, 1),
        note,
        f"trained in {format_duration(network.train_seconds)}",
        color_class=color_class,
    )


def _held_out_series(network: DemoNetwork, key: str) -> Series:
    split_names = eval_splits(network.log)
    return eval_series(network.log, split_names[0], key) if split_names else Series("held-out", (), ())


def _curve_panels(networks: Sequence[DemoNetwork]) -> list[dict[str, Any]]:
    losses = [Curve(train_series(network.log, "loss"), network.name, index) for index, network in enumerate(networks)]
    accuracies = [
        Curve(_held_out_series(network, "top1"), network.name, index) for index, network in enumerate(networks)
    ]
    accuracies += [
        Curve(train_series(network.log, "top1"), f"{network.name}, training", index, dashed=True)
        for index, network in enumerate(networks)
    ]
    panels = []
    if any(curve.series for curve in losses):
        panels.append(
            panel_context(
                "Training loss", plot_loss(losses), "How well each network fits the images it learns from.", "loss"
            )
        )
    if any(curve.series for curve in accuracies):
        caption = "Solid: images held out. Dashed: the images it learns from."
        panels.append(panel_context("Accuracy", plot_accuracy(accuracies), caption, "accuracy"))
    return panels


def _gradient_profiles(networks: Sequence[DemoNetwork]) -> list[DepthProfile]:
    has_trained = any(network.gradient_norms_trained for network in networks)
    suffix = ", untrained" if has_trained else ""
    profiles = [
        DepthProfile(network.name + suffix, [norm for _, norm in network.gradient_norms], index)
        for index, network in enumerate(networks)
    ]
    return profiles + [
        DepthProfile(
            f"{network.name}, trained", [norm for _, norm in network.gradient_norms_trained], index, dashed=True
        )
        for index, network in enumerate(networks)
        if network.gradient_norms_trained
    ]


def _gradient_svg(networks: Sequence[DemoNetwork]) -> Markup:
    profiles = _gradient_profiles(networks)
    if not any(norm and 0 < norm < float("inf") for profile in profiles for norm in profile.values):
        return Markup("")
    alt_text = "Norm of the gradient at each unit's input, on a logarithmic scale, from the input to the output."
    return Markup(render_inline_svg(plot_depth_profiles(profiles), "gradients", alt_text))


def _gradient_caption(networks: Sequence[DemoNetwork]) -> str:
    has_trained = any(network.gradient_norms_trained for network in networks)
    timing_text = (
        "Solid: before the first step. Dashed: after training." if has_trained else "Before the first step of training."
    )
    num_non_finite = sum(not 0 < norm < float("inf") for network in networks for _, norm in network.gradient_norms)
    omitted_text = (
        f" Left out: {pluralize(num_non_finite, 'unit')} whose gradient is zero or no finite number."
        if num_non_finite
        else ""
    )
    return f"{timing_text} Logarithmic scale; the loss sits at the right, the image at the left.{omitted_text}"
