"""A picture made ready for a network."""

from pathlib import Path

from torch import Tensor

from reslab.data.transforms.pipeline import Augment
from reslab.deploy.inputs import Item
from reslab.spec.preprocess import Preprocess


class Preparation:
    """A picture to what the network reads: the words of its preprocessing, then its size; uint8 (C, H, W)."""

    def __init__(self, preprocess: Preprocess, image_size: tuple[int, int]) -> None:
        self.preprocess, self.image_size = preprocess, image_size
        self.words = Augment(preprocess.words)
        height, width = image_size
        # The shorter side of the picture to the longer one of the network, so that the crop always fits.
        self.fit = Augment(f"resize({max(height, width)}) center-crop({max(height, width)})")

    def __call__(self, picture: Item | Path) -> Tensor | str:
        """The picture of an item or a file, or why it cannot be read."""
        item = Item(str(picture)) if isinstance(picture, Path) else picture
        try:
            return self.prepare(item.pixels(self.preprocess.channels))
        except (ValueError, OSError) as error:
            return str(error).removeprefix(f"{item.path}: ")

    def prepare(self, pixels: Tensor) -> Tensor:
        """Decoded pixels (C, H, W) of any size. Raises ValueError where the words do not fit them."""
        pixels = self.words.one(pixels, 0)
        return pixels if tuple(pixels.shape[1:]) == self.image_size else self._fitted(pixels)

    def _fitted(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        square = self.fit.one(pixels, 0)
        top, left = (square.shape[1] - height) // 2, (square.shape[2] - width) // 2
        return square[:, top : top + height, left : left + width]
