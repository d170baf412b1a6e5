"""Load a checkpoint into a network: account for every entry first, then change the network.

Also adapts weights to a new number of classes or input channels.
"""

import logging
import math
import re
import statistics
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.diagnose import (
    WeightsOrigin,
    key_scheme_warnings,
    origin_warnings,
    override_warning,
    suggest_overrides,
)
from reslab.nn.checkpoints.limits import ReadLimits
from reslab.nn.checkpoints.load_report import (
    CheckpointError,
    CheckpointWarning,
    LoadReport,
    Shape,
    check_values,
)
from reslab.nn.checkpoints.match_keys import (
    OPTIONAL_SUFFIX,
    AllowedMismatch,
    CheckpointEntry,
    KeyMatching,
    convert_entries,
    match_by_name,
    match_by_order,
)
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import CONV_TYPES
from reslab.spec.errors import invalid
from reslab.spec.preprocess import ChannelOrder, Preprocess


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Return a first convolution's weight O C H W for `in_channels` input channels.

    For one channel it is summed over C, else repeated and multiplied by C / in_channels, as in timm. An image with
    equal channels then gives the same output as before, wherever C divides in_channels.
    """
    channels = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(in_channels / channels), 1, 1)[:, :in_channels]
    return repeated * (channels / in_channels)


def adapt_preprocess(preprocess: Preprocess, in_channels: int) -> Preprocess:
    """Return the preprocessing for `in_channels`: mean and std averaged for one channel, else repeated."""
    if preprocess.channels == in_channels:
        return preprocess
    mean, std = (_resize_values(values, in_channels) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, channels=in_channels, mean=mean, std=std, mean_image="", channel_order=ChannelOrder.RGB)


def _resize_values(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if count == 1:
        return (statistics.mean(values),)
    return tuple(values[i % len(values)] for i in range(count))


def last_linear_name(network: nn.Module) -> str | None:
    """Return the name of the last linear layer, whose outputs are the classes; None without one."""
    return _last_or_none(name for name, module in network.named_modules() if isinstance(module, nn.Linear))


def first_conv_name(network: nn.Module) -> str | None:
    """Return the name of the first convolution, which reads the input; None without one."""
    return next((name for name, module in network.named_modules() if isinstance(module, CONV_TYPES)), None)


def _last_or_none(names: Iterable[str]) -> str | None:
    items = list(names)
    return items[-1] if items else None


def equal_up_to_trailing_ones(tensor: Tensor, shape: torch.Size) -> bool:
    """Return whether the shapes differ only by trailing ones, as those of a linear layer and a 1x1 convolution do."""
    longer, shorter = sorted((tuple(tensor.shape), tuple(shape)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and all(size == 1 for size in longer[len(shorter) :])


# Messages (what was done) are logged at a level that is shown by default; what may be wrong is a Python warning.
_LOGGER = logging.getLogger("reslab.nn.checkpoints.load")
_BY_ORDER_WARNING = (
    "{file} uses no known key scheme: its layers were matched by order and shape, which does not reveal the order of "
    "operations, the shortcut type or the strided convolution; compare the accuracy with a published score"
)


@dataclass
class _LoadPlan:
    """The decisions about each entry, collected before anything is changed."""

    state: dict[str, Tensor] = field(default_factory=dict)
    matched: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    shape_mismatch: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    reinitialized: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def load_checkpoint(
    network: ResidualNetwork,
    checkpoint: Checkpoint,
    *,
    adapt: Collection[str] = (),
    strict: bool = True,
    ignore_head: bool = False,
    allow_extra: bool = False,
    origin: WeightsOrigin | None = None,
) -> LoadReport:
    """Load a checkpoint into a network, whatever key scheme it uses, and return a report of every entry.

    * `adapt`: "num_classes" and/or "in_channels", if they were requested explicitly. A head with other classes (or
      none) in the file then keeps its random initial values, and the first convolution is adapted to its channels.
    * `strict=False`: load what matches, and warn. `ignore_head`: the head is not needed.
    * `allow_extra`: leave out entries that the network lacks; those of losses and metrics always are.
    * `origin`: what is known about the network of the weights; warn if it is, or may be, another one.

    Raises CheckpointError, with the network unchanged, if entries are missing, unexpected or of another shape, if an
    unknown key scheme has no unique assignment by order and shape, and for weights that are integers, or NaN or
    infinite (`allow_nonfinite_weights` allows these).
    """
    model_state = network.state_dict()
    read_limits(network).check_num_tensors(len(checkpoint.tensors), checkpoint.name)
    allowed = AllowedMismatch("num_classes" in adapt or ignore_head, "in_channels" in adapt)
    matching = match_by_name(checkpoint, model_state) or match_by_order(checkpoint, model_state, allowed)
    matching, converted = convert_entries(network, matching, model_state)
    kept, left_out = leave_out_extra(matching.entries, model_state, allow_extra)
    matching = replace(matching, entries=kept)
    entries, messages, new_warnings = _merge_shared_blocks(network, matching)
    plan = _LoadPlan(messages=[*checkpoint.messages, *converted, *left_out, *messages])
    if allowed.classes:
        plan.reinitialized += _reinitialized_head(network, entries, model_state)
    for name, tensor in model_state.items():
        _plan_entry(plan, name, tensor, entries.get(name), network, allowed)
    if plan.reinitialized and not ignore_head:
        reason = f"the network has {network.arch.num_classes} classes, and the file's head has others or is missing"
        plan.messages.append(f"{', '.join(plan.reinitialized)} keep their random initial values: {reason}")
    new_warnings += key_scheme_warnings(network.arch, matching.key_scheme, checkpoint.name)
    new_warnings += [_BY_ORDER_WARNING.format(file=checkpoint.name)] if matching.by_order else []
    report = _build_report(network, checkpoint, matching, entries, plan, new_warnings)
    _check_complete(report, network, entries, model_state, strict)
    check_values(plan.state, model_state, checkpoint.name)
    if origin is not None and not (matching.by_order and origin.arch is None):
        texts = origin_warnings(network.arch, origin, matching.key_scheme, checkpoint.name, ResidualNetwork)
        report = replace(report, warnings=(*texts, *report.warnings))
    _copy_state(network, plan.state)
    network.load_report = report
    _log_report(report)
    return report


def read_limits(network: ResidualNetwork) -> ReadLimits:
    """Return the limits on a checkpoint file for this network."""
    num_repeats = max(network.arch.depths, default=1) if network.arch.share_weights else 1
    return ReadLimits.for_network(network.state_dict(), num_repeats)


def _merge_shared_blocks(
    network: ResidualNetwork, matching: KeyMatching
) -> tuple[dict[str, CheckpointEntry], list[str], list[str]]:
    """Merge equal entries of blocks that share their weights. Return the entries, messages and warnings."""
    entries = dict(matching.entries)
    repeated = [name for name in entries if re.match(r"layer\d+\.[1-9]\d*\.", name)]
    first_block_names = {name: re.sub(r"^(layer\d+)\.\d+\.", r"\1.0.", name) for name in repeated}
    all_equal = bool(repeated) and all(
        first_block_names[name] in entries
        and torch.equal(entries[name].tensor, entries[first_block_names[name]].tensor)
        for name in repeated
    )
    if all_equal and network.arch.share_weights:
        for name in repeated:
            del entries[name]
        return entries, [f"merged {len(repeated)} equal entries of blocks that share their weights"], []
    if all_equal and max(network.arch.depths, default=0) > 2:
        reason = "all blocks of each stage have the same weights"
        return entries, [], [override_warning(network.arch, {"share_weights": True}, reason)]
    return entries, [], []


def _reinitialized_head(
    network: ResidualNetwork, entries: Mapping[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Return the head's keys if the file's head has other classes or is missing; nothing if it fits."""
    head = last_linear_name(network)
    names = tuple(name for name in model_state if head is not None and name.rpartition(".")[0] == head)
    entry = entries.get(f"{head}.weight")
    if entry is not None and (
        entry.tensor.shape[0] == network.arch.num_classes
        or _input_shape(entry.tensor) != _input_shape(model_state[names[0]])
    ):
        return ()
    return names


