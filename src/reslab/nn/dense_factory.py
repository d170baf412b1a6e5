"""Create networks for segmentation and detection from their architecture, with weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load import adapt_preprocess
from reslab.nn.checkpoints.load_report import CheckpointError, LoadReport, check_values
from reslab.nn.checkpoints.match_keys import OPTIONAL_SUFFIX
from reslab.nn.checkpoints.pretrained import Pretrained, fetch_published, is_path, load_pretrained, weights_from_header
from reslab.nn.checkpoints.published import PublishedWeights, find_published_weights
from reslab.nn.checkpoints.read import KEY_PREFIXES, Checkpoint, read_checkpoint, unwrap_checkpoint
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import NormLayer
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid
from reslab.spec.plugins import check_plugins
from reslab.spec.zoo.dense import PUBLISHED_AXES, arch_from_dict, override_dense_arch

_TORCHVISION_KEYS = "torchvision"


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


def load_backbone(network: DenseNetwork, source: Any, chosen_axes: Collection[str] = ()) -> LoadReport:
    """Load the weights of a classification network into the backbone; every entry but those of the head must match.

    `source` is what `pretrained=` takes: a run, a file, a state dict, a tag. The report, also `network.load_report`,
    has a message with the entries that were not used. Raises what `load_pretrained` raises.
    """
    whole = ResidualNetwork(network.residual_network.arch)
    axes = {*chosen_axes, "norm", "norm_eps", "replace_stride_with_dilation"}
    report = load_pretrained(whole, source, ignore_head=True, chosen_axes=axes)
    state, own = whole.state_dict(), set[str]()
    for part in network.backbone_parts:
        part.load_state_dict({name: state[name] for name in part.state_dict()}, strict=True)
        own |= set(part.state_dict())
    unused = [key for key, name in report.matched if name not in own]
    if len(report.matched) < report.num_entries:  # a head of another number of classes
        unused += [name for name in report.reinitialized if name not in own]
    if whole.preprocess is not None and whole.preprocess.channels == network.arch.in_channels:
        network.set_metadata(preprocess=replace(whole.preprocess, transform=""))
        network.set_normalization(whole.preprocess.mean, whole.preprocess.std)
    message = f"entries that the backbone does not use: {', '.join(unused) or 'none'}"
    network.load_report = replace(report, messages=(*report.messages, message))
    return network.load_report


def is_published(source: Pretrained) -> bool:
    """Return whether `pretrained=` names published weights: True, a tag or an entry of torchvision's enum."""
    return isinstance(source, bool | Enum) or (isinstance(source, str) and not is_path(source))


def load_dense_weights(
    network: DenseNetwork, source: Pretrained, *, new_classes: bool = False, strict: bool = True
) -> LoadReport:
    """Load weights of the whole network, with torchvision's keys; return a report of every entry.

    * `source`: a file, a run, a state dict, True or a tag of torchvision's weights of that name.
    * `new_classes`: layers of another number of classes keep their random initial values.
    * `strict=False`: load what matches.

    Class names and preprocessing of published weights and of reslab's own files are set too. Raises CheckpointError for
    a file that is not a checkpoint or does not fit; the network then has some of its weights.
    """
    checkpoint, published = _read_source(network, source)
    check_plugins(checkpoint.header.get("plugins"), "the file")
    _check_same_network(network, checkpoint)
    report = _load_tensors(network, checkpoint, new_classes, strict)
    if checkpoint.header.get("arch"):
        network.copy_normalization(arch_from_dict(checkpoint.header["arch"], checkpoint.header.get("kind")))
    if published.preprocess:
        network.set_metadata(preprocess=adapt_preprocess(published.preprocess, network.arch.in_channels))
    names, num_background = tuple(published.classes or ()), network.arch.num_background
    if len(names) == network.arch.num_classes:
        names = names[num_background:]  # torchvision names the background too
    if names and len(names) + num_background == network.arch.num_classes and not report.reinitialized:
        network.set_metadata(classes=names)
    network.load_report = report
    return report


