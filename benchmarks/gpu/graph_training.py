"""Training of a network by he2015-cifar as one CUDA graph a step: batches, gradients and updates all on the GPU.

Every step is that of `reslab train` with the same seed: the samples, their augmentation and the initial weights are
those of `TrainLoader` and `build_model`, and the update is SGD's with momentum and weight decay. Only the order of
floating-point operations differs.
"""

from collections.abc import Callable

import torch
from graphs import capture, synchronize
from torch import Tensor
from torch.nn import functional

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.rng import hash_keys, mix64, permutation, step_seed, temporary_seed
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.nn.factory import create_model
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.recipe import Recipe


class GraphTraining:
    """A network that is trained from step 0 on; `advance(n)` queues n steps.

    The images (N, C, H, W) uint8 and labels (N,) of `data` are on the device, where several networks share them.
    """

    def __init__(
        self,
        arch: str,
        seed: int,
        recipe: Recipe,
        data: TensorImageDataset,
        preprocess: Preprocess,
        num_classes: int = 10,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe, self.seed, self.step, self.dtype = recipe, seed, 0, dtype
        self.images, self.labels = data.images, data.labels
        self.device = data.images.device
        with temporary_seed(step_seed(seed, -1)):
            model = create_model(arch, num_classes=num_classes)
        self.model = model.to(self.device, dtype, memory_format=torch.channels_last).train()
        self.parameters = list(self.model.parameters())
        self.momentum_buffers = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.normalize = Normalize(preprocess, self.device)
        self.transform = TransformPipeline(recipe.train_transform)
        if self.transform.alternates:
            required = "a training transform that does not alternate between epochs"
            raise invalid(required, recipe.train_transform, next_step="use flip in place of alternating-flip")
        self.num_steps_per_epoch = len(data) // recipe.batch_size
        self._positions = torch.arange(recipe.batch_size, device=self.device)
        # What changes between steps is in tensors: the epoch's order and key, the place in it, the rate, the sums.
        self._order = torch.zeros(len(data), dtype=torch.int64, device=self.device)
        self._epoch_key = torch.zeros((), dtype=torch.int64, device=self.device)
        self._start = torch.zeros((), dtype=torch.int64, device=self.device)
        self._negative_lr = torch.zeros((), device=self.device, dtype=dtype)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._error_sum = torch.zeros((), dtype=torch.int64, device=self.device)
        self._num_summed = 0
        # Its own: the small kernels of several networks then share the GPU.
        self._stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self._replay: Callable[[], None] = self._make_replay()

    def _make_replay(self) -> Callable[[], None]:
        """Return one step as a graph, with the state as it was before the steps that warm up."""
        tensors = [*self.model.state_dict().values(), *self.momentum_buffers]
        copies = [tensor.clone() for tensor in tensors]
        replay = capture(self._run_step, stream=self._stream)
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
        for tensor in (self._start, self._loss_sum, self._error_sum):
            tensor.zero_()
        synchronize()
        return replay

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the images and labels of the current step, augmented."""
        indices = self._order[self._start + self._positions]
        keys = mix64(indices + self._epoch_key)
        pixels = self.images.index_select(0, indices)
        if self.normalize.per_pixel:
            x = self.transform.apply_batch(self.normalize(pixels), keys)
        else:
            x = self.normalize(self.transform.apply_batch(pixels, keys))
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last), self.labels[indices]

    def _run_step(self) -> None:
        x, y = self.next_batch()
        outputs = self.model(x)
        loss = functional.cross_entropy(outputs, y)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self._update(list(gradients))
            self._loss_sum += loss.detach()
            self._error_sum += (outputs.detach().argmax(1) != y).sum()
            self._start += self.recipe.batch_size

    def _update(self, gradients: list[Tensor]) -> None:
        """Take the step of SGD: b = m b + g + d w; w = w - lr b."""
        optimizer = self.recipe.optimizer
        gradients = list(torch._foreach_add(gradients, self.parameters, alpha=optimizer.weight_decay))
        torch._foreach_mul_(self.momentum_buffers, optimizer.momentum)
        torch._foreach_add_(self.momentum_buffers, gradients)
        torch._foreach_add_(self.parameters, torch._foreach_mul(self.momentum_buffers, self._negative_lr))

    def advance(self, num_steps: int, lr: float) -> None:
        """Queue steps of one epoch with one learning rate."""
        index = self.step % self.num_steps_per_epoch
        assert index + num_steps <= self.num_steps_per_epoch
        with torch.cuda.stream(self._stream):  # type: ignore[arg-type]
            if index == 0:
                self._begin_epoch(self.step // self.num_steps_per_epoch)
            self._negative_lr.fill_(-lr)
            for _ in range(num_steps):
                self._replay()
        self.step, self._num_summed = self.step + num_steps, self._num_summed + num_steps

    def _begin_epoch(self, epoch: int) -> None:
        order = permutation(len(self._order), self.seed, epoch)
        # From pinned memory, so that the other networks' steps are queued meanwhile.
        self._order.copy_(order.pin_memory() if self._stream else order, non_blocking=True)
        # The number that `hash_keys` adds to each index; mix64 is a bijection that only a tensor of keys has passed.
        self._epoch_key.fill_(key_offset(self.seed, epoch))
        self._start.zero_()

    def read_averages(self) -> dict[str, float]:
        """Return the mean training loss and error, %, since the last call; waits for the steps."""
        synchronize()
        count = max(1, self._num_summed)
        averages = {
            "train_loss": float(self._loss_sum) / count,
            "train_error": 100 * float(self._error_sum) / (count * self.recipe.batch_size),
        }
        with torch.cuda.stream(self._stream):  # type: ignore[arg-type]
            # On the stream of the steps, which would otherwise not wait for it.
            self._loss_sum.zero_()
            self._error_sum.zero_()
        self._num_summed = 0
        return averages


def key_offset(seed: int, epoch: int) -> int:
    """Return the number k with `hash_keys(seed, epoch, i) == mix64(i + k)`."""
    from reslab.data import rng

    offset: int = rng._to_signed((rng.hash_key(seed, epoch) & rng._MASK_64) + rng._GOLDEN_GAMMA)
    assert int(hash_keys(seed, epoch, torch.tensor([1]))) == int(mix64(torch.tensor([1 + offset])))
    return offset
