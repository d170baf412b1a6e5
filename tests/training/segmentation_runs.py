"""Small runs on images with masks, which one rank and two are compared on."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.data.masks import VOID
from reslab.training.run import Run
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from mask_files import disk, write_image, write_mask

SIZES = ((40, 50), (48, 40), (36, 36))
CLASSES = ("ground", "cell", "rim")
TINY = {"model.backbone.depths": "1,1,1", "model.decoder_channels": "16"}


def write_cells(root: Path, num_images: int = 12) -> Path:
    """Disks on a ground in images of three sizes, with void along the upper edge."""
    for i in range(num_images):
        mask = disk(*SIZES[i % 3], 6 + i % 5)
        mask[disk(*SIZES[i % 3], 3) == 1] = 2
        write_image(root / "images" / f"{i:02}.jpg", mask, i)
        mask[:3] = VOID
        write_mask(root / "masks" / f"{i:02}.png", mask)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def cells_run(cells: Path, output: Path, **options: Any) -> Run:
    options = {"overrides": TINY, "epochs": 3, "batch_size": 4, "val_fraction": 0.34, **options}
    return train(data=cells, output=output, seed=3, on_log=lambda line: None, device="cpu", workers=0, **options)


class PixelNetwork(nn.Module):
    """Three logits at each pixel, computed in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.double())


def pixel_run(cells: Path, output: Path) -> Run:
    """Four steps, each an epoch of its own so that the log has a line of it; the gradient is accumulated."""
    settings = {"grad_accum_steps": 2, "duration": "4 epochs", "batch_size": 8, "precision": "float32"}
    settings |= {"optimizer.lr": 0.05, "train_transform": "random-resize(0.5,2,40) pad-to(40) crop(40) flip"}
    return cells_run(
        cells, output, model=PixelNetwork(), overrides=settings, epochs=None, batch_size=None, val_fraction=0.25
    )
