"""The page of `reslab demo`: a deep residual network beside its plain twin (He et al. 2015, Figure 6).

Every sentence follows the numbers, also where the plain network wins.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.colors import PLAIN, RESIDUAL
from reslab.report.format import format_duration, format_int, format_number, format_percent, format_split, pluralize
from reslab.report.pages.components import make_panel, make_tile, metric_panel
from reslab.report.series import Curve, eval_splits, first_eval_series, tail_mean, train_series
from reslab.spec.errors import invalid

_COLORS, _CSS_CLASSES = (RESIDUAL, PLAIN), ("residual", "plain")
# Differences below these are no finding.
_ACCURACY_TOLERANCE = 0.005
_LOSS_RATIO_TOLERANCE = 1.25
_SPREAD_RATIO_TOLERANCE = 1.5
_FITTED_ACCURACY = 0.98

_DEGRADATION_TEXT = (
    "The plain network is worse on its training images too, so this is not overfitting: it is the degradation problem "
    "that residual networks solve (He et al. 2015, Figures 1 and 6). A deeper plain network could copy a shallower one "
    "and do no worse, but plain training does not find that solution."
)
_DEGRADATION_IN_TRAINING_TEXT = (
    "The plain network fits its training images less closely, but that does not cost it accuracy on new images here: "
    "the degradation of He et al. (2015, Figure 1) shows in the training loss alone."
)
_PLAIN_FITS_BETTER_TEXT = (
    "Here the plain network fits its training images more closely: there is no degradation (He et al. 2015, Figure 1) "
    "at this depth. Plain networks suffer from it as they get deeper."
)
_SAME_FIT_TEXT = (
    "Both fit their training images about equally well: there is no degradation (He et al. 2015, Figure 1) at this "
    "depth. It appears in deeper plain networks and on harder images."
)
_SIMILAR_SPREAD_TEXT = (
    "The spread over the blocks is about the same in both; a flat line would mean that all blocks receive gradients of "
    "similar size."
)
_GRADIENT_CAVEAT_TEXT = (
    "Uneven gradients are not the whole story: with batch normalization He et al. found the gradients of their plain "
    "networks healthy (2015, section 4.1) and left the cause open. What the shortcut certainly changes is what a block "
    "has to learn: a correction to its input instead of a new signal. The identity becomes easy."
)


@dataclass(frozen=True)
class DemoNetwork:
    """One of the two networks: its log, final accuracy (a fraction) and training time.

    `gradient_norms` are (block, norm of the loss's gradient at that block's input) from the first block to the last,
    at initialization; `gradient_norms_trained` the same after training, empty where not measured.
    """

    name: str
    log: Sequence[Mapping[str, Any]]
    gradient_norms: Sequence[tuple[str, float]]
    top1: float
    train_seconds: float
    gradient_norms_trained: Sequence[tuple[str, float]] = ()
    depth: int = 0
    params: int = 0


@dataclass(frozen=True)
class DemoPage:
    """The values of the demo's page: the residual network, then its plain twin; evaluated on `num_samples` images.

    An empty `summary` is written from the numbers; `num_samples` is 0 where it is not known.
    """

    title: str
    networks: Sequence[DemoNetwork]
    summary: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_samples: int = 0


@dataclass(frozen=True)
class DemoResult:
    """The final metrics of one network, NaN where there is none."""

    name: str
    top1: float
    train_loss: float
    train_top1: float
    diverged: bool


def demo_context(page: DemoPage) -> dict[str, Any]:
    """Return the values of `demo.html`. Raises ValueError unless the page has two networks."""
    if len(page.networks) != 2:
        raise invalid("two networks: the residual one, then its plain twin", pluralize(len(page.networks), "network"))
    split = _split_name(page.networks)
    return {
        "title": page.title,
        "summary": page.summary or demo_summary_text(page),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [
            _network_tile(network, css_class, split, page.num_samples)
            for network, css_class in zip(page.networks, _CSS_CLASSES, strict=True)
        ],
        "curves": _curve_panels(page.networks, split),
        "curve_paragraphs": curve_paragraphs(page),
        "gradient_panel": _gradient_panel(page.networks),
        "gradient_paragraphs": gradient_paragraphs(page),
        "names": list(zip((network.name for network in page.networks), _CSS_CLASSES, strict=True)),
        "rows": _table_rows(page, split),
        "split": split,
    }


def demo_result(network: DemoNetwork) -> DemoResult:
    """Return a network's final accuracy, and its training loss and accuracy over the last tenth of the log."""
    loss = train_series(network.log, "loss")
    return DemoResult(
        name=network.name,
        top1=network.top1,
        train_loss=tail_mean(loss),
        train_top1=tail_mean(train_series(network.log, "top1")),
        diverged=loss.num_non_finite > 0 or not math.isfinite(network.top1),
    )


