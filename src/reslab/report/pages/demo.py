"""What the demonstration's page says of its curves: every judgement follows the numbers, also where the plain wins."""

import math
from dataclasses import dataclass

from reslab.report.format import count, number, percent, seconds
from reslab.report.page import DemoNetwork, DemoPage
from reslab.report.series import eval_series, last_value, splits, train_series

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
