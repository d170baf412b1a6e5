"""What in a picture speaks for its class, laid over the picture as a PNG file."""

import copy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from reslab.analysis.attribution import grad_cam
from reslab.analysis.layers import default_layers
from reslab.data.loader import Normalise
from reslab.nn.network import ResidualNetwork

LEAST_SIDE = 224
_STRENGTH = 0.55
# From nothing to much, dark to bright, told apart by colour-blind eyes too (anchors of matplotlib's inferno).
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32)


class HeatMaps:
    """Grad-CAM of the most probable class at the last unit (Selvaraju et al. 2017), by torch in float32."""

    def __init__(self, network: ResidualNetwork, device: torch.device) -> None:
        assert network.preprocess is not None
        self.network = copy.deepcopy(network).to(device).eval()  # the caller's stays where and as it is
        self.normalise = Normalise(network.preprocess, device)
        self.layer = default_layers(network)[-1]

    def __call__(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """Of uint8 (N, C, H, W) and class indices (N,): (N, H, W) from 0 to 1, the largest of each picture 1."""
        x = self.normalise(pictures.to(self.normalise.device))
        maps = grad_cam(self.network, x, targets.to(x.device), self.layer)[:, None]
        scaled = functional.interpolate(maps, pictures.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        most = scaled.amax((1, 2), keepdim=True)
        return (scaled / most.clamp_min(torch.finfo(scaled.dtype).tiny)).clamp(0, 1).cpu()


def overlay(picture: Tensor, heat: Tensor) -> Image.Image:
    """The picture, uint8 (1 or 3, H, W), in grey under the colours of `heat` (H, W); at least LEAST_SIDE pixels."""
    colours = np.array([[np.interp(heat.numpy(), np.linspace(0, 1, 5), channel)] for channel in _COLOURS.T])[:, 0]
    grey = picture.float().mean(0).numpy()[None]
    strength = _STRENGTH * (0.25 + 0.75 * heat.numpy())
    mixed = (1 - strength) * grey + strength * colours
    image = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    height, width = picture.shape[1:]
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    return image.resize((factor * width, factor * height), Image.Resampling.BICUBIC)


def heat_map_path(folder: Path, path: str) -> Path:
    """`photos/cat/1.jpg` as `FOLDER/photos_cat_1.jpg.png`: unlike for every picture."""
    return folder / f"{path.strip('./').replace('/', '_').replace(chr(92), '_') or 'picture'}.png"
