"""How long the steps wait for their data."""

import time
from collections.abc import Iterator

from torch import Tensor

from reslab.training.loop import Batches


class Awaited:
    """The same batches; `seconds` grows by what each `next` takes: reading, decoding, augmenting where no worker does.

    On a GPU what is only queued there is not waited for, and not counted.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.num_steps_per_epoch = batches.num_steps_per_epoch
        self.seconds = 0.0

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches from `start_step` on."""
        begun = time.perf_counter()
        for batch in self.batches.iterate(start_step):
            self.seconds += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()
