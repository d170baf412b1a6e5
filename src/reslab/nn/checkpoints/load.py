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

from reslab.nn.checkpoints.diagnose import suggest, warn_of_axes, warn_of_dialect
from reslab.nn.checkpoints.load_report import CheckpointError, CheckpointWarning, LoadReport, Shape
from reslab.nn.checkpoints.match_keys import OPTIONAL, Entry, Free, Matching, match_names, match_order
from reslab.nn.checkpoints.read import Checkpoint
from reslab.nn.network import Network
from reslab.spec.errors import refuse
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
    mean, std = (_adapt_numbers(numbers, in_channels) for numbers in (preprocess.mean, preprocess.std))
    return Preprocess(in_channels, preprocess.words, mean, std)


def _adapt_numbers(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    if count == 1:
        return (statistics.mean(numbers),)
    return tuple(numbers[i % len(numbers)] for i in range(count))


def last_linear(network: nn.Module) -> str | None:
    """The name of the last linear layer, which tells the classes; None where there is none."""
    return _last(name for name, module in network.named_modules() if isinstance(module, nn.Linear))


def first_conv(network: nn.Module) -> str | None:
    """The name of the first convolution, which reads the input; None where there is none."""
    return next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)


def _last(names: Iterable[str]) -> str | None:
    found = list(names)
    return found[-1] if found else None