def demo_summary_text(page: DemoPage) -> str:
    """Return one sentence: which network is more accurate, by how much, or that they are equal."""
    residual, plain = (demo_result(network) for network in page.networks)
    gap = residual.top1 - plain.top1
    if not math.isfinite(gap):
        return "One of the two networks did not reach a result."
    if abs(gap) < _ACCURACY_TOLERANCE:
        return "Both are equally accurate: at this depth and on this data the shortcuts make no difference."
    if gap > 0:
        return f"Same layers, same training: with shortcuts the network is {_points_text(gap)} more accurate."
    return f"Here the plain network is more accurate, by {_points_text(-gap)}; the shortcuts did not help."


def _points_text(gap: float) -> str:
    value = f"{100 * gap:.1f}"
    return f"{value} percentage point{'' if value == '1.0' else 's'}"


def _split_name(networks: Sequence[DemoNetwork]) -> str:
    """Return the full name of the split that was evaluated during training."""
    splits = [split for network in networks for split in eval_splits(network.log)]
    return format_split(splits[0] if splits else "val")


def _network_tile(network: DemoNetwork, css_class: str, split: str, num_samples: int) -> dict[str, Any]:
    images = f"{format_int(num_samples)} {split} images" if num_samples else f"the {split} images"
    return make_tile(
        network.name,
        format_percent(network.top1, 1),
        f"accuracy on {images}",
        f"trained in {format_duration(network.train_seconds)}",
        css_class=css_class,
    )


def _curve_panels(networks: Sequence[DemoNetwork], split: str) -> list[dict[str, Any]]:
    from reslab.report.plots.curves import plot_metric

    colored = list(zip(networks, _COLORS, strict=True))
    losses = [Curve(train_series(net.log, "loss"), net.name, color, is_noisy=True) for net, color in colored]
    accuracies = [Curve(first_eval_series(net.log, "top1"), net.name, color) for net, color in colored]
    accuracies += [
        Curve(train_series(net.log, "top1"), f"{net.name}, training", color, dashed=True, is_noisy=True)
        for net, color in colored
    ]
    panels = []
    if any(curve.series for curve in losses):
        caption = "How well each network fits its training images."
        panels.append(metric_panel(plot_metric(losses), "loss", "Training loss", caption))
    if any(curve.series for curve in accuracies):
        caption = f"Solid: {split} images. Dashed: training images."
        panels.append(metric_panel(plot_metric(accuracies, "%"), "accuracy", "Accuracy", caption))
    return panels


def curve_paragraphs(page: DemoPage) -> list[str]:
    """Return texts on the accuracy and on how well both networks fit their training images."""
    residual, plain = (demo_result(network) for network in page.networks)
    texts = (_accuracy_text(residual, plain, _split_name(page.networks)), _fit_text(residual, plain))
    return [text for text in texts if text]


def _accuracy_text(residual: DemoResult, plain: DemoResult, split: str) -> str:
    return (
        f"{residual.name} reaches {format_percent(residual.top1, 1)} accuracy on the {split} images, {plain.name} "
        f"{format_percent(plain.top1, 1)}. Both have the same layers in the same order and the same recipe; the only "
        "difference is the shortcut that adds each block's input to its output."
    )


def _fit_text(residual: DemoResult, plain: DemoResult) -> str:
    """Compare the training metrics: degradation, unlike overfitting, shows on the training images."""
    if residual.diverged or plain.diverged:
        names = " and ".join(result.name for result in (residual, plain) if result.diverged)
        return f"The loss of {names} became NaN or infinite: training diverged, so the two cannot be compared."
    if not (residual.train_loss > 0 and plain.train_loss > 0):
        return ""
    accuracies = residual.train_top1, plain.train_top1
    # The ratio of two tiny losses means nothing.
    if min(accuracies) > _FITTED_ACCURACY and max(accuracies) - min(accuracies) < _ACCURACY_TOLERANCE:
        values = f"{format_percent(accuracies[0], 1)} with shortcuts, {format_percent(accuracies[1], 1)} without"
        return f"Both fit the training images almost perfectly ({values}). {_SAME_FIT_TEXT}"
    values = f"{format_number(residual.train_loss, 2)} with shortcuts and {format_number(plain.train_loss, 2)} without"
    return f"The final training loss is {values}. {_fit_verdict_text(residual, plain)}"


def _fit_verdict_text(residual: DemoResult, plain: DemoResult) -> str:
    ratio = plain.train_loss / residual.train_loss
    if ratio > _LOSS_RATIO_TOLERANCE:
        return _DEGRADATION_TEXT if plain.top1 < residual.top1 else _DEGRADATION_IN_TRAINING_TEXT
    return _PLAIN_FITS_BETTER_TEXT if ratio < 1 / _LOSS_RATIO_TOLERANCE else _SAME_FIT_TEXT


