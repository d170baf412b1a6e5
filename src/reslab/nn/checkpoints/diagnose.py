"""Diagnose a checkpoint that does not belong to the requested network.

Suggest overrides if the entries do not fit, and warn if they fit but the network computes something else than the one
the checkpoint was trained in. `build` is the class of the network, for comparisons with others of the zoo.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reslab.nn.checkpoints.alternatives import (
    COUNTER,
    BuildFn,
    Shapes,
    block_modules,
    block_modules_of,
    depths_from_keys,
    networks_with_tensors,
    networks_with_tensors_of,
    shorten,
)
from reslab.nn.checkpoints.key_scheme import KeyScheme
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.grammar import parse_ops
from reslab.spec.layout import final_ops, layout_stages, stem_ops, strided_conv
from reslab.spec.order import ATTENTION
from reslab.spec.shortcut import parse_merge
from reslab.spec.zoo import ARCHS


def suggest_overrides(arch: Arch, file_shapes: Shapes, model_shapes: Shapes, build: BuildFn) -> list[str]:
    """Return suggestions (overrides, networks) that the entries of a file imply; keys are reslab's."""
    hints = _depth_hints(arch, file_shapes)
    if not hints:
        hints = _shortcut_hints(arch, file_shapes, model_shapes) + _bias_hints(file_shapes, model_shapes)
        hints += _attention_hints(file_shapes, model_shapes) + _order_hints(file_shapes, model_shapes)
        hints += _norm_hints(arch, file_shapes, model_shapes)
    hints += _stem_hints(arch, file_shapes, model_shapes) + _size_hints(file_shapes, model_shapes)
    return _network_hints(arch, file_shapes, build) + hints


def _network_hints(arch: Arch, file_shapes: Shapes, build: BuildFn) -> list[str]:
    """Name the zoo's networks that have exactly the file's tensors."""
    sizes = {"num_classes": arch.num_classes, "in_channels": arch.in_channels}
    heads = [shape[0] for name, shape in file_shapes.items() if name.startswith("fc.") and len(shape) == 2]
    stems = [shape[1] for name, shape in file_shapes.items() if _STEM_CONV.fullmatch(name) and len(shape) == 4]
    sizes |= ({"num_classes": heads[-1]} if heads else {}) | ({"in_channels": stems[0]} if stems else {})
    names = [name for name in networks_with_tensors(file_shapes, sizes, build) if name != arch.name]
    if not names:
        return []
    return [f"the file has exactly the tensors of {', '.join(names)}: create_model({names[0]!r}) (--model {names[0]})"]


def _depth_hints(arch: Arch, file_shapes: Shapes) -> list[str]:
    depths = depths_from_keys(file_shapes)
    num_convs = sum(f"layer1.0.conv{k}.weight" in file_shapes for k in range(1, 10))
    if not depths or (depths == arch.depths and num_convs in (0, arch.num_convs)) or arch.share_weights:
        return []
    stem_width = next((shape[0] for name, shape in file_shapes.items() if _STEM_CONV.fullmatch(name)), None)
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
        advice = f"{format_axes({'shortcut': 'pad'})} or {format_axes({'shortcut': 'pad-split'})}"
        return [f"the file has no weights on its shortcuts: {advice} (now {arch.shortcut!r})"]
    modules = {leaf.split(".")[0] for leaf in file_keys}
    shortcut = {frozenset("0"): "conv1x1", frozenset("01"): "project"}.get(frozenset(modules), "avg-project")
    if shortcut == arch.shortcut:
        return []
    advice = f"{format_axes({'shortcut': shortcut})} (now {arch.shortcut!r})"
    return [f"the file's shortcuts have {', '.join(file_keys[:3])}: {advice}"]


def _bias_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_has, model_has = (
        any(re.search(r"\.conv\d\.bias$", key) for key in keys) for keys in (file_shapes, model_shapes)
    )
    if file_has == model_has:
        return []
    return [f"the file's convolutions have {'biases' if file_has else 'no bias'}: {format_axes({'bias': file_has})}"]


