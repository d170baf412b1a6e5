"""An evaluation shared by ranks: no sample twice, none missing, the scores of one, for any number of ranks."""

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.loader import eval_loader
from reslab.runtime.distributed import ProcessGroup, _interleave
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.tasks.classification import Classification, ClassificationEvaluation

T = TypeVar("T")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = TensorImageDataset(
    torch.randint(256, (23, 1, 6, 6), dtype=torch.uint8, generator=GENERATOR),
    torch.randint(6, (23,), generator=GENERATOR),
)


class Hands(ProcessGroup):
    """A rank to which the other ranks' values are known already, dealt together as they are between processes."""

    def __init__(self, others: Sequence[list[Any]]) -> None:
        super().__init__()
        self.others = others

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        return list(_interleave([list(values), *self.others]))


class Kept(ProcessGroup):
    """A rank that keeps what it would have sent the others."""

    def merge_interleaved(self, values: Sequence[T]) -> list[T]:
        self.values = list(values)
        return self.values


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 6))


TASK = Classification(tuple("abcdef"))


def part(rank: int, num_ranks: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(eval_loader(IMAGES, 4, Preprocess(1, "", (0.5,), (0.5,)), "cpu", rank=rank, world_size=num_ranks))


def evaluation_of(model: nn.Module, num_ranks: int) -> ClassificationEvaluation:
    sent = []
    for rank in range(1, num_ranks):
        kept = Kept()
        batches = part(rank, num_ranks)
        if batches:
            evaluate_batches(model, batches, TASK, process_group=kept)
        sent.append(kept.values if batches else [])
    return evaluate_batches(model, part(0, num_ranks), TASK, keep_predictions=True, process_group=Hands(sent))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 6, 8])
def test_every_sample_is_evaluated_once_with_the_scores_of_one_process(model: nn.Module, num_ranks: int) -> None:
    """Five batches of 4 and one of 3; of eight ranks two have none."""
    indices = torch.cat([batch[2] for rank in range(num_ranks) for batch in part(rank, num_ranks)])
    assert indices.sort().values.tolist() == list(range(23))
    alone, shared = evaluation_of(model, 1), evaluation_of(model, num_ranks)
    assert shared.to_dict() == alone.to_dict()
    assert shared.confusion_matrix == alone.confusion_matrix
    assert shared.probabilities is not None
    assert alone.probabilities is not None
    assert torch.equal(shared.probabilities, alone.probabilities)
    assert shared.labels is not None
    assert torch.equal(shared.labels, IMAGES.labels)
