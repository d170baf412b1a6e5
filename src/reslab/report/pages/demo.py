"""What the demonstration's page says of its curves: every judgement follows the numbers, also where the plain wins.

What the demonstration's page says of the gradient's norm by unit, before training.

Everything that the template of the demonstration's page names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reslab.report.format import count, number, percent, plural, seconds
from reslab.report.pages.run import panel, tile
from reslab.report.pages.run_text import DemoNetwork, DemoPage
from reslab.report.plots.curves import Curve, accuracy_figure, loss_figure
from reslab.report.plots.depth import Profile, depth_figure
from reslab.report.plots.export import svg
from reslab.report.series import Series, eval_series, last_value, splits, train_series
from reslab.spec.errors import refuse

_SAME_ACCURACY = 0.005
_SAME_LOSS = 1.25
_FITTED = 0.98

_DEGRADED = (
    "The plain network is worse on the images it was trained on too, so this is not over-fitting: it is the "
    "degradation problem that residual networks were made for (He et al. 2015, Figures 1 and 6). A deeper plain "
    "network could copy a shallower one and do no worse, but plain training does not find that solution."
)
_DEGRADED_IN_TRAINING_ONLY = (
    "The plain network fits its training images less closely, yet that does not cost it accuracy on new ones here: "
    "the degradation of He et al. (2015, Figure 1) shows in the training alone."
)
_PLAIN_FITS_BETTER = (
    "Here the plain network fits its training images more closely: nothing of the degradation that He et al. report "
    "(2015, Figure 1) is to be seen at this depth. Their plain networks suffer as they grow deeper."
)
_SAME_FIT = (
    "The two fit their training images about equally well: no degradation (He et al. 2015, Figure 1) at this depth. "
    "It appears in deeper plain networks and on harder images."
)


@dataclass(frozen=True)
class Outcome:
    """The numbers of one network that the words are written from; NaN where there is none."""

    name: str
    top1: float
    train_loss: float
    train_top1: float
    diverged: bool


def outcome(network: DemoNetwork) -> Outcome:
    """How a network ended: held-out accuracy, and training loss and accuracy over the last tenth of the log."""
    loss = train_series(network.log, "loss")
    diverged = loss.num_lost > 0 or not math.isfinite(network.top1)
    return Outcome(
        network.name, network.top1, last_value(loss), last_value(train_series(network.log, "top1")), diverged
    )


def demo_summary(page: DemoPage) -> str:
    """One sentence: which of the two is ahead, by how much, or that they are level."""
    residual, plain = (outcome(network) for network in page.networks)
    gap = residual.top1 - plain.top1
    if not math.isfinite(gap):
        return "One of the two networks did not reach a result."
    if abs(gap) < _SAME_ACCURACY:
        return (
            "Here the two are level: at this depth and on this data the shortcuts make no difference to the accuracy."
        )
    if gap > 0:
        return f"The same layers, the same training: with shortcuts the network is {_points(gap)} more accurate."
    return f"A surprise: here the plain network is ahead, by {_points(-gap)}; the shortcuts did not pay."


def curve_words(page: DemoPage) -> list[str]:
    """Paragraphs on the training curves."""
    residual, plain = (outcome(network) for network in page.networks)
    return [paragraph for paragraph in (_accuracies(residual, plain), _fits(residual, plain)) if paragraph]


def _points(gap: float) -> str:
    points = f"{100 * gap:.1f}"
    return f"{points} percentage point{'' if points == '1.0' else 's'}"


def _accuracies(residual: Outcome, plain: Outcome) -> str:
    return (
        f"{residual.name} ends at {percent(residual.top1, 1)} on images it has never seen, {plain.name} at "
        f"{percent(plain.top1, 1)}. Both have the same layers in the same order and the same recipe; the one "
        "difference is the shortcut that adds each unit's input to its output."
    )


def _fits(residual: Outcome, plain: Outcome) -> str:
    """How well the two fit the images they learnt from: the side of the picture that degradation is about."""
    if residual.diverged or plain.diverged:
        names = " and ".join(each.name for each in (residual, plain) if each.diverged)
        return (
            f"The loss of {names} was not always a finite number: the training diverged, and nothing can be compared."
        )
    if not (residual.train_loss > 0 and plain.train_loss > 0):
        return ""
    tops = residual.train_top1, plain.train_top1
    if min(tops) > _FITTED and max(tops) - min(tops) < _SAME_ACCURACY:
        fitted = f"{percent(tops[0], 1)} with shortcuts, {percent(tops[1], 1)} without"
        return f"On the images they learn from both end almost perfect ({fitted}). {_SAME_FIT}"
    losses = f"{number(residual.train_loss, 2)} with shortcuts and at {number(plain.train_loss, 2)} without"
    return f"The training loss ends at {losses}. {_verdict(residual, plain)}"


def _verdict(residual: Outcome, plain: Outcome) -> str:
    ratio = plain.train_loss / residual.train_loss
    if ratio > _SAME_LOSS:
        return _DEGRADED if plain.top1 < residual.top1 else _DEGRADED_IN_TRAINING_ONLY
    return _PLAIN_FITS_BETTER if ratio < 1 / _SAME_LOSS else _SAME_FIT


def demo_rows(page: DemoPage) -> list[list[str]]:
    """The numbers, a row each: its name, then its value for either network; what no network has is left out."""
    ends = [outcome(network) for network in page.networks]
    rows = [
        ["layers with weights", *(count(network.depth) if network.depth else "–" for network in page.networks)],
        ["parameters", *(count(network.params) if network.params else "–" for network in page.networks)],
        ["accuracy on held-out images", *(percent(end.top1) for end in ends)],
        ["loss on held-out images", *(_loss(_held_out_loss(network)) for network in page.networks)],
        ["accuracy on training images", *(percent(end.train_top1) for end in ends)],
        ["loss on training images", *(_loss(end.train_loss) for end in ends)],
        ["training time", *(seconds(network.train_seconds) for network in page.networks)],
    ]
    return [row for row in rows if set(row[1:]) != {"–"}]


def _held_out_loss(network: DemoNetwork) -> float:
    """The last loss on the first split that was evaluated; NaN where there is none."""
    names = splits(network.log)
    line = eval_series(network.log, names[0], "loss") if names else None
    return line.y[-1] if line else math.nan


def _loss(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else "–"


_ALIKE = (
    "The spread over the units is about the same in both; a flat line would mean that all units hear the loss alike."
)
_CAUTION = (
    "Uneven gradients are not the whole story: with batch normalisation He et al. found the gradients of their plain "
    "networks healthy (2015, section 4.1) and left the cause open. What the shortcut changes for certain is what a "
    "unit has to learn: a correction to its input, not the whole signal anew. Doing nothing becomes easy."
)


def gradient_words(page: DemoPage) -> list[str]:
    """Paragraphs on how the gradient travels back through either network; none where no norm was measured."""
    residual, plain = page.networks
    profiles = [_profile(network) for network in (residual, plain) if first_over_last(network.gradient_norms)]
    return [" ".join(profiles), *_spreads(residual, plain), _CAUTION] if profiles else []


def first_over_last(norms: Sequence[tuple[str, float]]) -> float:
    """The gradient's norm at the first unit over that at the last; 0 where it cannot be told."""
    values = [norm for _, norm in norms]
    if len(values) < 2 or not all(0 < value < math.inf for value in (values[0], values[-1])):
        return 0.0
    return values[0] / values[-1]


