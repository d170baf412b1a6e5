"""Create networks for segmentation and detection from their architecture, with weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reslab.nn.dense import DenseNetwork, is_published, load_backbone, load_dense_weights
from reslab.nn.registry import NormLayer
from reslab.spec.dense import DenseArch, ModelKind, override_dense_arch
from reslab.spec.errors import invalid
from reslab.spec.zoo.dense import PUBLISHED_AXES


def _segmentation(arch: Any, norm_layer: NormLayer | None) -> DenseNetwork:
    from reslab.nn.segmentation import SegmentationNetwork  # here, because torchvision takes a second to import

    return SegmentationNetwork(arch, norm_layer)


def _detection(arch: Any, norm_layer: NormLayer | None) -> DenseNetwork:
    from reslab.nn.detection import build_detector

    return build_detector(arch, norm_layer)


_BUILDERS: dict[ModelKind, Callable[[Any, NormLayer | None], DenseNetwork]] = {
    ModelKind.SEGMENTATION: _segmentation,
    ModelKind.DETECTION: _detection,
}


def build_dense_network(arch: DenseArch, norm_layer: NormLayer | None = None) -> DenseNetwork:
    """Return the network of this architecture with random weights. Raises ValueError for an invalid architecture."""
    network = _BUILDERS[arch.kind](arch, norm_layer)
    if norm_layer is not None:  # a file cannot describe it
        network.arch = replace(arch, norm="", backbone=replace(arch.backbone, norm="custom"))
    return network


def create_dense_network(
    arch: DenseArch,
    overrides: Mapping[str, Any],
    *,
    pretrained: Any = False,
    backbone_weights: Any = None,
    strict: bool = True,
    norm_layer: NormLayer | None = None,
) -> DenseNetwork:
    """Create the network with axes overridden, and load weights of all of it (`pretrained`) or of the backbone.

    With weights and another `num_classes`, the layers that depend on it keep their random initial values. Published
    weights set the axes that they were trained with. Raises
    ValueError for both kinds of weights, and what `load_dense_weights` and `load_backbone` raise.
    """
    if pretrained not in (False, None) and backbone_weights not in (False, None):
        required = "pretrained (all weights) or backbone_weights (those of the backbone alone)"
        raise invalid(required, "both", next_step="leave one out")
    if pretrained not in (False, None) and is_published(pretrained):
        overrides = {**PUBLISHED_AXES.get(arch.name, {}), **overrides}
    arch = override_dense_arch(arch, overrides)
    network = build_dense_network(arch, norm_layer)
    if backbone_weights not in (False, None):
        load_backbone(network, backbone_weights, overrides)
    elif pretrained not in (False, None):
        load_dense_weights(network, pretrained, new_classes="num_classes" in overrides, strict=strict)
    return network
