"""What the demonstration's page says: every judgement follows the numbers, also where the plain network wins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.report.page import DemoNetwork, DemoPage
from reslab.report.series import eval_series, last_value, splits, train_series
from reslab.report.tables import count, number, percent, seconds

_SAME_ACCURACY = 0.005
_SAME_LOSS = 1.25


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
    return Outcome(network.name, network.top1, last_value(loss), last_value(train_series(network.log, "top1")), diverged)


def demo_summary(page: DemoPage) -> str:
    """One sentence: which of the two is ahead, by how much, or that they are level."""
    residual, plain = (outcome(network) for network in page.networks)
    gap = residual.top1 - plain.top1
    if not math.isfinite(gap):
        return "One of the two networks did not reach a result."
    if abs(gap) < _SAME_ACCURACY:
        return "Here the two are level: at this depth and on this data the shortcuts make no difference to the accuracy."
    if gap > 0:
        return f"The same layers, the same training: with shortcuts the network is {_points(gap)} more accurate."
    return f"A surprise: here the plain network is ahead, by {_points(-gap)}; the shortcuts did not pay."


def curve_words(page: DemoPage) -> list[str]:
    """Paragraphs on the training curves."""
    residual, plain = (outcome(network) for network in page.networks)
    said = [_accuracies(residual, plain), _losses(residual, plain)]
    return [paragraph for paragraph in said if paragraph]


def gradient_words(page: DemoPage) -> list[str]:
    """Paragraphs on the gradient's norm by unit at initialisation."""
    residual, plain = page.networks
    parts = [_profile(network) for network in (residual, plain) if _ends(network.gradient_norms)]
    if not parts:
        return []
    return [" ".join(parts), *_flatter(residual, plain), _CAUTION]


_CAUTION = (
    "Small or uneven gradients are not the whole story: with batch normalisation He et al. found the gradients of "
    "their plain networks healthy (2015, section 4.1) and left the cause open. What the shortcut changes for certain "
    "is what a unit has to learn: a correction to its input, not the whole signal anew. Doing nothing becomes easy."
)


def _points(gap: float) -> str:
    points = f"{100 * gap:.1f}"
    return f"{points} percentage point{'' if points == '1.0' else 's'}"


def _accuracies(residual: Outcome, plain: Outcome) -> str:
    return (
        f"{residual.name} ends at {percent(residual.top1, 1)} on images it has never seen, {plain.name} at "
        f"{percent(plain.top1, 1)}. Both have the same layers in the same order and the same recipe; the one "
        "difference is the shortcut that adds each unit's input to its output."
    )


def _losses(residual: Outcome, plain: Outcome) -> str:
    if residual.diverged or plain.diverged:
        name = " and ".join(each.name for each in (residual, plain) if each.diverged)
        return f"The loss of {name} stopped being a finite number: the training diverged, and the comparison is not fair."
    if not (residual.train_loss > 0 and plain.train_loss > 0):
        return ""
    ratio = plain.train_loss / residual.train_loss
    ends = f"The training loss ends at {number(residual.train_loss, 2)} with shortcuts and at {number(plain.train_loss, 2)} without. "
    if ratio > _SAME_LOSS and plain.top1 < residual.top1:
        return ends + (
            "The plain network is worse on the images it was trained on too, so this is not over-fitting: it is the "
            "degradation problem that residual networks were made for (He et al. 2015, Figures 1 and 6). A deeper "
            "plain network could copy a shallower one and do no worse, but plain training does not find that solution."
        )
    if ratio > _SAME_LOSS:
        return ends + (
            "The plain network fits its training images less closely, yet that does not cost it accuracy on new ones here: "
            "the degradation of He et al. (2015, Figure 1) shows in the training loss alone."
        )
    if ratio < 1 / _SAME_LOSS:
        return ends + (
            "Here the plain network fits its training images more closely: at this depth nothing of the degradation "
            "that He et al. report (2015, Figure 1) is to be seen. Their plain networks suffer as they grow deeper."
        )
    return ends + (
        "The two fit their training images about equally well: no degradation (He et al. 2015, Figure 1) at this depth. "
        "It appears in deeper plain networks and in longer training."
    )


def _ends(norms: Sequence[tuple[str, float]]) -> float:
    """The gradient's norm at the first unit over that at the last; 0 where it cannot be told."""
    values = [norm for _, norm in norms]
    if len(values) < 2 or not all(math.isfinite(value) for value in (values[0], values[-1])) or values[-1] <= 0:
        return 0.0
    return values[0] / values[-1]


def _profile(network: DemoNetwork) -> str:
    ratio = _ends(network.gradient_norms)
    if 0.5 <= ratio <= 2:
        return (
            f"In {network.name} the gradient keeps its size on the way back: at the first unit it is "
            f"{number(ratio, 2)} times what it is at the last."
        )
    if ratio < 0.5:
        return f"In {network.name} the gradient shrinks on the way back: at the first unit it is {_times(1 / ratio)} smaller than at the last."
    return f"In {network.name} the gradient grows on the way back: at the first unit it is {_times(ratio)} larger than at the last."


def _times(ratio: float) -> str:
    return f"{count(round(ratio))} times" if 10 <= ratio < 1e6 else f"{number(ratio, 2)} times"


def _flatter(residual: DemoNetwork, plain: DemoNetwork) -> list[str]:
    """Which of the two lets all units hear the loss more alike, by the spread of the norms."""
    spreads = [_spread(network.gradient_norms) for network in (residual, plain)]
    if not all(spreads):
        return []
    if max(spreads) / min(spreads) < 1.5:
        return ["The spread over the units is about the same in both; a flat line would mean that all units hear the loss alike."]
    flat, steep = (residual, plain) if spreads[0] < spreads[1] else (plain, residual)
    return [
        f"A flat line means that all units hear the loss alike. The flatter one is {flat.name}: its largest norm is "
        f"{_times(min(spreads))} its smallest; in {steep.name} it is {_times(max(spreads))}."
    ]


def _spread(norms: Sequence[tuple[str, float]]) -> float:
    values = [norm for _, norm in norms if 0 < norm < math.inf]
    return max(values) / min(values) if len(values) > 1 else 0.0


def demo_rows(page: DemoPage) -> list[list[str]]:
    """The table under the curves: one row a network."""
    rows = []
    for network in page.networks:
        end = outcome(network)
        held_out = [eval_series(network.log, split, "loss") for split in splits(network.log)]
        rows.append(
            [
                network.name,
                str(network.depth) if network.depth else "–",
                count(network.params) if network.params else "–",
                percent(end.top1),
                percent(end.train_top1),
                number(end.train_loss, 3) if math.isfinite(end.train_loss) else "–",
                number(held_out[0].y[-1], 3) if held_out and held_out[0] else "–",
                seconds(network.train_seconds),
            ]
        )
    return rows
