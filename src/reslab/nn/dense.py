"""The base of networks for segmentation and detection: the backbone, its parts and the metadata."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from reslab.nn.checkpoints.load_report import LoadReport
from reslab.nn.metadata import ModelMetadata
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import NormLayer
from reslab.nn.timm_methods import list_features
from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch


class FeatureBackbone(ResidualNetwork):
    """A residual network without its head; `forward` returns the maps N C H W of stem and stages by name.

    The last map is that after the final operations (the norm and activation that end a pre-activated network).
    """

    def __init__(self, arch: Arch, norm_layer: NormLayer | None = None) -> None:
        super().__init__(arch, norm_layer)
        self.remove_head()
        self.channels = {feature.name: feature.channels for feature in list_features(self.arch)}
        self.strides = {feature.name: feature.stride for feature in list_features(self.arch)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        maps = self.features(x)
        last = list(maps)[-1]
        for name in self.final_names:
            maps[last] = getattr(self, name)(maps[last])
        return maps


class DenseNetwork(nn.Module, ModelMetadata, ABC):
    """A network for segmentation or detection on a residual backbone, with what belongs to its weights.

    * `arch`, `classes` (one name for each of `arch.num_classes` but the background), `preprocess`: see `set_metadata`.
      Images keep their size: `preprocess` neither resizes nor crops beyond its transform.
    * `class_layers`: the names of the layers whose number of outputs depends on the number of classes.
    * `part_modules`: the modules of each part, such as `pyramid`, by name; a network need not have all of them.
    * `load_report`: which entries of a loaded checkpoint matched.
    """

    arch: DenseArch
    class_layers: tuple[str, ...] = ()
    part_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {"backbone": ("backbone",)}
    load_report: LoadReport | None = None

    @property
    @abstractmethod
    def residual_network(self) -> ResidualNetwork:
        """The backbone: a residual network without a head, whose blocks analyses can switch off."""

    @property
    def backbone_parts(self) -> tuple[nn.Module, ...]:
        """The modules that hold the backbone's weights, under its own keys."""
        return (self.residual_network,)

    def parts(self) -> list[tuple[str, nn.Module]]:
        """Return the modules of each part that the network has; of one inside another the inner one alone."""
        modules = {name: module for name, module in self.named_modules() if name}
        named = [(part, name) for part, names in self.part_modules.items() for name in names if name in modules]
        return [
            (part, modules[name]) for part, name in named if not any(other.startswith(f"{name}.") for _, other in named)
        ]

    def part_of(self, layer: str) -> str:
        """Return the part that a layer belongs to; empty if none."""
        prefixes = [(name, part) for part, names in self.part_modules.items() for name in names]
        matches = [(len(name), part) for name, part in prefixes if f"{layer}.".startswith(f"{name}.")]
        return max(matches, default=(0, ""))[1]

    @property
    def fitted_size(self) -> None:
        """Images of any size are inputs."""
        return None

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set mean and standard deviation of images in [0, 1], where the network normalizes them itself."""

    def copy_normalization(self, arch: Arch | DenseArch) -> None:
        """Set the normalization of another architecture of this kind, whose weights are loaded."""

    def set_size(self, size: int) -> None:
        """Set the size to which the network resizes images, if it does."""
