"""Intermediate outputs of a network: named features of stem, stages and blocks."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.nn.network import FEATURE_LEVELS, ResidualNetwork
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import layout_stages, stem_channels, stem_ops, transition_strides
from reslab.spec.operations import is_pool
from reslab.spec.order import op_stride


@dataclass(frozen=True)
class Feature:
    """An intermediate output: its name (`stem`, `layer1`, `layer1.0`), channels, and stride from the input."""

    name: str
    channels: int
    stride: int


def list_features(model: ResidualNetwork, level: str = "stages") -> list[Feature]:
    """Return the outputs that `ResidualNetwork.features` computes, in order: the stem ahead of its pool, then the rest.

    `level` is `stages` or `blocks`. Raises ValueError for an unknown level.
    """
    if level not in FEATURE_LEVELS:
        raise unknown_name("level", level, FEATURE_LEVELS)
    arch = model.arch
    pre_pool_stride, stride = 1, 1
    for op in stem_ops(arch):
        stride *= op_stride(op)
        pre_pool_stride = pre_pool_stride if is_pool(op) else stride
    features = [Feature("stem", stem_channels(arch), pre_pool_stride)]
    for number, (blocks, transition) in enumerate(zip(layout_stages(arch), transition_strides(arch), strict=True), 1):
        stride *= transition
        for block in blocks:
            stride *= block.stride
            features.append(Feature(block.name, block.out_channels, stride))
        if level == "stages":
            features[-len(blocks) :] = [Feature(f"layer{number}", blocks[-1].out_channels, stride)]
    return features


class FeatureNetwork(nn.Module):
    """A network that returns a list of feature maps: index 0 is the stem, index i stage i, as in timm.

    `feature_info` lists name, channels and stride of each. It takes the network over and removes the head and the
    stages beyond the last index from it. Raises ValueError for an index out of range.
    """

    def __init__(self, network: ResidualNetwork, out_indices: tuple[int, ...] | None = None) -> None:
        super().__init__()
        features = list_features(network)
        indices = tuple(range(len(features))) if out_indices is None else tuple(out_indices)
        if not indices or not all(0 <= index < len(features) for index in indices):
            required = f"out_indices between 0 and {len(features) - 1}"
            raise invalid(required, out_indices, str(tuple(range(len(features)))))
        self.out_indices = indices
        self.feature_info = [features[index] for index in indices]
        network.truncate(max(indices), features[max(indices)].stride)
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = list(self.network.features(x).values())
        return [outputs[index] for index in self.out_indices]
