"""A temperature fitted once and kept with the weights, so that whatever predicts with them can divide by it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.nn.checkpoints.safetensors_io import update_header
from reslab.runtime.files import room_for
from reslab.spec.config import to_dict
from reslab.spec.errors import refuse
from reslab.training.evaluation.calibration import answers_of, fit_temperature, log_probabilities
from reslab.training.evaluation.loop import Evaluation
from reslab.training.loading import run_weights
from reslab.training.run import Run


@dataclass(frozen=True)
class Temperature:
    """The T of softmax(z / T), the split that it was fitted on and how many images that has."""

    value: float
    fitted_on: str
    num_samples: int


def calibrated(val: Evaluation) -> Temperature:
    """The temperature that validation answers ask for.

    Raises ValueError where they are not a validation split's (a temperature is never fitted on the test set, nor on
    the images that were learnt from), hold no mistake, or kept no probabilities.
    """
    if val.split != "val":
        raise refuse(
            "a validation split to fit a temperature on",
            f"the split {val.split!r}",
            next_step="train with --val-fraction 0.1: never the test set, nor the images that were learnt from",
        )
    probabilities, labels = answers_of(val)
    if val.num_correct == val.num_samples:
        got = f"{val.num_samples} images, all of them right"
        raise refuse("validation images with a mistake, to fit a temperature on", got, next_step="leave it at 1")
    return Temperature(fit_temperature(log_probabilities(probabilities), labels), val.split, val.num_samples)


def keep_temperature(place: Run | str | Path, found: Temperature) -> None:
    """Write a temperature into the header of a run's weights (or of a `model.safetensors`) and into its run.json.

    Raises ValueError where the run has not ended or the file is not ours; DiskFull.
    """
    folder = isinstance(place, Run) or Path(place).is_dir()
    run = (place if isinstance(place, Run) else Run(place)) if folder else None
    path = run_weights(run) if run else Path(str(place))
    facts: dict[str, Any] = to_dict(found)
    with room_for(path):
        update_header(path, temperature=facts)
    if run:
        run.update(temperature=facts)