def _attention_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_has, model_has = (
        {key.split(".")[2] for key in keys if key.startswith("layer")} & set(ATTENTION)
        for keys in (file_shapes, model_shapes)
    )
    if file_has == model_has:
        return []
    if new := sorted(file_has - model_has):
        layout = f"conv norm act | conv norm {new[0]} + act"
        advice = f"{format_axes({'order': layout})}, or where its code has it"
        return [f"the file's blocks have attention ({new[0]}): {advice}"]
    names = ", ".join(sorted(model_has - file_has))
    return [f"the file's blocks have no attention ({names}): {format_axes({'order': 'original'})}"]


def _order_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_has, model_has = _is_preactivated(file_shapes), _is_preactivated(model_shapes)
    if file_has == model_has:
        return []
    what = "before its first convolution" if "norm.weight" not in file_shapes else "after its last block"
    article, order = ("a", "full-preact") if file_has else ("no", "original")
    return [f"the file has {article} norm {what}: {format_axes({'order': order})}"]


def _is_preactivated(shapes: Shapes) -> bool:
    """Return whether norms come ahead of convolutions: one follows the last block, or the first has the input's width.

    For a bottleneck's first norm, the width decides.
    """
    if "norm.weight" in shapes or "bn1.weight" in shapes:
        return "norm.weight" in shapes
    norm, conv = shapes.get("layer1.0.bn1.weight"), shapes.get("layer1.0.conv1.weight")
    return norm is not None and conv is not None and norm == conv[1:2] != conv[:1]


_NORM_OF_LEAVES = {
    frozenset({"weight", "bias", "running_mean", "running_var"}): ("batch", "layers with running statistics"),
    frozenset({"weight", "bias"}): ("group(32)", "no running statistics"),
    frozenset({"weight"}): ("rms", "only weights"),
    frozenset(): ("none", "no entries"),
}


