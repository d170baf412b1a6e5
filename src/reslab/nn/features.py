"""A network that returns the intermediate outputs of another one."""

from torch import Tensor, nn

from reslab.nn.network import ResidualNetwork
from reslab.nn.timm_methods import FeatureInfo, list_features
from reslab.spec.errors import invalid


class FeatureNetwork(nn.Module):
    """A network that returns a list of feature maps: index 0 is the stem, index i stage i, as in timm.

    `feature_info` lists channels, stride and module of all, in timm's form. It takes the network over and removes the
    head and the stages beyond the last index from it. Raises ValueError for an index out of range.
    """

    def __init__(self, network: ResidualNetwork, out_indices: tuple[int, ...] | None = None) -> None:
        super().__init__()
        features = list_features(network.arch)
        indices = tuple(range(len(features))) if out_indices is None else tuple(out_indices)
        if not indices or not all(0 <= index < len(features) for index in indices):
            required = f"out_indices between 0 and {len(features) - 1}"
            raise invalid(required, out_indices, str(tuple(range(len(features)))))
        self.out_indices = indices
        self.feature_info = FeatureInfo(features, network.stem_end, indices)
        network.truncate(max(indices), features[max(indices)].stride)
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = list(self.network.features(x).values())
        return [outputs[index] for index in self.out_indices]