def is_whole_network(network: DenseNetwork, source: Pretrained) -> bool:
    """Return True if weights are of a whole network for segmentation or detection, False if of a classification.

    `source` is what `pretrained=` takes. Raises CheckpointError for a file that is not a checkpoint.
    """
    if not (isinstance(source, Mapping) or (isinstance(source, str | Path) and is_path(source))):
        try:
            assert not isinstance(source, Path)
            return bool(find_published_weights(network.arch.name, source))
        except ValueError:  # a tag of the backbone's weights
            return False
    checkpoint, _ = _read_source(network, source)
    if checkpoint.header.get("arch"):
        return (checkpoint.header.get("kind") or ModelKind.CLASSIFICATION) != ModelKind.CLASSIFICATION
    return any(name in checkpoint.tensors for name in network.state_dict() if not name.startswith("backbone."))


def _read_source(network: DenseNetwork, source: Pretrained) -> tuple[Checkpoint, PublishedWeights]:
    """Return the weights, and what is known about them."""
    own = network.state_dict()
    prefixes = tuple(prefix for prefix in KEY_PREFIXES if not any(key.startswith(prefix) for key in own))
    if isinstance(source, Mapping):
        checkpoint = unwrap_checkpoint("the state dict", source, key_prefixes=prefixes)
    elif is_published(source):
        assert not isinstance(source, Path)
        published = find_published_weights(network.arch.name, source)
        return fetch_published(published, prefixes), published
    else:
        assert isinstance(source, str | Path)
        checkpoint = read_checkpoint(source, limits=ReadLimits.for_network(own), key_prefixes=prefixes)
    return checkpoint, weights_from_header(checkpoint)


def _check_same_network(network: DenseNetwork, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if one of reslab's own files has weights of another kind of network."""
    if not checkpoint.header.get("arch"):
        return
    other = arch_from_dict(checkpoint.header["arch"], checkpoint.header.get("kind"))
    if type(other) is not type(network.arch):
        required = f"weights of a network for {network.arch.kind}"
        step = "backbone_weights=FILE loads a classification network into the backbone"
        raise CheckpointError(str(invalid(required, f"{checkpoint.name}, of {other.name}", next_step=step)))


def _load_tensors(network: DenseNetwork, checkpoint: Checkpoint, new_classes: bool, strict: bool) -> LoadReport:
    own, tensors = network.state_dict(), dict(checkpoint.tensors)
    differing = [name for name in tensors if name in own and tensors[name].shape != own[name].shape]
    reinitialized = [name for name in differing if new_classes and name.rpartition(".")[0] in network.class_layers]
    mismatch = [(name, tuple(tensors[name].shape), tuple(own[name].shape)) for name in differing]
    mismatch = [entry for entry in mismatch if entry[0] not in reinitialized]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in differing}
    check_values({name: tensor for name, tensor in tensors.items() if name in own}, own, checkpoint.name)
    # torchvision's modules rename the keys of their older versions here.
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    left = {*missing, *(name for name in own if name.endswith(OPTIONAL_SUFFIX))}
    report = LoadReport(
        network=network.arch.name,
        file=checkpoint.name,
        key_scheme=_TORCHVISION_KEYS,
        matched=tuple((name, name) for name in own if name not in left),
        missing=tuple(name for name in missing if name not in differing and not name.endswith(OPTIONAL_SUFFIX)),
        unexpected=tuple(unexpected),
        shape_mismatch=tuple(mismatch),
        reinitialized=tuple(reinitialized),
        prefixes=checkpoint.prefixes,
        num_entries=len(checkpoint.tensors),
        messages=checkpoint.messages,
    )
    if not report.is_complete and (strict or not report.matched):
        required = f"a checkpoint of {report.network}: every entry of file and network matched"
        step = "create_model(..., strict=False) loads what fits"
        raise CheckpointError(str(invalid(required, report.text(max_keys=6), next_step=step)), report)
    return report
