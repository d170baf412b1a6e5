"""The metadata of a network that its weights belong to: class names, preprocessing, temperature, task.

`network.preprocess(image)` runs the transforms of prediction.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from reslab.spec.preprocess import Preprocess


class ImagePreprocess(Preprocess):
    """The preprocessing of a network, callable: `network.preprocess(image)` returns the input (1, C, H, W).

    It has the fields of `Preprocess` and equals one with the same values. `image_size` (height, width) is the network's
    described size; an image of another size after the transform is resized by its shorter side and center-cropped.
    """

    def __init__(self, *args: Any, image_size: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "image_size", image_size)

    @classmethod
    def for_network(cls, preprocess: Preprocess, image_size: tuple[int, int] | None) -> "ImagePreprocess":
        """Return `preprocess` for a network of this image size."""
        values = {field.name: getattr(preprocess, field.name) for field in fields(Preprocess)}
        return cls(**values, image_size=image_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocess):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in fields(Preprocess))

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(Preprocess)))

    def __call__(self, image: Any) -> Tensor:
        """Return the input (1, C, H, W), float32, for an image: Pillow, a path, or uint8 pixels.

        Pixels are an array (H, W), (H, W, C) or a tensor (C, H, W). Raises ValueError for other types and shapes, or a
        file that cannot be read.
        """
        # Networks do not need the code that reads and transforms images until they are given one: `reslab.nn` comes
        # before `reslab.data`, and imports nothing of it.
        prepare_image = importlib.import_module("reslab.data.transforms.pipeline").prepare_image
        return prepare_image(image, self, getattr(self, "image_size", None))


class ModelMetadata:
    """Class names, preprocessing, temperature and task of a model; None where unknown.

    `preprocess` makes the input of an image: `network(network.preprocess(image))`. `temperature` is what `predict`
    divides the logits by; `task` has its name and the values fitted to the data, and is None for classification.
    """

    arch: Any
    classes: tuple[str, ...] | None = None
    temperature: float | None = None
    task: dict[str, Any] | None = None
    _preprocess: ImagePreprocess | None = None

    @property
    def fitted_size(self) -> tuple[int, int] | None:
        """The height and width that `preprocess` fits images to; None for images of any size."""
        size: tuple[int, int] | None = self.arch.image_size
        return size

    @property
    def preprocess(self) -> ImagePreprocess | None:
        """The preprocessing of an image: `network(network.preprocess(image))`; None if unknown."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess | None) -> None:
        self._preprocess = None
        if preprocess is not None:
            self._preprocess = ImagePreprocess.for_network(preprocess, self.fitted_size)

    def set_metadata(
        self,
        *,
        classes: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        temperature: float | None = None,
        task: Mapping[str, Any] | None = None,
    ) -> None:
        """Set class names, preprocessing, temperature and task; None leaves a value as it is."""
        self.classes = self.classes if classes is None else tuple(classes)
        self.temperature = self.temperature if temperature is None else temperature
        self.task = self.task if task is None else dict(task)
        if preprocess is not None:
            self.preprocess = preprocess