def _input_shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.flatten(1).shape[1:]) if tensor.ndim > 1 else ()


def _plan_entry(
    plan: _LoadPlan,
    name: str,
    model_tensor: Tensor,
    entry: CheckpointEntry | None,
    network: ResidualNetwork,
    allowed: AllowedMismatch,
) -> None:
    if name in plan.reinitialized:
        return
    if entry is None:
        plan.missing += [] if name.endswith(OPTIONAL_SUFFIX) else [name]
        return
    tensor = entry.tensor
    if tensor.shape == model_tensor.shape or equal_up_to_trailing_ones(tensor, model_tensor.shape):
        plan.state[name] = tensor.reshape(model_tensor.shape)
    elif name == f"{first_conv_name(network)}.weight" and allowed.channels and _same_kernel_shape(tensor, model_tensor):
        plan.state[name] = adapt_channels(tensor, model_tensor.shape[1])
        method = "summed" if model_tensor.shape[1] == 1 else "repeated and rescaled"
        reason = f"the network has {model_tensor.shape[1]}, the file {tensor.shape[1]}"
        plan.messages.append(f"{name} {method} over its input channels: {reason}")
    else:
        plan.shape_mismatch.append((name, tuple(tensor.shape), tuple(model_tensor.shape)))
        return
    plan.matched.append((entry.file_key, name))


