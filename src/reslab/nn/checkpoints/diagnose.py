"""Diagnose a checkpoint that does not belong to the requested network.

Suggest overrides if the entries do not fit, and warn if they fit but the network computes something else than the one
the checkpoint was trained in.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.nn.checkpoints.key_scheme import KeyScheme
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.layout import layout_stages, strided_conv
from reslab.spec.shortcut import parse_merge
from reslab.spec.zoo import ARCHS

Shapes = Mapping[str, tuple[int, ...]]


def suggest_overrides(arch: Arch, file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    """Return suggestions (overrides, networks) that the entries of a file imply; keys are reslab's."""
    hints = _depth_hints(arch, file_shapes)
    if not hints:
        hints = _shortcut_hints(arch, file_shapes, model_shapes) + _bias_hints(file_shapes, model_shapes)
        hints += _order_hints(file_shapes, model_shapes)
    return hints + _size_hints(file_shapes, model_shapes)


def _depths_from_keys(names: Sequence[str]) -> tuple[int, ...]:
    blocks: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _depth_hints(arch: Arch, file_shapes: Shapes) -> list[str]:
    names = list(file_shapes)
    depths, num_convs = _depths_from_keys(names), sum(f"layer1.0.conv{k}.weight" in file_shapes for k in range(1, 10))
    if not depths or (depths == arch.depths and num_convs in (0, arch.num_convs)) or arch.share_weights:
        return []
    stem_width = next(
        (shape[0] for name, shape in file_shapes.items() if re.fullmatch(r"conv1\.(\d\.)?weight", name)), None
    )
    similar = [name for name, other in ARCHS.items() if other.depths == depths and other.num_convs == num_convs]
    similar = [name for name in similar if f"({stem_width})" in ARCHS[name].stem] or similar
    suffix = f", as {', '.join(similar[:4])}" if similar else ""
    expected = f"{arch.name} has depths={arch.depths} and {arch.num_convs}"
    return [f"the file has depths={depths} and {num_convs} convolutions per block{suffix}; {expected}"]


def _shortcut_hints(arch: Arch, file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_keys, model_keys = (
        sorted({key.split(".downsample.")[1] for key in keys if ".downsample." in key})
        for keys in (file_shapes, model_shapes)
    )
    if file_keys == model_keys:
        return []
    if not file_keys:
        return [f"the file has no weights on its shortcuts: shortcut='pad' or 'pad-split' (now {arch.shortcut!r})"]
    modules = {leaf.split(".")[0] for leaf in file_keys}
    shortcut = {frozenset("0"): "conv1x1", frozenset("01"): "project"}.get(frozenset(modules), "avg-project")
    hints = [] if shortcut == arch.shortcut else [f"shortcut={shortcut!r} (now {arch.shortcut!r})"]
    return [f"the file's shortcuts have {', '.join(file_keys[:3])}: {hint}" for hint in hints]


def _bias_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_has, model_has = (
        any(re.search(r"\.conv\d\.bias$", key) for key in keys) for keys in (file_shapes, model_shapes)
    )
    if file_has == model_has:
        return []
    return [f"the file's convolutions have {'biases' if file_has else 'no bias'}: bias={str(file_has).lower()}"]


def _order_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_has, model_has = "norm.weight" in file_shapes, "norm.weight" in model_shapes
    if file_has == model_has or "bn1.weight" not in {**model_shapes, **file_shapes}:
        return []
    article, order = ("a", "full-preact") if file_has else ("no", "original")
    return [f"the file has {article} norm after its last block: order={order!r}"]


def _size_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    hints = []
    head = [key for key in model_shapes if key.startswith("fc.") and key.endswith("weight")][-1:]
    stem = [key for key in model_shapes if re.fullmatch(r"conv1\.(\d\.)?weight", key)][:1]
    shapes = {
        key: file_shapes[key] if len(file_shapes.get(key, ())) == len(model_shapes[key]) else model_shapes[key]
        for key in (*head, *stem)
    }
    for key in head:
        file_size, model_size = shapes[key][0], model_shapes[key][0]
        if file_size != model_size:
            advice = f"num_classes={model_size} given explicitly starts a new one"
            hints.append(f"num_classes={file_size} keeps the file's head, {advice}")
    for key in stem:
        (_, channels, *kernel), (_, model_channels, *model_kernel) = shapes[key], model_shapes[key]
        if channels != model_channels:
            advice = f"in_channels={model_channels} given explicitly adapts it"
            hints.append(f"in_channels={channels} keeps the first convolution, {advice}")
        if kernel != model_kernel:
            hints.append(
                f"the first convolution has kernel {kernel} in the file, {model_kernel} in the network: set stem"
            )
    return hints


# Axes that change the outputs for the same weights. The others change the shapes of weights, or only training.
_FUNCTIONAL_AXES = (
    "order",
    "shortcut",
    "merge",
    "stride_conv",
    "act",
    "padding",
    "norm_eps",
    "stem",
    "strides",
    "share_weights",
)


def _effective_value(arch: Arch, axis: str) -> Any:
    """Return the part of an axis that changes the outputs in eval mode."""
    if axis == "merge":
        merge = parse_merge(arch.merge)
        return str(merge.op), [str(op) for op in merge.branch_modifiers if op.name != "drop-path"]
    if axis == "stride_conv":
        return {strided_conv(arch, rules) for rules in arch.stage_convs}
    if axis == "stem":  # another width shows in the shapes
        return re.sub(r"(conv[\d/]*)\(\d+\)", r"\1", arch.stem)
    return getattr(arch, axis)


def _orders_differ(arch: Arch, implied: Arch) -> bool:
    """Return True if a block computes something else than its counterpart; further blocks of a deeper stage do not."""
    return any(
        (block.ops, block.shared_preact, block.skip_preact) != (other.ops, other.shared_preact, other.skip_preact)
        for stage, other_stage in zip(layout_stages(arch), layout_stages(implied), strict=False)
        for block, other in zip(stage, other_stage, strict=False)
    )


def differing_axes(arch: Arch, implied: Arch) -> dict[str, Any]:
    """Return the axes, with the values in `implied`, that make `arch` compute something else with the same weights."""
    return {
        axis: getattr(implied, axis)
        for axis in _FUNCTIONAL_AXES
        if (
            _orders_differ(arch, implied)
            if axis == "order"
            else _effective_value(arch, axis) != _effective_value(implied, axis)
        )
    }


def key_scheme_warnings(arch: Arch, scheme: KeyScheme, file: str) -> list[str]:
    """Return warnings where the key scheme of a file implies another network than `arch`."""
    axes = differing_axes(arch, override(arch, dict(scheme.implied_arch)))
    source = f"{file} has the keys of {scheme.reference}"
    texts = [override_warning(arch, axes, source)] if axes else []
    if scheme.difference:
        texts.append(f"{source}, whose networks differ in a way that no axis covers: {scheme.difference}")
    return texts


def override_warning(arch: Arch, axes: Mapping[str, Any], reason: str) -> str:
    """Return a warning that names the overrides under which the network computes what the checkpoint's does."""
    current = ", ".join(f"{axis}={getattr(arch, axis)!r}" for axis in axes)
    suggested = ", ".join(f"{axis}={value!r}" for axis, value in axes.items())
    flags = " ".join(f"--set model.{axis}={_flag_value(value)}" for axis, value in axes.items())
    advice = f"{arch.name} has {current}, so its outputs differ: override with {suggested} ({flags})"
    return f"{reason}, which implies {suggested}; {advice}"


def _flag_value(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"'{text}'" if " " in text or "(" in text else text
