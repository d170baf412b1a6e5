"""How a measure changes on the way back through the units, and what that is called."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A hundredfold: ResNets of 20 to 110 layers stay within it at initialisation, plain networks to about 30 layers.
LIMIT = 2.0
RULE = (
    "A straight line is fitted to log10 ||dL/dx_l|| over the units l = 1 ... N; D is how many powers of ten it rises "
    "from the last unit back to the first. Vanishing: D < -2, or a norm is zero. Exploding: D > 2, or a norm is no "
    "finite number. Healthy: between."
)


@dataclass(frozen=True)
class Slope:
    """The least-squares line through log10 of norms: `decades` from last unit to first, `per_unit` the factor a unit,
    the `verdict` (`vanishing`, `exploding`, `healthy`, `too few units`) and its `rule`."""

    decades: float
    per_unit: float
    verdict: str
    rule: str = RULE


def slope_of(norms: Sequence[float]) -> Slope:
    """The change of norms, given first unit to last, on the way back; the verdict follows `RULE`."""
    if not all(math.isfinite(norm) for norm in norms):
        return Slope(math.inf, math.inf, "exploding")
    if not all(norm > 0 for norm in norms):
        return Slope(-math.inf, 0.0, "vanishing")
    if len(norms) < 2:
        return Slope(0.0, 1.0, "too few units")
    logs = [math.log10(norm) for norm in norms]
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    rise = sum((place - middle) * (value - mean) for place, value in enumerate(logs))
    back = -rise / sum((place - middle) ** 2 for place in range(len(logs)))
    decades = back * (len(logs) - 1)
    return Slope(decades, 10**back, "vanishing" if decades < -LIMIT else "exploding" if decades > LIMIT else "healthy")
