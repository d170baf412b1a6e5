"""What the entries of a checkpoint that does not fit speak for: which network, which override.

Where the network asked for computes something else than the one a checkpoint was trained in.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.nn.checkpoints.key_schemes import Dialect
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.shortcut import parse_mix
from reslab.spec.zoo import ARCHS

Shapes = Mapping[str, tuple[int, ...]]


def suggest(arch: Arch, file: Shapes, own: Shapes) -> list[str]:
    """Overrides and names that the entries of a file speak for where they do not fit the network, in reslab's names."""
    found = _depth_hints(arch, file)
    if not found:
        found = _shortcut_hints(arch, file, own) + _bias_hints(file, own)
        found += _order_hints(file, own)
    return found + _size_hints(file, own)


def _depths(names: Sequence[str]) -> tuple[int, ...]:
    units: dict[int, set[int]] = {}
    for name in names:
        if place := re.match(r"layer(\d+)\.(\d+)\.", name):
            units.setdefault(int(place[1]), set()).add(int(place[2]))
    return tuple(len(units[stage]) for stage in sorted(units))


def _depth_hints(arch: Arch, file: Shapes) -> list[str]:
    names = list(file)
    depths, convs = _depths(names), sum(f"layer1.0.conv{k}.weight" in file for k in range(1, 10))
    if not depths or (depths == arch.depths and convs in (0, len(arch.branch))) or arch.shared:
        return []
    stem = next((shape[0] for name, shape in file.items() if re.fullmatch(r"conv1\.(\d\.)?weight", name)), None)
    alike = [name for name, other in ARCHS.items() if other.depths == depths and len(other.branch) == convs]
    alike = [name for name in alike if f"({stem})" in ARCHS[name].stem] or alike
    named = f", as {', '.join(alike[:4])}" if alike else ""
    own = f"{arch.name} has depths={arch.depths} and {len(arch.branch)}"
    return [f"the file has depths={depths} and {convs} convolutions a unit{named}; {own}"]


def _shortcut_hints(arch: Arch, file: Shapes, own: Shapes) -> list[str]:
    theirs, ours = (
        sorted({key.split(".downsample.")[1] for key in keys if ".downsample." in key}) for keys in (file, own)
    )
    if theirs == ours:
        return []
    if not theirs:
        return [f"the file has no weights on its shortcuts: match='pad' or 'pad-split' (asked: {arch.match!r})"]
    modules = {leaf.split(".")[0] for leaf in theirs}
    match = {frozenset("0"): "conv1x1", frozenset("01"): "project"}.get(frozenset(modules), "avg-project")
    asked = [] if match == arch.match else [f"match={match!r} (asked: {arch.match!r})"]
    return [f"the file's shortcuts hold {', '.join(theirs[:3])}: {hint}" for hint in asked]


def _bias_hints(file: Shapes, own: Shapes) -> list[str]:
    has, needs = (any(re.search(r"\.conv\d\.bias$", key) for key in keys) for keys in (file, own))
    if has == needs:
        return []
    return [f"the file's convolutions have {'biases' if has else 'no bias'}: bias={str(has).lower()}"]


def _order_hints(file: Shapes, own: Shapes) -> list[str]:
    has, needs = "norm.weight" in file, "norm.weight" in own
    if has == needs or "bn1.weight" not in {**own, **file}:
        return []
    told, order = ("a", "full-preact") if has else ("no", "original")
    return [f"the file has {told} norm after its last unit: order={order!r}"]


def _size_hints(file: Shapes, own: Shapes) -> list[str]:
    hints = []
    head = [key for key in own if key.startswith("fc.") and key.endswith("weight")][-1:]
    stem = [key for key in own if re.fullmatch(r"conv1\.(\d\.)?weight", key)][:1]
    fits = {key: file[key] if len(file.get(key, ())) == len(own[key]) else own[key] for key in (*head, *stem)}
    for key in head:
        theirs, ours = fits[key][0], own[key][0]
        if theirs != ours:
            hints.append(
                f"num_classes={theirs} keeps the file's head, num_classes={ours} given by name starts a new one"
            )
    for key in stem:
        (_, channels, *kernel), (_, own_channels, *own_kernel) = fits[key], own[key]
        if channels != own_channels:
            adapts = f"in_channels={own_channels} given by name adapts it"
            hints.append(f"in_channels={channels} keeps the first convolution, {adapts}")
        if kernel != own_kernel:
            hints.append(
                f"the file's first convolution has a kernel of {kernel}, the network's {own_kernel}: another stem"
            )
    return hints


# Axes that change what is computed; a change of the others is seen in the weights, or only in training.
_FUNCTION = ("order", "match", "mix", "stride_at", "act", "padding", "norm_eps", "stem", "strides", "shared")


def _meaning(arch: Arch, axis: str) -> Any:
    """An axis as far as it changes the outputs in eval mode."""
    if axis == "order":
        return arch.facts.sentence.split(), arch.facts.ahead, arch.facts.first_bare
    if axis == "mix":
        mix = parse_mix(arch.mix)
        return str(mix.join), [str(word) for word in mix.on_branch if word.name != "drop-path"]
    if axis == "stride_at":
        return arch.stride_at or next((i for i, kernel in enumerate(arch.branch, 1) if kernel > 1), 1)
    return getattr(arch, axis)


def other_axes(arch: Arch, implied: Arch) -> dict[str, Any]:
    """The axes, with their implied values, by which `arch` computes something else than `implied` would with the same
    weights."""
    return {axis: getattr(implied, axis) for axis in _FUNCTION if _meaning(arch, axis) != _meaning(implied, axis)}


def warn_of_dialect(arch: Arch, dialect: Dialect, file: str) -> list[str]:
    """What a recognised dialect implies that the network asked for is not."""
    axes = other_axes(arch, override(arch, dict(dialect.implies)))
    said = [warn_of_axes(arch, axes, f"{file} has the names of {dialect.source}")] if axes else []
    if dialect.differs:
        said.append(
            f"{file} has the names of {dialect.source}, whose networks differ in what no axis says: {dialect.differs}"
        )
    return said


def warn_of_axes(arch: Arch, axes: Mapping[str, Any], why: str) -> str:
    """The sentence that names the overrides."""
    asked = ", ".join(f"{axis}={getattr(arch, axis)!r}" for axis in axes)
    wanted = ", ".join(f"{axis}={value!r}" for axis, value in axes.items())
    flags = " ".join(f"--set model.{axis}={_flag(value)}" for axis, value in axes.items())
    so = f"{arch.name} was asked for with {asked}, so its outputs differ: override with {wanted} ({flags})"
    return f"{why}, which implies {wanted}; {so}"


def _flag(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"'{text}'" if " " in text or "(" in text else text
