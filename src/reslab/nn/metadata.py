"""The metadata of a network that its weights belong to: class names, preprocessing, temperature, task.

The only module of `reslab.nn` that uses `reslab.data`: `network.preprocess(image)` runs the transforms of prediction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.data.transforms.inference import ImagePreprocess
from reslab.spec.preprocess import Preprocess


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
