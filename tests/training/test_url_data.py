"""A run on shards by URL: trained, cut short, resumed, evaluated, as on shards that lie here."""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from reslab.data.webdataset import http as urls
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run import Run
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from loopback import Web, serving

SMALL = {
    "model.depths": "1,1",
    "model.widths": "16,32",
    "model.strides": "1,2",
    "model.stem": "conv3/2(16) norm act",
    "batch_size": "8",
}
SMALL |= {
    "duration": "5 epochs",
    "train_transform": "random-resized-crop(16) flip",
    "eval_transform": "resize(20) center-crop(16)",
}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Three shards of eight images, dark and bright, and one of validation."""
    urls._block.cache_clear()
    folder = tmp_path / "served"
    folder.mkdir()
    for name, first in (("train-0", 0), ("train-1", 8), ("train-2", 16), ("val-0", 24)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for i in range(first, first + 8):
                image = io.BytesIO()
                pixels = np.random.default_rng(i).integers(0, 64, (24, 28, 3), dtype=np.uint8) + np.uint8(128 * (i % 2))
                Image.fromarray(pixels).save(image, "png")
                for ending, content in (("png", image.getvalue()), ("cls", (b"dark", b"bright")[i % 2])):
                    member = tarfile.TarInfo(f"{i:03}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    with serving(folder) as web:
        yield web


def fail(step: int, model: nn.Module) -> dict[str, Any]:
    raise KeyError(step)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one(
    web: Web, tmp_path: Path, workers: int, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    options: dict[str, Any] = {"overrides": SMALL, "on_log": lambda line: None, "seed": 1, "workers": workers}
    where = f"{web.url}/{{train-{{0..2}},val-0}}.tar"
    whole = train("resnet20_cifar", where, "cifar", output=tmp_path / "whole", **options)
    assert whole.metadata["data"]["requested"] == where
    assert whole.classes == ("bright", "dark")
    steps: dict[str, Any] = {"on_step_end": fail, "hook_every_steps": 8, "save_every_seconds": 0.0}
    with pytest.raises(KeyError):
        train("resnet20_cifar", where, "cifar", output=tmp_path / "cut", **steps, **options)
    again = train(output=tmp_path / "cut", resume=True, on_log=options["on_log"], workers=workers)
    assert timeless(again) == timeless(whole)
    assert evaluate(whole.path).top1 == whole.main_metric
    lines: list[dict[str, Any]] = []
    train(output=tmp_path / "cut", resume=True, on_log=lines.append, workers=1)
    assert any(f"with 1 workers instead of {workers}" in str(line.get("text")) for line in lines)
