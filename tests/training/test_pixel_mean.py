"""A recipe with a mean of each pixel: in the weights' header, at resuming, evaluating and predicting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reslab.data.image_datasets import TensorImageDataset
from reslab.data.transforms.normalize import compute_mean_image, decode_mean_image
from reslab.deploy.predict import predict
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.run_data import open_train_data
from reslab.training.train import train


def fail(step: int, model: nn.Module) -> dict[str, Any]:
    raise KeyError(step)


def test_per_pixel_mean_survives_save_resume_eval_predict(
    tiny: dict[str, Any], tmp_path: Path, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    options = {**tiny, "overrides": {**tiny["overrides"], "normalize.per_pixel_mean": "true"}, "seed": 2}
    whole = train(output=tmp_path / "whole", **options)
    data = open_train_data(None)
    images = data.split("train")
    assert isinstance(images, TensorImageDataset)
    kept = read_header(whole.weights_path)["preprocess"]
    assert kept["std"] == [1.0]
    assert torch.equal(decode_mean_image(kept["mean_image"]), compute_mean_image(images))
    with pytest.raises(KeyError):
        train(output=tmp_path / "cut", on_step_end=fail, hook_every_steps=13, save_every_seconds=0.0, **options)
    again = train(output=tmp_path / "cut", resume=True, on_log=options["on_log"])
    assert timeless(again) == timeless(whole)
    assert evaluate(whole.path).top1 == whole.main_metric
    held_out, right = data.split("test"), 0
    for i in range(40):
        pixels = held_out.preview(i)[0].numpy().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        prediction = predict(whole.weights_path, [tmp_path / f"{i}.png"])[0]
        right += prediction.classes[0].name == data.classes[int(held_out.labels[i])]
    assert right >= 30
