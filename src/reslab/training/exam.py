"""How the network of a run is judged on its data, by all ranks together."""

from dataclasses import dataclass

import torch
from torch import nn

from reslab.data.dataset import Data
from reslab.data.loader import eval_batches
from reslab.runtime.distributed import ALONE, Ranks
from reslab.training.evaluation.loop import Evaluation, evaluate_batches
from reslab.training.gradient import Loss

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Exam:
    """The network as it stands, on a split of the data; its running statistics are rank 0's, as they are saved."""

    model: nn.Module
    data: Data
    loss: Loss
    workers: int
    device: torch.device
    ranks: Ranks = ALONE

    @property
    def watched(self) -> str:
        """The split looked at while training: validation where there is one."""
        return "val" if "val" in self.data.splits else self.data.held_out

    def judge(self, split: str, probabilities: bool = False) -> Evaluation:
        """Every sample of the split once, dealt out to the ranks."""
        self.ranks.share_buffers(self.model)
        images, ranks = self.data.split(split), self.ranks
        shared = {"rank": ranks.rank, "num_ranks": ranks.num}
        batches = eval_batches(images, EVALUATION_BATCH, self.data.preprocess, self.device, self.workers, **shared)
        return evaluate_batches(self.model, batches, self.data.num_classes, self.loss, split, probabilities, ranks)
