"""A checkpoint brought into a network: every entry accounted for before anything is changed.

Weights made to fit a new number of classes or of input channels.
"""

import logging
import math
import re
import statistics
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.diagnose import key_scheme_warnings, override_warning, suggest_overrides
from reslab.nn.checkpoints.load_report import CheckpointError, CheckpointWarning, LoadReport, Shape
from reslab.nn.checkpoints.match_keys import (
    OPTIONAL_SUFFIX,
    AllowedMismatch,
    CheckpointEntry,
    KeyMatching,
    match_by_name,
    match_by_order,
)
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weight O C H W for `in_channels`: summed over C for one channel, else repeated and times C
    / in_channels.

    So a picture whose channels are all alike gives what it gave before, wherever C divides in_channels (as timm has
    it).
    """
    channels = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(in_channels / channels), 1, 1)[:, :in_channels]
    return repeated * (channels / in_channels)


def adapt_preprocess(preprocess: Preprocess, in_channels: int) -> Preprocess:
    """The preprocessing for `in_channels`: the average of mean and std for one channel, else both repeated."""
    if preprocess.channels == in_channels:
        return preprocess
    mean, std = (_resize_values(values, in_channels) for values in (preprocess.mean, preprocess.std))
    return Preprocess(in_channels, preprocess.transform, mean, std)


def _resize_values(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if count == 1:
        return (statistics.mean(values),)
    return tuple(values[i % len(values)] for i in range(count))


def last_linear_name(network: nn.Module) -> str | None:
    """The name of the last linear layer, which tells the classes; None where there is none."""
    return _last_or_none(name for name, module in network.named_modules() if isinstance(module, nn.Linear))


def first_conv_name(network: nn.Module) -> str | None:
    """The name of the first convolution, which reads the input; None where there is none."""
    return next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def _last_or_none(names: Iterable[str]) -> str | None:
    items = list(names)
    return items[-1] if items else None


def equal_up_to_trailing_ones(tensor: Tensor, shape: torch.Size) -> bool:
    """Whether only trailing ones part the shapes: a linear layer kept as a 1x1 convolution, or the reverse."""
    longer, shorter = sorted((tuple(tensor.shape), tuple(shape)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and all(size == 1 for size in longer[len(shorter) :]) and bool(shorter)


# What was done is said here, at a level that is shown unless someone asks otherwise; what may be wrong is a warning.
_LOGGER = logging.getLogger("reslab.nn.checkpoints.load")
_BY_ORDER_WARNING = (
    "{file} has names of no known dialect: its layers were matched by order and shape. Order of words, shortcut and "
    "place of the stride cannot be seen that way: hold a published score against it"
)


@dataclass
class _LoadPlan:
    """What is being decided about each entry."""

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
    extra_warnings: Sequence[str] = (),
) -> LoadReport:
    """Copy a checkpoint into a network, in whatever dialect it names its entries; the report says which went where.

    `adapt`: of "num_classes" and "in_channels", those that were asked for anew: the head then starts fresh where the
    file's has other classes or none, and the first convolution is summed or repeated over its input channels.
    `strict=False` goes on half-loaded, and warns. `headless`: the head is not needed. `told`: what else to warn of.
    Raises CheckpointError, nothing changed, where entries are missing, unexpected or of other shapes, and where a
    dialect that is not known has no single assignment by order and shape.
    """
    model_state = network.state_dict()
    allowed = AllowedMismatch("num_classes" in adapt or ignore_head, "in_channels" in adapt)
    matching = match_by_name(checkpoint, model_state) or match_by_order(checkpoint, model_state, allowed)
    entries, messages, new_warnings = _merge_shared_blocks(network, matching)
    plan = _LoadPlan(messages=[*checkpoint.messages, *messages])
    if allowed.classes:
        plan.reinitialized += _reinitialized_head(network, entries, model_state)
    for name, tensor in model_state.items():
        _plan_entry(plan, name, tensor, entries.get(name), network, allowed)
    if plan.reinitialized and not ignore_head:
        reason = f"{network.arch.num_classes} classes were asked for, and the file's head has others or is missing"
        plan.messages.append(f"{', '.join(plan.reinitialized)} start fresh: {reason}")
    new_warnings += key_scheme_warnings(network.arch, matching.key_scheme, checkpoint.name)
    new_warnings += [_BY_ORDER_WARNING.format(file=checkpoint.name)] if matching.by_order else []
    report = _build_report(network, checkpoint, matching, entries, plan, [*extra_warnings, *new_warnings])
    _check_complete(report, network, entries, model_state, strict)
    _copy_state(network, plan.state)
    network.load_report = report
    _log_report(report)
    return report


def _merge_shared_blocks(
    network: ResidualNetwork, matching: KeyMatching
) -> tuple[dict[str, CheckpointEntry], list[str], list[str]]:
    """The entries of a network whose units share weights brought together; what was done, and what may be wrong."""
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
        return entries, [f"{len(repeated)} entries of units that share their weights brought together in the first"], []
    if all_equal and max(network.arch.depths, default=0) > 2:
        reason = "all units of each stage hold the same weights"
        return entries, [], [override_warning(network.arch, {"share_weights": True}, reason)]
    return entries, [], []


def _reinitialized_head(
    network: ResidualNetwork, entries: Mapping[str, CheckpointEntry], model_state: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """The head's entries where the file's head has other classes or is missing; none where it fits."""
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
        reason = f"{model_tensor.shape[1]} were asked for, {tensor.shape[1]} are in the file"
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
        network.arch.name,
        checkpoint.name,
        matching.key_scheme.name,
        tuple(plan.matched),
        tuple(plan.missing),
        (*unexpected, *matching.conflicts),
        tuple(plan.shape_mismatch),
        tuple(plan.reinitialized),
        matching.by_order,
        checkpoint.prefixes,
        len(checkpoint.tensors),
        tuple(plan.messages),
        tuple(load_warnings),
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
    hints = suggest_overrides(
        network.arch, file_shapes, {name: tuple(tensor.shape) for name, tensor in model_state.items()}
    )
    required = f"a checkpoint of {report.network}: every entry of the file and of the network matched"
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
        texts.append(f"half-loaded, as asked: {report.text(max_keys=6)}")
    for text in texts:
        warnings.warn(text, CheckpointWarning, stacklevel=5)
