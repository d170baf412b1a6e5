"""A series of evaluations, watched: how long is it since the value last fell."""

import math
from collections.abc import Mapping
from typing import Any


class Watch:
    """The least value of a series of evaluations, and how many have passed since it was reached.

    What watches for `patience` evaluations in vain (the schedule `plateau`, early stopping) acts on it.
    """

    def __init__(self, patience: int) -> None:
        assert patience >= 1, patience
        self.patience = patience
        self.least = math.inf
        self.since = 0

    def see(self, value: float) -> bool:
        """Take in the value of the next evaluation; True where `patience` of them in a row were not below the least."""
        if value < self.least:
            self.least, self.since = value, 0
        else:
            self.since += 1
        return self.since >= self.patience

    def rest(self) -> None:
        """Count anew from here; the least value stays."""
        self.since = 0

    def state(self) -> dict[str, Any]:
        """What changes, for the state."""
        return {"least": self.least, "since": self.since}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.least, self.since = float(state["least"]), int(state["since"])
