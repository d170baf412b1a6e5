"""Where the network asked for computes something else than the one a checkpoint was trained in."""

from collections.abc import Mapping
from typing import Any

from reslab.nn.dialect import Dialect
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.shortcut import parse_mix

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
