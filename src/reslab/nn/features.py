"""What a network computes on the way: named outputs of stem, stages and units."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.nn.network import FEATURE_LEVELS, ResidualNetwork
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import is_pool, layout_stages, op_stride, stem_channels


@dataclass(frozen=True)
class Feature:
    """An output on the way: its name (`stem`, `layer1`, `layer1.0`), channels, and the stride from the input
    (`reduction`)."""

    name: str
    channels: int
    stride: int


def list_features(model: ResidualNetwork, level: str = "stages") -> list[Feature]:
    """The outputs that `features` names, in order: the stem before its pool, then stages or units."""
    if level not in FEATURE_LEVELS:
        raise unknown_name("level", level, FEATURE_LEVELS)
    arch = model.arch
    pre_pool_stride, stride = 1, 1
    for op in arch.stem_ops:
        stride *= op_stride(op)
        pre_pool_stride = pre_pool_stride if is_pool(op) else stride
    features = [Feature("stem", stem_channels(arch), pre_pool_stride)]
    for number, blocks in enumerate(layout_stages(arch), 1):
        for block in blocks:
            stride *= block.stride
            features.append(Feature(block.name, block.out_channels, stride))
        if level == "stages":
            features[-len(blocks) :] = [Feature(f"layer{number}", blocks[-1].out_channels, stride)]
    return features


class FeatureNetwork(nn.Module):
    """A list of feature maps in place of logits; index 0 is the stem, index i stage i, as in timm.

    `feature_info` says name, channels and stride of each. Stages beyond the last index and the head are left away.
    """

    def __init__(self, network: ResidualNetwork, out_indices: tuple[int, ...] | None = None) -> None:
        super().__init__()
        features = list_features(network)
        indices = tuple(range(len(features))) if out_indices is None else tuple(out_indices)
        if not indices or not all(0 <= index < len(features) for index in indices):
            raise invalid(
                f"out_indices between 0 and {len(features) - 1}", out_indices, str(tuple(range(len(features))))
            )
        self.out_indices = indices
        self.feature_info = [features[index] for index in indices]
        kept_stages = network.stage_names[: max(indices)]
        for name in (*network.stage_names[max(indices) :], *network.final_names, *network.head_names):
            delattr(network, name)
        network.stage_names, network.final_names, network.head_names = kept_stages, [], []
        network.total_stride, network.needs_fixed_size = features[max(indices)].stride, False
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = list(self.network.features(x).values())
        return [outputs[index] for index in self.out_indices]