def same_but_for_ones(tensor: Tensor, shape: torch.Size) -> bool:
    """Whether only trailing ones part the shapes: a linear layer kept as a 1x1 convolution, or the reverse."""
    longer, shorter = sorted((tuple(tensor.shape), tuple(shape)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and all(side == 1 for side in longer[len(shorter) :]) and bool(shorter)


# What was done is said here, at a level that is shown unless someone asks otherwise; what may be wrong is a warning.
_LOG = logging.getLogger("reslab.nn.checkpoints.load")
_BY_ORDER = (
    "{file} has names of no known dialect: its layers were matched by order and shape. Order of words, shortcut and "
    "place of the stride cannot be seen that way: hold a published score against it"
)


@dataclass
class _Fit:
    """What is being decided about each entry."""

    state: dict[str, Tensor] = field(default_factory=dict)
    matched: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    other_shapes: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_checkpoint(
    network: Network,
    checkpoint: Checkpoint,
    *,
    adapt: Collection[str] = (),
    strict: bool = True,
    headless: bool = False,
    told: Sequence[str] = (),
) -> LoadReport:
    """Copy a checkpoint into a network, in whatever dialect it names its entries; the report says which went where.

    `adapt`: of "num_classes" and "in_channels", those that were asked for anew: the head then starts fresh where the
    file's has other classes or none, and the first convolution is summed or repeated over its input channels.
    `strict=False` goes on half-loaded, and warns. `headless`: the head is not needed. `told`: what else to warn of.
    Raises CheckpointError, nothing changed, where entries are missing, unexpected or of other shapes, and where a
    dialect that is not known has no single assignment by order and shape.
    """
    own = network.state_dict()
    free = Free("num_classes" in adapt or headless, "in_channels" in adapt)
    matching = match_names(checkpoint, own) or match_order(checkpoint, own, free)
    entries, notes, found = _share(network, matching)
    fit = _Fit(notes=[*checkpoint.notes, *notes])
    if free.classes:
        fit.fresh += _fresh_head(network, entries, own)
    for name, tensor in own.items():
        _fit_one(fit, name, tensor, entries.get(name), network, free)
    if fit.fresh and not headless:
        why = f"{network.arch.num_classes} classes were asked for, and the file's head has others or is missing"
        fit.notes.append(f"{', '.join(fit.fresh)} start fresh: {why}")
    found += warn_of_dialect(network.arch, matching.dialect, checkpoint.name)
    found += [_BY_ORDER.format(file=checkpoint.name)] if matching.by_order else []
    report = _report(network, checkpoint, matching, entries, fit, [*told, *found])
    _check(report, network, entries, own, strict)
    _copy(network, fit.state)
    network.loaded = report
    _tell(report)
    return report


def _share(network: Network, matching: Matching) -> tuple[dict[str, Entry], list[str], list[str]]:
    """The entries of a network whose units share weights brought together; what was done, and what may be wrong."""
    entries = dict(matching.entries)
    repeats = [name for name in entries if re.match(r"layer\d+\.[1-9]\d*\.", name)]
    first = {name: re.sub(r"^(layer\d+)\.\d+\.", r"\1.0.", name) for name in repeats}
    alike = bool(repeats) and all(
        first[name] in entries and torch.equal(entries[name].tensor, entries[first[name]].tensor) for name in repeats
    )
    if alike and network.arch.shared:
        for name in repeats:
            del entries[name]
        return entries, [f"{len(repeats)} entries of units that share their weights brought together in the first"], []
    if alike and max(network.arch.depths, default=0) > 2:
        why = "all units of each stage hold the same weights"
        return entries, [], [warn_of_axes(network.arch, {"shared": True}, why)]
    return entries, [], []


def _fresh_head(network: Network, entries: Mapping[str, Entry], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The head's entries where the file's head has other classes or is missing; none where it fits."""
    head = last_linear(network)
    names = tuple(name for name in own if head is not None and name.rpartition(".")[0] == head)
    entry = entries.get(f"{head}.weight")
    if entry is not None and (
        entry.tensor.shape[0] == network.arch.num_classes or _inputs(entry.tensor) != _inputs(own[names[0]])
    ):
        return ()
    return names


def _inputs(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.flatten(1).shape[1:]) if tensor.ndim > 1 else ()


def _fit_one(fit: _Fit, name: str, own: Tensor, entry: Entry | None, network: Network, free: Free) -> None:
    if name in fit.fresh:
        return
    if entry is None:
        fit.missing += [] if name.endswith(OPTIONAL) else [name]
        return
    tensor = entry.tensor
    if tensor.shape == own.shape or same_but_for_ones(tensor, own.shape):
        fit.state[name] = tensor.reshape(own.shape)
    elif name == f"{first_conv(network)}.weight" and free.channels and _same_kernel(tensor, own):
        fit.state[name] = adapt_channels(tensor, own.shape[1])
        how = "summed" if own.shape[1] == 1 else "repeated and rescaled"
        asked = f"{own.shape[1]} were asked for, {tensor.shape[1]} are in the file"
        fit.notes.append(f"{name} {how} over its input channels: {asked}")
    else:
        fit.other_shapes.append((name, tuple(tensor.shape), tuple(own.shape)))
        return
    fit.matched.append((entry.source, name))


def _same_kernel(tensor: Tensor, own: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[0] == own.shape[0] and tensor.shape[2:] == own.shape[2:]


def _report(
    network: Network,
    checkpoint: Checkpoint,
    matching: Matching,
    entries: Mapping[str, Entry],
    fit: _Fit,
    told: list[str],
) -> LoadReport:
    own = network.state_dict()
    unexpected = [entry.source for name, entry in entries.items() if name not in own and not name.endswith(OPTIONAL)]
    return LoadReport(
        network.arch.name,
        checkpoint.name,
        matching.dialect.name,
        tuple(fit.matched),
        tuple(fit.missing),
        (*unexpected, *matching.strays),
        tuple(fit.other_shapes),
        tuple(fit.fresh),
        matching.by_order,
        checkpoint.prefixes,
        len(checkpoint.tensors),
        tuple(fit.notes),
        tuple(told),
    )


def _check(
    report: LoadReport, network: Network, entries: Mapping[str, Entry], own: Mapping[str, Tensor], strict: bool
) -> None:
    if report.complete or (report.matched and not strict):
        return
    file = {name: tuple(entry.tensor.shape) for name, entry in entries.items()}
    hints = suggest(network.arch, file, {name: tuple(tensor.shape) for name, tensor in own.items()})
    required = f"a checkpoint of {report.network}: every entry of the file and of the network matched"
    steps = [*hints, "create_model(..., strict=False) loads what fits"] if report.matched else hints
    said = [str(refuse(required, report.text(most=6))), *(f"  {step}" for step in steps)]
    raise CheckpointError("\n".join(said), report)


def _copy(network: Network, state: Mapping[str, Tensor]) -> None:
    on_meta = any(tensor.is_meta for tensor in network.state_dict().values())
    if on_meta:
        own = network.state_dict()
        state = {name: tensor.to(own[name].dtype).clone() for name, tensor in state.items()}
    network.load_state_dict(state, strict=False, assign=on_meta)


def _tell(report: LoadReport) -> None:
    _LOG.info("%s", report.summary)
    for note in report.notes:
        _LOG.warning("%s: %s", report.network, note)
    said = list(report.warnings)
    if not report.complete:
        said.append(f"half-loaded, as asked: {report.text(most=6)}")
    for text in said:
        warnings.warn(text, CheckpointWarning, stacklevel=5)