def _norm_hints(arch: Arch, file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    file_leaves, model_leaves = (
        frozenset(key.rpartition(".")[2] for key in keys if re.search(r"^layer1\.\d+\.bn\d\.", key)) - {COUNTER}
        for keys in (file_shapes, model_shapes)
    )
    if file_leaves == model_leaves or file_leaves not in _NORM_OF_LEAVES:
        return []
    norm, what = _NORM_OF_LEAVES[file_leaves]
    others = ", or 'layer' or 'instance'" if norm.startswith("group") else ""
    return [f"the file's norms have {what}: {format_axes({'norm': norm})}{others} (now {arch.norm!r})"]


_STEM_CONV = re.compile(r"conv1\.(\d+\.)?weight")


def _stem_hints(arch: Arch, file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    """Suggest the stem that kernels and widths of the file's first convolutions imply; their strides are a guess."""
    file_convs, model_convs = (
        [shape for key, shape in shapes.items() if _STEM_CONV.fullmatch(key) and len(shape) == 4]
        for shapes in (file_shapes, model_shapes)
    )
    file_kinds, model_kinds = ([(shape[0], *shape[2:]) for shape in convs] for convs in (file_convs, model_convs))
    if not file_convs or file_kinds == model_kinds:
        return []
    kernels = [shape[2] for shape in file_convs]
    if [kind[1:] for kind in file_kinds] == [kind[1:] for kind in model_kinds]:
        what = f"width {[kind[0] for kind in file_kinds]} in the file, {[kind[0] for kind in model_kinds]}"
    elif len(file_kinds) == len(model_kinds) == 1:
        what = f"kernel {list(file_kinds[0][1:])} in the file, {list(model_kinds[0][1:])}"
    else:
        what = f"{len(file_kinds)} convolutions in the file, {len(model_kinds)}"
    small = kernels[0] == 3 and len(kernels) == 1
    convs = [
        f"conv{kernel}{'/2' if number == 0 and not small else ''}({shape[0]})"
        for number, (kernel, shape) in enumerate(zip(kernels, file_convs, strict=True))
    ]
    stem = " norm act ".join(convs) + " norm act" + ("" if small else " maxpool3/2")
    return [f"the stem has {what} in the network: {format_axes({'stem': stem})} (now {arch.stem!r})"]


def _size_hints(file_shapes: Shapes, model_shapes: Shapes) -> list[str]:
    hints = []
    head = [key for key in model_shapes if key.startswith("fc.") and key.endswith("weight")][-1:]
    stem = [key for key in model_shapes if re.fullmatch(r"conv1\.(\d+\.)?weight", key)][:1]
    shapes = {
        key: file_shapes[key] if len(file_shapes.get(key, ())) == len(model_shapes[key]) else model_shapes[key]
        for key in (*head, *stem)
    }
    for key in head:
        file_size, model_size = shapes[key][0], model_shapes[key][0]
        if file_size != model_size:
            advice = f"{format_axes({'num_classes': file_size})} keeps the file's head"
            hints.append(f"{advice}, num_classes={model_size} given explicitly starts a new one")
    for key in stem:
        channels, model_channels = shapes[key][1], model_shapes[key][1]
        if channels != model_channels:
            advice = f"{format_axes({'in_channels': channels})} keeps the first convolution"
            hints.append(f"{advice}, in_channels={model_channels} given explicitly adapts it")
    return hints


# Axes that change the outputs for the same weights. The others change the shapes of weights, or only training.
_FUNCTIONAL_AXES = (
    "order",
    "shortcut",
    "merge",
    "stride_conv",
    "conv",
    "act",
    "norm",
    "padding",
    "norm_eps",
    "stem",
    "strides",
    "final",
    "head",
    "share_weights",
)
# Norms that a user exchanges for the network's own with the same weights: fixed statistics, and `norm_layer=`.
_EXCHANGED_NORMS = ("frozen", "custom")


def _effective_value(arch: Arch, axis: str) -> Any:
    """Return the part of an axis that changes the outputs in eval mode."""
    if axis == "merge":
        merge = parse_merge(arch.merge)
        modifiers = [op for op in merge.branch_modifiers if op.name != "drop-path"]
        return str(merge.op), [op.name if op.name == "layerscale" else str(op) for op in modifiers]
    if axis == "stride_conv":
        return {strided_conv(arch, rules) for rules in arch.stage_convs}
    if axis == "stem":  # another width shows in the shapes
        return re.sub(r"(conv[\d/]*)\(\d+\)", r"\1", " ".join(str(op) for op in stem_ops(arch)))
    if axis == "final":
        return final_ops(arch)
    if axis == "head":
        return [op for op in parse_ops(arch.head) if op.name not in ("drop", "drop2d", "fc")]
    return getattr(arch, axis)


def _orders_differ(arch: Arch, implied: Arch) -> bool:
    """Return True if a block computes something else than its counterpart; further blocks of a deeper stage do not."""
    return any(
        (block.ops, block.shared_preact, block.skip_preact) != (other.ops, other.shared_preact, other.skip_preact)
        for stage, other_stage in zip(layout_stages(shorten(arch)), layout_stages(shorten(implied)), strict=False)
        for block, other in zip(stage, other_stage, strict=False)
    )


def differing_axes(arch: Arch, implied: Arch) -> dict[str, Any]:
    """Return the axes, with the values in `implied`, that make `arch` compute something else with the same weights."""
    if len(arch.depths) == len(implied.depths):
        implied = replace(implied, depths=arch.depths)
    return {
        axis: getattr(implied, axis)
        for axis in _FUNCTIONAL_AXES
        if (
            _orders_differ(arch, implied)
            if axis == "order"
            else _effective_value(arch, axis) != _effective_value(implied, axis)
        )
        and not (axis == "norm" and {arch.norm, implied.norm} & set(_EXCHANGED_NORMS))
    }


@dataclass(frozen=True)
class WeightsOrigin:
    """The network that weights were trained in; `arch` is None if nothing names it.

    `chosen_axes`: the axes that the user has set for the network to load them into. `module_names`: those of the module
    that the weights come from, empty if it is unknown.
    """

    arch: Arch | None = None
    chosen_axes: tuple[str, ...] = ()
    module_names: tuple[str, ...] = ()


def origin_warnings(arch: Arch, origin: WeightsOrigin, scheme: KeyScheme, file: str, build: BuildFn) -> list[str]:
    """Return a warning if the weights come from another network, or if several networks fit them."""
    if origin.arch is not None:
        axes = differing_axes(arch, origin.arch)
        return [override_warning(arch, axes, f"{file} has weights of {origin.arch.name}")] if axes else []
    alternatives = find_alternatives(arch, scheme, build, origin.chosen_axes)
    alternatives = _with_these_modules(arch, alternatives, origin.module_names, build)
    if alternatives and not scheme.covers(arch.name):
        name, axes = next(iter(alternatives.items()))
        return [override_warning(arch, axes, f"{file} has the keys of {scheme.reference}, as {name}")]
    return [_alternatives_warning(arch, alternatives, file)] if alternatives else []


# The modules of a block of torchvision's residual networks: its activation is `relu`, ours are `act1` and so on.
_TORCHVISION_RESNET = re.compile(r"(wide_)?resne(t\d+|xt\d+_\d+x\d+d|t\d+_2)")
_TORCHVISION_BLOCK_MODULE = re.compile(r"(conv|bn)\d|relu|downsample(\.[01])?")


def _with_these_modules(
    arch: Arch, alternatives: dict[str, dict[str, Any]], module_names: tuple[str, ...], build: BuildFn
) -> dict[str, dict[str, Any]]:
    """Return the alternatives whose blocks have these modules, where the names are those of reslab or torchvision.

    Modules without weights distinguish the networks: a pool, or the merge that a plain network lacks.
    """
    modules = block_modules(module_names)
    if "relu" in modules and all(map(_TORCHVISION_BLOCK_MODULE.fullmatch, modules)):
        is_known = bool(_TORCHVISION_RESNET.fullmatch(arch.name))
        return {
            name: alternatives[name] for name in alternatives if not is_known and _TORCHVISION_RESNET.fullmatch(name)
        }
    if modules != block_modules_of(arch, build):
        return alternatives
    return {name: axes for name, axes in alternatives.items() if block_modules_of(ARCHS[name], build) == modules}


def find_alternatives(
    arch: Arch, scheme: KeyScheme, build: BuildFn, chosen_axes: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Return the zoo's networks that the weights of `arch` fit, but that compute something else, and their axes.

    Axes that the user chose count as known, and so does what the key scheme implies.
    """
    zoo_arch = ARCHS.get(arch.name)
    if zoo_arch is None:
        return {}
    changed = [axis for axis in _FUNCTIONAL_AXES if getattr(arch, axis) != getattr(zoo_arch, axis)]
    chosen = {*changed, *chosen_axes} - {"depths", "widths"}
    alternatives = {}
    for other in networks_with_tensors_of(zoo_arch, build):
        if not scheme.covers(other.name) or differing_axes(other, override(other, dict(scheme.implied_arch))):
            continue
        axes = differing_axes(zoo_arch, other)
        if axes and not set(axes) & chosen:
            alternatives[other.name] = axes
    return alternatives


def _alternatives_warning(arch: Arch, alternatives: Mapping[str, Mapping[str, Any]], file: str) -> str:
    names = ", ".join(alternatives)
    differences = "; ".join(f"{name} has {format_axes(axes)}" for name, axes in alternatives.items())
    axes = {
        axis: getattr(arch, axis) for axis in dict.fromkeys(axis for axes in alternatives.values() for axis in axes)
    }
    other = next(iter(alternatives))
    return (
        f"nothing in {file} distinguishes {arch.name} from {names}: their weights have the same names and shapes, and "
        f"their outputs differ; loaded as {arch.name} ({differences}; choose by name, as in create_model({other!r}) or "
        f"--model {other}, or keep {arch.name} without this warning: {format_axes(axes)})"
    )


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
    advice = f"{arch.name} has {current}, so its outputs differ: override with {format_axes(axes)}"
    return f"{reason}, which implies {suggested}; {advice}"


def format_axes(axes: Mapping[str, Any]) -> str:
    """Return overrides as Python and as the command line take them: `act='silu' (--set model.act=silu)`."""
    return f"{', '.join(f'{axis}={value!r}' for axis, value in axes.items())} ({_flags(axes)})"


def _flags(axes: Mapping[str, Any]) -> str:
    return " ".join(f"--set model.{axis}={_flag_value(value)}" for axis, value in axes.items())


def _flag_value(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return f"'{text}'" if not text or set(text) & set(" ()|;*") else text
