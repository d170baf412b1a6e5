"""What a network computes on the way: named outputs of stem, stages and units."""

from dataclasses import dataclass

from torch import Tensor, nn

from reslab.nn.network import LEVELS, Network
from reslab.spec.errors import refuse, unknown
from reslab.spec.layout import is_pool, plan_stages, stem_channels, word_stride


@dataclass(frozen=True)
class Feature:
    """An output on the way: its name (`stem`, `layer1`, `layer1.0`), channels, and the stride from the input
    (`reduction`)."""

    name: str
    channels: int
    stride: int


def list_features(model: Network, level: str = "stages") -> list[Feature]:
    """The outputs that `features` names, in order: the stem before its pool, then stages or units."""
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    arch = model.arch
    before_pool, stride = 1, 1
    for word in arch.stem_words:
        stride *= word_stride(word)
        before_pool = before_pool if is_pool(word) else stride
    found = [Feature("stem", stem_channels(arch), before_pool)]
    for number, units in enumerate(plan_stages(arch), 1):
        for unit in units:
            stride *= unit.stride
            found.append(Feature(unit.name, unit.out_channels, stride))
        if level == "stages":
            found[-len(units) :] = [Feature(f"layer{number}", units[-1].out_channels, stride)]
    return found


class FeatureNetwork(nn.Module):
    """A list of feature maps in place of logits; index 0 is the stem, index i stage i, as in timm.

    `feature_info` says name, channels and stride of each. Stages beyond the last index and the head are left away.
    """

    def __init__(self, network: Network, out_indices: tuple[int, ...] | None = None) -> None:
        super().__init__()
        known = list_features(network)
        indices = tuple(range(len(known))) if out_indices is None else tuple(out_indices)
        if not indices or not all(0 <= index < len(known) for index in indices):
            raise refuse(f"out_indices between 0 and {len(known) - 1}", out_indices, str(tuple(range(len(known)))))
        self.out_indices = indices
        self.feature_info = [known[index] for index in indices]
        kept = network.stage_names[: max(indices)]
        for name in (*network.stage_names[max(indices) :], *network.last_names, *network.head_names):
            delattr(network, name)
        network.stage_names, network.last_names, network.head_names = kept, [], []
        network.total_stride, network.fixed_size = known[max(indices)].stride, False
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        found = list(self.network.features(x).values())
        return [found[index] for index in self.out_indices]
