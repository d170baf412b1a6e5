"""Deterministic kernels."""

from typing import Any

import torch

from reslab.runtime.device import deterministic_mode


def test_threads_that_overlap_leave_the_arithmetic_as_it_was() -> None:
    """The one that came first leaves first. A setting left behind would make torch's older flag unreadable, which
    torch.onnx reads."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.allow_tf32
    first, second = deterministic_mode(), deterministic_mode()
    first.__enter__()
    second.__enter__()
    assert cudnn.conv.fp32_precision == "ieee"
    first.__exit__(None, None, None)
    assert cudnn.conv.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert (cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.allow_tf32) == before
