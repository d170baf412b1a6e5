"""A trained network, ready to use."""

from pathlib import Path

import torch

from reslab.nn.network import Network
from reslab.nn.weights import load_weights
from reslab.spec.errors import refuse
from reslab.training.device import choose_device
from reslab.training.run import Run


def load(source: Run | str | Path, device: str | torch.device = "cpu") -> Network:
    """The network of a run (its folder) or of a `model.safetensors`, in eval mode, with its `classes` and `preprocess`.

    Raises ValueError where the run has not ended, or trained a module of the user's own.
    """
    place = choose_device(device)
    if isinstance(source, Run) or Path(source).is_dir():
        return load_weights(run_weights(source if isinstance(source, Run) else Run(source)), place)
    return load_weights(source, place)


def run_weights(run: Run) -> Path:
    """The file of a run's weights. Raises ValueError where the run has not ended."""
    if not run.weights_path.exists():
        raise refuse(
            "a run that has ended",
            f"{run.path}, which holds no weights yet",
            next_step=f"go on with it: --output {run.path} --resume",
        )
    return run.weights_path