def _profile(network: DemoNetwork) -> str:
    ratio, name = first_over_last(network.gradient_norms), network.name
    if 0.5 <= ratio <= 2:
        return (
            f"In {name} the gradient keeps its size on the way back: at the first unit it is {number(ratio, 2)} times "
            "what it is at the last."
        )
    change, than, by = ("shrinks", "smaller", 1 / ratio) if ratio < 1 else ("grows", "larger", ratio)
    told = f"In {name} the gradient {change} on the way back"
    return f"{told}: at the first unit it is {_times(by)} {than} than at the last."


def _times(ratio: float) -> str:
    return f"{count(round(ratio))} times" if 10 <= ratio < 1e6 else f"{number(ratio, 2)} times"


def _spreads(residual: DemoNetwork, plain: DemoNetwork) -> list[str]:
    """Which of the two lets its units hear the loss more alike, by its largest norm over its smallest."""
    spreads = [_spread(network.gradient_norms) for network in (residual, plain)]
    if not all(spreads):
        return []
    if max(spreads) / min(spreads) < 1.5:
        return [_ALIKE]
    flat, steep = (residual, plain) if spreads[0] < spreads[1] else (plain, residual)
    return [
        f"A flat line means that all units hear the loss alike. The flatter one is {flat.name}: its largest norm is "
        f"{_times(min(spreads))} its smallest; in {steep.name} it is {_times(max(spreads))}."
    ]


