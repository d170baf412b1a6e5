"""A trained network, ready to use."""

from pathlib import Path

import torch

from reslab.nn.checkpoints.safetensors_io import load_weights
from reslab.nn.network import Network
from reslab.runtime.device import choose_device
from reslab.spec.errors import refuse
from reslab.training.run import Run


def load(source: Run | str | Path, device: str | torch.device = "cpu") -> Network:
    """The network of a run (its folder), of a `model.safetensors`, or of a folder that `export` made, in eval mode,
    with its `classes` and `preprocess`.

    Raises ValueError where the run has not ended, or trained a module of the user's own.
    """
    place = choose_device(device)
    return load_weights(find_weights(source), place)


def find_weights(source: Run | str | Path) -> Path:
    """The file of the weights of a run, of an exported folder, or the file itself; raises as `run_weights`."""
    if isinstance(source, Run):
        return run_weights(source)
    folder = Path(source)
    inside = folder / "model.safetensors"
    if folder.is_dir() and not (folder / "run.json").exists() and inside.is_file():
        return inside
    return run_weights(Run(folder)) if folder.is_dir() else folder


def run_weights(run: Run) -> Path:
    """The file of a run's weights. Raises ValueError where the run has not ended."""
    if not run.weights_path.exists():
        raise refuse(
            "a run that has ended",
            f"{run.path}, which holds no weights yet",
            next_step=f"go on with it: --output {run.path} --resume",
        )
    return run.weights_path
