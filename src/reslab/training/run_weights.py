"""The weights of a run: the final ones, or while it has none the best so far of its checkpoint; their temperature."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslab.runtime.files import disk_full_guard
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.training.run import Run, weights_header

# Listing runs needs no network: torch is imported by what reads weights.
if TYPE_CHECKING:
    import torch

    from reslab.nn.network import ResidualNetwork
    from reslab.training.evaluation.calibration import FittedTemperature


def load(source: Run | str | Path, device: "str | torch.device" = "cpu") -> "ResidualNetwork":
    """Load the network of a run, of a `model.safetensors`, or of an exported folder, in eval mode.

    It has `classes` and `preprocess`. A run that has not ended gives its best weights so far, with a warning. Raises
    ValueError if it has none yet, or trained a user's own module.
    """
    weights_path = find_weights_path(source)
    from reslab.nn.factory import load_network
    from reslab.runtime.device import choose_device

    return load_network(weights_path, choose_device(device))


def find_weights_path(source: Run | str | Path) -> Path:
    """Return the weights file of a run or an exported folder, or the file itself. Raises like `run_weights_path`."""
    if isinstance(source, Run):
        return run_weights_path(source)
    folder = Path(source)
    exported_path = folder / "model.safetensors"
    if folder.is_dir() and not (folder / "run.json").exists() and exported_path.is_file():
        return exported_path
    return run_weights_path(Run(folder)) if folder.is_dir() else folder


class InterimWeightsWarning(UserWarning):
    """A run has not ended, and its best weights so far are used."""


def run_weights_path(run: Run, allow_interim: bool = True) -> Path:
    """Return the file of a run's final weights, or of the best so far of a run that has not ended, with a warning.

    Raises ValueError if the run has no weights yet or, without `allow_interim`, has not ended.
    """
    if run.weights_path.exists():
        return run.weights_path
    path = _write_interim_weights(run) if allow_interim else None
    if path is None:
        raise invalid(
            "a run that has ended",
            f"{run.path}, which has no weights yet",
            next_step=f"resume it: --output {run.path} --resume",
        )
    return path


def interim_weights_path(run: Run) -> Path:
    """Return the place of the best weights so far, which are written when they are used."""
    return run.path / "checkpoint" / "best-so-far.safetensors"


def _write_interim_weights(run: Run) -> Path | None:
    """Write the best weights of the checkpoint, warn, and return their file; None before the first step."""
    from reslab.nn.checkpoints.safetensors_io import save_state_dict
    from reslab.training.checkpoint import load_train_checkpoint

    checkpoint, path = load_train_checkpoint(run.path / "checkpoint"), interim_weights_path(run)
    if checkpoint is None or not checkpoint.step:
        return None
    step = checkpoint.best["step"] if checkpoint.best else checkpoint.step
    text = f"best weights so far, step {step}, of a run that was at step {checkpoint.step}"
    selection = {"selection": "interim", "best_step": step, "selection_text": text, "step": checkpoint.step}
    if not path.exists() or _header_step(path) != checkpoint.step:
        header = {"arch": run.metadata["model"]["arch"], "metrics": None, **selection, **weights_header(run)}
        with disk_full_guard(path):
            save_state_dict(path, checkpoint.selected_weights(), header)
    warnings.warn(
        f"{run.path} has not ended: these are its {text} (continue it: --output {run.path} --resume)",
        InterimWeightsWarning,
        stacklevel=1,  # one place, so that it is shown once
    )
    return path


def _header_step(path: Path) -> int | None:
    from reslab.nn.checkpoints.safetensors_io import read_header

    try:
        return read_header(path).get("step")
    except ValueError:
        return None


def save_temperature(target: Run | str | Path, temperature: "FittedTemperature") -> None:
    """Write a temperature into the header of a run's weights (or of a `model.safetensors`) and into its run.json.

    Raises ValueError if the run has not ended or the file was not written by reslab; DiskFullError.
    """
    from reslab.nn.checkpoints.safetensors_io import update_header

    is_run = isinstance(target, Run) or Path(target).is_dir()
    run = (target if isinstance(target, Run) else Run(target)) if is_run else None
    path = run_weights_path(run, allow_interim=False) if run else Path(str(target))
    fields: dict[str, Any] = to_dict(temperature)
    with disk_full_guard(path):
        update_header(path, temperature=fields)
    if run:
        run.update(temperature=fields)
