"""Run a step of training as one CUDA graph: the processor then launches one graph in place of hundreds of kernels."""

from collections.abc import Callable

import torch

from reslab.training.cuda_graph import capture_graph


def capture(
    step: Callable[[], object], warm_up: int = 3, stream: "torch.cuda.Stream | None" = None
) -> Callable[[], None]:
    """Return a function that replays `step`, captured in a CUDA graph; on a CPU it calls the step itself.

    The step must work on the same tensors every time and never wait for the device. It is run `warm_up` times first.
    It is captured and warmed up on `stream`, by default one of its own.
    """
    if not torch.cuda.is_available():
        return lambda: _call(step)
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph, _ = capture_graph(step, stream)
    torch.cuda.synchronize()
    return graph.replay


def _call(step: Callable[[], object]) -> None:
    step()


def synchronize() -> None:
    """Wait until the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
