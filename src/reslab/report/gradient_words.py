"""What the demonstration's page says of the gradient's norm by unit, before training."""

import math
from collections.abc import Sequence

from reslab.report.format import count, number
from reslab.report.page import DemoNetwork, DemoPage

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