def _spread(norms: Sequence[tuple[str, float]]) -> float:
    values = [norm for _, norm in norms if 0 < norm < math.inf]
    return max(values) / min(values) if len(values) > 1 else 0.0


_COLOURS = ("one", "two")


def demo_parts(page: DemoPage) -> dict[str, Any]:
    """The values of `demo.html`, by name. Raises ValueError unless there are two networks."""
    if len(page.networks) != 2:
        raise refuse("two networks: the residual one, then its plain twin", plural(len(page.networks), "network"))
    return {
        "title": page.title,
        "summary": page.summary or demo_summary(page),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        "tiles": [
            _tile(network, colour, page.num_samples) for network, colour in zip(page.networks, _COLOURS, strict=True)
        ],
        "curves": _panels(page.networks),
        "curve_words": curve_words(page),
        "gradient_svg": _gradients(page.networks),
        "gradient_caption": _gradient_caption(page.networks),
        "gradient_words": gradient_words(page),
        "names": [network.name for network in page.networks],
        "rows": demo_rows(page),
    }


def _tile(network: DemoNetwork, colour: str, num_samples: int) -> dict[str, Any]:
    of = f"of {count(num_samples)} held-out images right" if num_samples else "of the held-out images right"
    return tile(
        network.name, percent(network.top1, 1), of, f"trained in {seconds(network.train_seconds)}", colour=colour
    )


def _held_out(network: DemoNetwork, value: str) -> Series:
    names = splits(network.log)
    return eval_series(network.log, names[0], value) if names else Series("held-out", (), ())


def _panels(networks: Sequence[DemoNetwork]) -> list[dict[str, Any]]:
    losses = [Curve(train_series(each.log, "loss"), each.name, place) for place, each in enumerate(networks)]
    tops = [Curve(_held_out(each, "top1"), each.name, place) for place, each in enumerate(networks)]
    tops += [
        Curve(train_series(each.log, "top1"), f"{each.name}, training", place, dashed=True)
        for place, each in enumerate(networks)
    ]
    panels = []
    if any(curve.line for curve in losses):
        panels.append(
            panel("Training loss", loss_figure(losses), "How well each network fits the images it learns from.", "loss")
        )
    if any(curve.line for curve in tops):
        words = "Solid: images held out. Dashed: the images it learns from."
        panels.append(panel("Accuracy", accuracy_figure(tops), words, "accuracy"))
    return panels


def _profiles(networks: Sequence[DemoNetwork]) -> list[Profile]:
    both = any(network.gradient_norms_end for network in networks)
    start = ", untrained" if both else ""
    profiles = [
        Profile(network.name + start, [norm for _, norm in network.gradient_norms], place)
        for place, network in enumerate(networks)
    ]
    return profiles + [
        Profile(f"{network.name}, trained", [norm for _, norm in network.gradient_norms_end], place, dashed=True)
        for place, network in enumerate(networks)
        if network.gradient_norms_end
    ]


def _gradients(networks: Sequence[DemoNetwork]) -> Markup:
    profiles = _profiles(networks)
    if not any(norm and 0 < norm < float("inf") for profile in profiles for norm in profile.norms):
        return Markup("")
    label = "Norm of the gradient at each unit's input, on a logarithmic scale, from the input to the output."
    return Markup(svg(depth_figure(profiles), "gradients", label))


def _gradient_caption(networks: Sequence[DemoNetwork]) -> str:
    trained = any(network.gradient_norms_end for network in networks)
    when = "Solid: before the first step. Dashed: after training." if trained else "Before the first step of training."
    lost = sum(not 0 < norm < float("inf") for network in networks for _, norm in network.gradient_norms)
    left_out = f" Left out: {plural(lost, 'unit')} whose gradient is zero or no finite number." if lost else ""
    return f"{when} Logarithmic scale; the loss sits at the right, the image at the left.{left_out}"
