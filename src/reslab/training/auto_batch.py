"""Steps that are only tried, to see what memory they take."""

from dataclasses import replace
from types import TracebackType

import torch

from reslab.runtime.device import exact_arithmetic, num_threads_for, threads
from reslab.runtime.distributed import Ranks
from reslab.runtime.memory import Memory
from reslab.spec.config import to_dict
from reslab.spec.errors import refuse
from reslab.training.assembly import make_steps
from reslab.training.batch_norm import batch_norms
from reslab.training.micro_batch import MicroBatch, choose
from reslab.training.options import AUTO, Asked
from reslab.training.setup import Prepared
from reslab.training.state import has_state
from reslab.training.steps import Steps

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class StepTrial:
    """Steps on the first pictures of a rank's part of the first batch; afterwards the network is as it was.

    Called with a number of pictures it takes a step on them and tells the memory of its peak, None where there was too
    little. `room_bytes` is the memory there was before the first.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps, self.device = steps, next(steps.model.parameters()).device
        self._weights = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in steps.model.state_dict().items()
        }
        self._stepping = replace(steps.stepping, accumulate=1, compiled=None, replica=None)
        self._x, self._y, _ = next(iter(steps.batches.iterate(0)))
        self._memory = Memory(self.device)
        self.room_bytes = self._memory.room_bytes(steps.ranks.place.num_local)

    @property
    def share(self) -> int:
        """A rank's pictures of a batch."""
        return len(self._x)

    def __call__(self, num_images: int) -> int | None:
        self._memory.forget_peak()
        try:
            self._take(num_images)
            used = self._memory.used_bytes()
        except RuntimeError as error:
            if not any(words in str(error).lower() for words in _NO_MEMORY):
                raise
            used = None
        finally:
            self.steps.optimizer.zero_grad(set_to_none=True)
        return None if used is None else used + self._shared_gradients()

    def _take(self, num_images: int) -> None:
        steps, gpus = self.steps, [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), steps.trained(0):
            steps.model.train()
            x, y = self._x[:num_images], self._y[:num_images]
            self._stepping.take(steps.model, steps.loss, steps.optimizer, x, y)

    def _shared_gradients(self) -> int:
        """Ranks that share gradients hold them a second time."""
        weights = self.steps.model.parameters() if self.steps.ranks.place.num_ranks > 1 else ()
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def __enter__(self) -> "StepTrial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.steps.model.load_state_dict(self._weights)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def fitted(prepared: Prepared, asked: Asked, ranks: Ranks) -> Prepared:
    """The run with the parts of its batch that fit the memory, where that was asked for; recorded, and told.

    Raises ValueError where nothing fits, or the system does not tell what there is; a run that began here is gone then.
    """
    run = prepared.run
    if run.facts.get("micro_batch") != AUTO:
        return prepared
    try:
        found, share = _chosen(prepared, asked, ranks)
    except ValueError:
        if ranks.first and not has_state(run.path / "state"):
            run.discard()
        raise
    recipe = replace(prepared.recipe, accumulate=found.parts)
    if ranks.first:
        run.update(recipe=to_dict(recipe), micro_batch={**found.to_dict(), "num_ranks": ranks.num})
    told = found.told(share, ranks.num, bool(batch_norms(prepared.model)))
    return replace(prepared, recipe=recipe, notes=(*prepared.notes, told))


def _chosen(prepared: Prepared, asked: Asked, ranks: Ranks) -> tuple[MicroBatch, int]:
    silent = Ranks(ranks.place, ranks.device)  # with its part of the batch, but nobody to share gradients with
    num_threads = num_threads_for(prepared.input_size, ranks.device)
    steps = make_steps(prepared, asked, silent, 0)
    with exact_arithmetic(), threads(num_threads), StepTrial(steps) as trial:
        rooms = ranks.gather(trial.room_bytes)
        room = rooms[ranks.rank]
        if room is None or None in rooms:
            required = "a system that tells its free memory, for a batch in fitting parts"
            raise refuse(required, str(ranks.device), next_step="set accumulate yourself: --set accumulate=4")
        return choose(trial.share, room, trial, prepared.recipe.accumulate, ranks), trial.share