def _same_kernel_shape(tensor: Tensor, model_tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[0] == model_tensor.shape[0] and tensor.shape[2:] == model_tensor.shape[2:]


def _build_report(
    network: ResidualNetwork,
    checkpoint: Checkpoint,
    matching: KeyMatching,
    entries: Mapping[str, CheckpointEntry],
    plan: _LoadPlan,
    load_warnings: list[str],
) -> LoadReport:
    model_state = network.state_dict()
    unexpected = [
        entry.file_key
        for name, entry in entries.items()
        if name not in model_state and not name.endswith(OPTIONAL_SUFFIX)
    ]
    return LoadReport(
        network=network.arch.name,
        file=checkpoint.name,
        key_scheme=matching.key_scheme.name,
        matched=tuple(plan.matched),
        missing=tuple(plan.missing),
        unexpected=(*unexpected, *matching.conflicts),
        shape_mismatch=tuple(plan.shape_mismatch),
        reinitialized=tuple(plan.reinitialized),
        by_order=matching.by_order,
        prefixes=checkpoint.prefixes,
        num_entries=len(checkpoint.tensors),
        messages=tuple(plan.messages),
        warnings=tuple(load_warnings),
    )


def _check_complete(
    report: LoadReport,
    network: ResidualNetwork,
    entries: Mapping[str, CheckpointEntry],
    model_state: Mapping[str, Tensor],
    strict: bool,
) -> None:
    if report.is_complete or (report.matched and not strict):
        return
    file_shapes = {name: tuple(entry.tensor.shape) for name, entry in entries.items()}
    model_shapes = {name: tuple(tensor.shape) for name, tensor in model_state.items()}
    hints = suggest_overrides(network.arch, file_shapes, model_shapes, ResidualNetwork)
    required = f"a checkpoint of {report.network}: every entry of file and network matched"
    if report.unexpected and not (report.missing or report.shape_mismatch):
        hints = [*hints, "allow_extra=True (--allow-extra) leaves out the entries that the network lacks"]
    steps = [*hints, "create_model(..., strict=False) loads what fits"] if report.matched else hints
    lines = [str(invalid(required, report.text(max_keys=6))), *(f"  {step}" for step in steps)]
    raise CheckpointError("\n".join(lines), report)


def _copy_state(network: ResidualNetwork, state: Mapping[str, Tensor]) -> None:
    on_meta = any(tensor.is_meta for tensor in network.state_dict().values())
    if on_meta:
        model_state = network.state_dict()
        state = {name: tensor.to(model_state[name].dtype).clone() for name, tensor in state.items()}
    network.load_state_dict(state, strict=False, assign=on_meta)


def _log_report(report: LoadReport) -> None:
    _LOGGER.info("%s", report.summary)
    for message in report.messages:
        _LOGGER.warning("%s: %s", report.network, message)
    texts = list(report.warnings)
    if not report.is_complete:
        texts.append(f"partially loaded (strict=False): {report.text(max_keys=6)}")
    for text in texts:
        # 6 frames up is the caller of create_model(..., pretrained=...).
        warnings.warn(text, CheckpointWarning, stacklevel=6)


_NO_NETWORK = re.compile(
    r"(?:^|\.)(?:\w+_)?(?:loss(?:es|_fn|_func|_module)?|criterion|criteria|metrics?|acc(?:uracy)?|confmat|auroc)(?:_\w+)?(?:\.|$)"
)
_DETECTOR = re.compile(
    r"^(?:fpn_\w+|proposal_generator|roi_heads|sem_seg_head|top_block|neck|bbox_head|rpn_head|data_preprocessor)\."
    r"|^pixel_(?:mean|std)$"
)
_MAX_NAMES = 4


def leave_out_extra(
    entries: Mapping[str, CheckpointEntry], names: Collection[str], allow_extra: bool
) -> tuple[dict[str, CheckpointEntry], list[str]]:
    """Return the entries without those that belong to no network, and messages that name them.

    `names`: the network's keys, which always stay. With `allow_extra`, every entry that is not among them is left out.
    """
    extra = [name for name in entries if name not in names and not name.endswith(OPTIONAL_SUFFIX)]
    groups = {
        "of a loss or metric": [name for name in extra if _NO_NETWORK.search(entries[name].file_key)],
        "of a detector": [name for name in extra if _DETECTOR.search(name)],
    }
    known = {name for group in groups.values() for name in group}
    groups["that the network lacks, as allowed"] = [name for name in extra if allow_extra and name not in known]
    messages = []
    for kind, group in groups.items():
        if group:
            keys = ", ".join(entries[name].file_key for name in group[:_MAX_NAMES])
            more = f" and {len(group) - _MAX_NAMES} more" if len(group) > _MAX_NAMES else ""
            messages.append(f"left out {len(group)} entries {kind}: {keys}{more}")
    left_out = {name for group in groups.values() for name in group}
    return {name: entry for name, entry in entries.items() if name not in left_out}, messages
