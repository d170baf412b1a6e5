"""Training steps replayed as one CUDA graph: the processor launches one graph in place of hundreds of kernels."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from reslab.spec.errors import invalid

Metrics = dict[str, Tensor]
NUM_WARM_UP = 3
"""Steps before the capture: libraries choose their kernels and the optimizer creates its state in them."""


ResultT = TypeVar("ResultT")


def capture_graph(
    function: Callable[[], ResultT], stream: torch.cuda.Stream | None
) -> tuple[torch.cuda.CUDAGraph, ResultT]:
    """Record what `function` runs on the GPU as a graph, which runs nothing; return it and the function's result.

    Each replay fills the tensors of the result again. Graphs that are replayed at the same time need a `stream` each,
    because the workspaces of cuBLAS belong to the stream.
    """
    graph = torch.cuda.CUDAGraph()
    # Only this thread is recorded: others may copy batches to the GPU meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = function()
    return graph, result


class GraphedStep:
    """Takes training steps `step(x, y)`: the first ones as they are, then as replays of one captured CUDA graph.

    A replay works on fixed memory: each batch is copied into it, and the learning rates of the optimizer are tensors.
    Noise inside the network follows `torch.manual_seed` in a replay, too. Every step, captured or not, updates the
    weights alike, so that a run that is resumed equals one that was not. On a CPU no step is captured, but all of
    them use the same fixed memory. cuDNN's search must be off, as in `deterministic_mode`: replays of kernels that it
    had chosen ended in illegal memory accesses (torch 2.11, CUDA 13.0).
    Raises ValueError for batches that are lists of images or change their shape, and for a step that cannot be
    captured because it waits for the GPU.
    """

    def __init__(
        self, step: Callable[[Tensor, Tensor], Metrics], optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self._step, self._optimizer = step, optimizer
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._metrics: Metrics = {}
        self._num_steps = 0
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True

    def __call__(self, x: Tensor, y: Tensor) -> Metrics:
        """Take one step on a batch; return its metrics."""
        inputs = self._copy_inputs(x, y)
        self._num_steps += 1
        if self._stream is None:
            return self._step(*inputs)
        if self._num_steps <= NUM_WARM_UP:
            return self._run_on(self._stream, inputs)
        if self._graph is None:
            self._graph = self._capture(inputs)
        else:
            self._call_step_hooks()
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}

    def _copy_inputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Copy a batch into the memory that all steps read."""
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise invalid("batches of images of one size", "lists of images", next_step="set cuda_graph=false")
        if self._inputs is None:
            self._inputs = x.clone(), y.clone()
            return self._inputs
        for fixed, new in zip(self._inputs, (x, y), strict=True):
            if fixed.shape != new.shape or fixed.dtype != new.dtype:
                required, got = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (fixed, new))
                raise invalid(f"batches of shape {required}, as the first", got, next_step="set cuda_graph=false")
            fixed.copy_(new, non_blocking=True)
        return self._inputs

    def _run_on(self, stream: torch.cuda.Stream, inputs: tuple[Tensor, Tensor]) -> Metrics:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            metrics = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return {name: value.clone() for name, value in metrics.items()}

    def _capture(self, inputs: tuple[Tensor, Tensor]) -> torch.cuda.CUDAGraph:
        """Record the step, which runs nothing; its metrics are filled in by every replay."""
        torch.cuda.synchronize()  # an error of an earlier step is not one of the capture
        try:
            graph, self._metrics = capture_graph(lambda: self._step(*inputs), self._stream)
        except RuntimeError as error:
            got = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            required = "a training step without waiting for the GPU (.item(), .cpu(), printing) for cuda_graph"
            raise invalid(required, got, next_step="set cuda_graph=false") from error
        return graph

    def _call_step_hooks(self) -> None:
        """Call what the optimizer calls before each update: a replay does not pass through its `step`."""
        for hook in self._optimizer._optimizer_step_pre_hooks.values():
            hook(self._optimizer, (), {})
