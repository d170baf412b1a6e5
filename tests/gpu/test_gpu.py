"""Tests on a GPU, skipped without one: `pytest -m gpu`. On a CPU `test_script.py` tries the same functions."""

from pathlib import Path

import pytest
import torch
from checks import CHECKS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.filterwarnings("default")  # the compiler warns of slower settings, which are meant
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str, tmp_path: Path) -> None:
    CHECKS[name](torch.device("cuda"), tmp_path)