def _table_rows(page: DemoPage, split: str) -> list[list[str]]:
    """Return a row for each number: its name, then its value for either network; unknown numbers are left out."""
    results = [demo_result(network) for network in page.networks]
    rows = [
        ["weighted layers", *(format_int(network.depth) if network.depth else "–" for network in page.networks)],
        ["parameters", *(format_int(network.params) if network.params else "–" for network in page.networks)],
        [f"{split} accuracy", *(format_percent(result.top1) for result in results)],
        [f"{split} loss", *(_loss_text(_final_eval_loss(network)) for network in page.networks)],
        ["training accuracy", *(format_percent(result.train_top1) for result in results)],
        ["training loss", *(_loss_text(result.train_loss) for result in results)],
        ["training time", *(format_duration(network.train_seconds) for network in page.networks)],
    ]
    return [row for row in rows if set(row[1:]) != {"–"}]


def _final_eval_loss(network: DemoNetwork) -> float:
    series = first_eval_series(network.log, "loss")
    return series.y[-1] if series else math.nan


def _loss_text(value: float) -> str:
    return format_number(value, 3) if math.isfinite(value) else "–"


def _gradient_panel(networks: Sequence[DemoNetwork]) -> dict[str, Any] | None:
    """Return the plot of the gradient norms; None where no norm is positive and finite."""
    from reslab.report.plots.depth import DepthProfile, plot_depth_profiles

    is_trained = any(network.gradient_norms_trained for network in networks)
    suffix = ", untrained" if is_trained else ""
    profiles = [
        DepthProfile(network.name + suffix, [norm for _, norm in network.gradient_norms], index)
        for index, network in enumerate(networks)
    ]
    profiles += [
        DepthProfile(
            f"{network.name}, trained", [norm for _, norm in network.gradient_norms_trained], index, dashed=True
        )
        for index, network in enumerate(networks)
        if network.gradient_norms_trained
    ]
    if not any(norm and 0 < norm < math.inf for profile in profiles for norm in profile.values):
        return None
    names = [[name for name, _ in network.gradient_norms] for network in networks]
    return make_panel(
        plot_depth_profiles(profiles, names=names[0] if names[0] == names[1] else ()),
        "gradients",
        title="Norm of the gradient at each block's input",
        alt_text="Norm of the gradient at each block's input, on a logarithmic scale, from the input to the output.",
        caption=_gradient_caption(networks, is_trained=is_trained),
    )


def _gradient_caption(networks: Sequence[DemoNetwork], *, is_trained: bool) -> str:
    timing = "Solid: before training. Dashed: after training." if is_trained else "Before training."
    num_omitted = sum(not 0 < norm < math.inf for network in networks for _, norm in network.gradient_norms)
    omitted = f" Left out: {pluralize(num_omitted, 'block')} with a zero or non-finite gradient." if num_omitted else ""
    return f"{timing} Logarithmic scale; the loss is at the right, the image at the left.{omitted}"


def gradient_paragraphs(page: DemoPage) -> list[str]:
    """Return texts on how the gradient changes from the last block to the first; none where it was not measured."""
    sentences = [
        _gradient_change_text(network) for network in page.networks if first_to_last_ratio(network.gradient_norms)
    ]
    return [" ".join(sentences), *_spread_paragraphs(page.networks), _GRADIENT_CAVEAT_TEXT] if sentences else []


def first_to_last_ratio(norms: Sequence[tuple[str, float]]) -> float:
    """Return the gradient norm at the first block over that at the last; 0 where either is zero or not finite."""
    values = [norm for _, norm in norms]
    if len(values) < 2 or not all(0 < value < math.inf for value in (values[0], values[-1])):
        return 0.0
    return values[0] / values[-1]


def _gradient_change_text(network: DemoNetwork) -> str:
    ratio, name = first_to_last_ratio(network.gradient_norms), network.name
    if 0.5 <= ratio <= 2:
        return f"In {name} the gradient keeps its size: at the first block it is {_times_text(ratio)} that at the last."
    verb, comparative, factor = ("shrinks", "smaller", 1 / ratio) if ratio < 1 else ("grows", "larger", ratio)
    change = f"{_times_text(factor)} {comparative}"
    return f"In {name} the gradient {verb} towards the input: at the first block it is {change}."


def _times_text(ratio: float) -> str:
    return f"{format_int(round(ratio))} times" if 10 <= ratio < 1e6 else f"{format_number(ratio, 2)} times"


def _spread_paragraphs(networks: Sequence[DemoNetwork]) -> list[str]:
    """Say which network has the more even gradients, by the largest norm over the smallest."""
    spreads = [_max_to_min_ratio(network.gradient_norms) for network in networks]
    if not all(spreads):
        return []
    if max(spreads) / min(spreads) < _SPREAD_RATIO_TOLERANCE:
        return [_SIMILAR_SPREAD_TEXT]
    flatter, steeper = networks if spreads[0] < spreads[1] else reversed(networks)
    return [
        f"A flat line means that all blocks receive gradients of similar size. {flatter.name} is flatter: its largest "
        f"norm is {_times_text(min(spreads))} its smallest; in {steeper.name} it is {_times_text(max(spreads))}."
    ]


def _max_to_min_ratio(norms: Sequence[tuple[str, float]]) -> float:
    values = [norm for _, norm in norms if 0 < norm < math.inf]
    return max(values) / min(values) if len(values) > 1 else 0.0
