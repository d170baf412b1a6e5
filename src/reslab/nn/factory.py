"""Create networks by name, from an `Arch`, or from a `model.safetensors` that reslab saved."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.limits import module_limit
from reslab.nn.checkpoints.load_report import check_values
from reslab.nn.checkpoints.safetensors_io import read_header, read_shapes, read_tensors
from reslab.nn.init import init_empty_weights
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import NormLayer
from reslab.nn.timm_methods import FeatureInfo, list_features
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid
from reslab.spec.plugins import check_plugins
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo.dense import arch_from_dict, find_dense_arch, match_all_names, require_model
from reslab.spec.zoo.resolve import AXIS_ALIASES, find_model_name, resolve_arch

if TYPE_CHECKING:
    from reslab.nn.dense import DenseNetwork


def list_models(pattern: str = "*", kind: ModelKind | str | None = None) -> list[str]:
    """Return the sorted names that match a shell pattern (`resnet*_cifar`), or contain it if it has no wildcard.

    `kind`: only those for `classification`, `segmentation` or `detection`. Raises ValueError for an unknown kind.
    """
    return sorted(match_all_names(pattern, kind))


def named_weights(model: str | Arch, pretrained: Any = True) -> Any:
    """Return `pretrained`, or in place of True the weights that the name includes: `a1_in1k` of `resnet50.a1_in1k`."""
    model_name = find_model_name(model) if isinstance(model, str) else None
    return model_name.weights if model_name and model_name.weights and pretrained is True else pretrained


def create_model(
    model: str | Arch | DenseArch,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    pretrained: bool | str | Path | Mapping[str, Tensor] | Enum | None = False,
    backbone_weights: bool | str | Path | Mapping[str, Tensor] | Enum | None = None,
    strict: bool = True,
    allow_extra: bool = False,
    features_only: bool = False,
    out_indices: tuple[int, ...] | None = None,
    norm_layer: NormLayer | None = None,
    **axes: Any,
) -> "ResidualNetwork | FeatureNetwork | DenseNetwork":
    """Create a network by name, TOML file or `Arch`, with random or pretrained weights; any axis can be overridden.

    `create_model("resnet20_cifar", order="bn-after-add", merge="shortcut-gate(-6)", shortcut="pad-split")`.
    torchvision's options are axes too: `groups`, `width_per_group`, `replace_stride_with_dilation` and
    `zero_init_residual`; so are timm's `output_stride`, `drop_path_rate`, `global_pool` (`avg`, `max` or an empty name)
    and `num_classes=0`, a network without its last linear layer (`reslab.spec.library_options`).

    * `pretrained`: True, a tag (`IMAGENET1K_V2`, `a1_in1k`, `hf-hub:org/name`), a file or a state dict. A new
      `num_classes` or `in_channels` then adapts the head or the first convolution; `strict=False` accepts a partial
      load, `allow_extra` entries of the file that the network lacks. The network's `load_report`
      lists which entries matched.
    * `features_only=True`: return the outputs of stem and stages (`out_indices`) in place of logits.
    * `norm_layer`: a callable that takes the number of channels.
    * `backbone_weights`: for segmentation and detection (`fcn_resnet50`), the weights of a classification network, in
      the forms of `pretrained`, for the backbone.

    Raises ValueError for an unknown name or axis, and for axes that cannot be combined.
    """
    overrides = dict(axes)
    pretrained = _pop_weights(overrides, pretrained)
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if in_channels is not None:
        overrides["in_channels"] = in_channels
    if out_indices is not None and not features_only:
        raise invalid("features_only=True with out_indices", "features_only=False", "features_only=True")
    require_model(model)
    dense_arch = find_dense_arch(model)
    if dense_arch is not None:
        if features_only or allow_extra:
            got = f"{dense_arch.name}, a network for {dense_arch.kind}"
            raise invalid("a classification network for features_only and allow_extra", got, dense_arch.backbone.name)
        from reslab.nn.dense_factory import create_dense_network

        return create_dense_network(
            dense_arch,
            overrides,
            pretrained=pretrained,
            backbone_weights=backbone_weights,
            strict=strict,
            norm_layer=norm_layer,
        )
    if backbone_weights is not None:
        raise invalid("pretrained= for the weights of a classification network", "backbone_weights=", "pretrained=")
    assert not isinstance(model, DenseArch)
    # Weights load with the classifier that they have; it goes afterwards.
    removed = {name: overrides.pop(name, None) for name in ("num_classes", "global_pool") if num_classes == 0}
    network = ResidualNetwork(resolve_arch(model, overrides), norm_layer)
    weights = named_weights(model, pretrained)
    if weights is not None and weights is not False:
        ignore_head = features_only or bool(removed)
        _load_weights(network, weights, overrides, strict=strict, ignore_head=ignore_head, allow_extra=allow_extra)
    if removed:
        network.reset_classifier(0, removed["global_pool"])
    return FeatureNetwork(network, out_indices) if features_only else network


def _pop_weights(overrides: dict[str, Any], pretrained: Any) -> Any:
    """Return `pretrained`, or the weights that `overrides` has under torchvision's or timm's name, and remove them."""
    for alias in ("weights", "checkpoint_path"):
        if (value := overrides.pop(alias, None)) not in (None, ""):
            if pretrained:
                raise invalid(
                    f"pretrained or {alias}, two names of one argument", f"pretrained={pretrained!r} and {alias}"
                )
            pretrained = value
    return pretrained


def _load_weights(network: ResidualNetwork, weights: Any, overrides: Mapping[str, Any], **options: bool) -> None:
    """Load pretrained weights into a network, whose head and first convolution the overrides may have changed."""
    from reslab.nn.checkpoints.pretrained import changed_io_sizes, load_pretrained

    changed = {AXIS_ALIASES.get(axis, axis) for axis in overrides}
    adapt = changed_io_sizes(network.arch, changed)
    load_pretrained(network, weights, adapt=adapt, chosen_axes=changed, **options)


def load_network(path: str | Path, device: str | torch.device = "cpu") -> ResidualNetwork:
    """Load the classification network of a `model.safetensors`, as `load_model`.

    Raises what that raises, and ValueError for a network for segmentation or detection.
    """
    model = load_model(path, device)
    if not isinstance(model, ResidualNetwork):
        raise invalid(
            "weights of a classification network",
            f"{path}, of {model.arch.name} for {model.arch.kind}",
            next_step="reslab.nn.factory.load_model(path) loads any kind",
        )
    return model


def load_model(path: str | Path, device: str | torch.device = "cpu") -> "ResidualNetwork | DenseNetwork":
    """Load the network of a `model.safetensors`, in eval mode, with its classes, preprocessing and temperature.

    It may have been saved on any device, and be one for segmentation or detection. Raises ValueError if the file is
    damaged, was not written by reslab, holds a module of another kind (load its state dict into the module), or weights
    that are NaN or infinite.
    """
    header = read_header(path)
    if header["arch"] is None:
        step = "build the module and load read_tensors(path) into it"
        raise invalid("weights of a reslab network", f"{path} of another module", next_step=step)
    check_plugins(header.get("plugins"), path)
    network = _empty_network(arch_from_dict(header["arch"], header.get("kind")), path)
    tensors = read_tensors(path)
    check_values(tensors, network.state_dict(), path)
    network.load_state_dict(tensors, strict=True, assign=True)
    network.set_metadata(
        classes=header["classes"] or None,
        preprocess=from_dict(Preprocess, header["preprocess"]) if header["preprocess"] else None,
        temperature=(header.get("temperature") or {}).get("value"),
        task=header.get("task"),
    )
    return network.to(device).eval()


def _build_network(arch: Arch | DenseArch) -> "ResidualNetwork | DenseNetwork":
    if isinstance(arch, Arch):
        return ResidualNetwork(arch)
    from reslab.nn.dense_factory import build_dense_network

    return build_dense_network(arch)


def _empty_network(arch: Arch | DenseArch, path: str | Path) -> "ResidualNetwork | DenseNetwork":
    """Return the network with tensors that have no memory, for the weights in `path`, whose shapes must be the same."""
    stored = read_shapes(path)
    try:
        # The weights come from the file: allocate and draw none, and build no more modules than it has weights for.
        with init_empty_weights(), module_limit(stored, path):
            network = _build_network(arch)
    except (RuntimeError, TypeError, ArithmeticError, LookupError, MemoryError) as error:
        raise invalid("an architecture that can be built", f"that of {path} ({error})") from error
    required = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differing = [name for name in {**required, **stored} if required.get(name) != stored.get(name)]
    if differing:
        first = differing[0]
        got = f"{path}, where {len(differing)} tensors differ: {first!r} is {stored.get(first, 'missing')}"
        raise invalid(
            f"the tensors of its architecture, {first!r} as {required.get(first, 'none')}",
            got,
            next_step="fetch the file again, or train again",
        )
    return network


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
