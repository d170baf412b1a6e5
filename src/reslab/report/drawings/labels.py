"""The text in the box of a layer: its name, its details, and its style."""

from collections.abc import Callable
from dataclasses import dataclass

from reslab.report.drawings.canvas import Style
from reslab.report.format import format_shape, pluralize
from reslab.spec.arch import Arch, ConvSpec
from reslab.spec.grammar import Arg, Op, evaluate, format_arg
from reslab.spec.layout import BlockSpec
from reslab.spec.operations import OPERATIONS, Family, parse_kind
from reslab.spec.shapes import Layer
from reslab.spec.shortcut import MERGE_OPS, drop_path_rate, merge_args, survival_probability

_ACTS = {"relu": "ReLU", "relu6": "ReLU6", "elu": "ELU", "selu": "SELU", "gelu": "GELU", "silu": "SiLU"}
_NORMS = {"frozen": "frozen batch", "rms": "RMS", "ibn": "instance-batch", "frn": "filter response"}
# Names of layers that differ from the operation's own, or that people know by a longer one.
_LAYERS = {
    "se": "squeeze-and-excitation",
    "eca": "ECA",
    "cbam": "CBAM",
    "gc": "global context",
    "spatial": "spatial attention",
    "grn": "global response norm",
    "bias": "+ learned scalar",
    "scale": "× learned scalar",
    "drop": "dropout",
    "drop2d": "dropout of maps",
    "zero-pad": "zero padding",
}
POOL_NAMES = {"maxpool": "max pool", "avgpool": "average pool", "blurpool": "blur pool"}


@dataclass(frozen=True)
class Label:
    """The text of a box: a name, and details on lines of their own."""

    name: str
    details: tuple[str, ...] = ()
    style: Style = Style.OTHER


def layer_label(layer: Layer, arch: Arch, block: BlockSpec | None = None) -> Label:
    """Return the label of a layer of stem, block or head."""
    op = layer.op
    if layer.conv is not None:
        return _conv_label(op, layer.conv, arch)
    if op.name in ("norm", "act"):
        kind = str(op.args[0]) if op.args else str(getattr(arch, op.name))
        return Label(_norm_name(kind) if op.name == "norm" else act_name(kind), style=Style.PLAIN)
    if op.name in POOL_NAMES:
        return _pool_label(layer)
    if op.name in SHORTCUT_LABELS:
        return SHORTCUT_LABELS[op.name](layer)
    if op.name == "fc":
        return Label(f"linear, {layer.out_shape[0]}", style=Style.WEIGHTED)
    if op.name == "mul":
        return Label(f"× {_factor_text(op.args[0], block)}")
    return _other_label(op, arch)


def _conv_label(op: Op, conv: ConvSpec, arch: Arch) -> Label:
    kind = str(op.args[0]) if op.args and not isinstance(op.args[0], int) else arch.conv
    name, values = parse_kind(Family.CONV, kind)
    kernel = format_shape(conv.kernels or (conv.kernel,) * arch.dims)
    details = [_stride_text(conv)] if max(conv.strides or (conv.stride,)) > 1 else []
    if conv.dilation > 1:
        details.append(f"dilation {conv.dilation}")
    if conv.groups > 1:
        is_depthwise = conv.groups == conv.in_channels == conv.out_channels
        details.append("depthwise" if is_depthwise else f"{conv.groups} groups")
    kind_text = _CONV_KINDS.get(name, lambda values, conv: "" if name == "plain" else name)(values, conv)
    lines = [", ".join(details), kind_text]
    return Label(f"{kernel} conv, {conv.out_channels}", tuple(filter(None, lines)), Style.WEIGHTED)


def _stride_text(conv: ConvSpec) -> str:
    return f"stride {format_shape(conv.strides or (conv.stride,))}"


def _hierarchy_text(values: dict[str, Arg], conv: ConvSpec) -> str:
    return f"Res2Net: {values['scales']} parts of {conv.in_channels // int(values['scales'])}"


def _selection_text(values: dict[str, Arg], conv: ConvSpec) -> str:
    dilations = ", ".join(str(k + 1) for k in range(int(values["paths"])))
    return f"selective kernel: dilations {dilations}"


def _split_text(values: dict[str, Arg], conv: ConvSpec) -> str:
    return f"split attention, radix {values['radix']}"


# What a kind of convolution adds to its box; others give their name.
_CONV_KINDS: dict[str, Callable[[dict[str, Arg], ConvSpec], str]] = {
    "standardized": lambda values, conv: "standardized weights",
    "scaled-standardized": lambda values, conv: "standardized weights",
    "res2": _hierarchy_text,
    "select": _selection_text,
    "split": _split_text,
}


def _norm_name(kind: str) -> str:
    name, values = parse_kind(Family.NORM, kind)
    if name in ("custom", "evonorm-s0"):
        return {"custom": "norm", "evonorm-s0": "EvoNorm-S0"}[name]
    details = [f"{values['groups']} groups"] if values.get("groups") else []
    details += [f"groups of {values['size']}"] if values.get("size") else []
    return ", ".join([f"{_NORMS.get(name, name)} norm", *details])


def act_name(kind: str) -> str:
    """Return the name of an activation as papers write it."""
    return _ACTS.get(kind, kind)


def _pool_label(layer: Layer) -> Label:
    name = POOL_NAMES[layer.op.name]
    if not layer.size:
        return Label(f"global {name}")
    size = format_shape((layer.size,) * (len(layer.in_shape) - 1))
    return Label(f"{size} {name}", (f"stride {layer.stride}",) if layer.stride > 1 else ())


def _shift_label(layer: Layer) -> Label:
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    details = (f"side by side{stride}", "the second of the shifted map")
    return Label(f"two 1×1 convs, {layer.op.args[0]} each", details, Style.WEIGHTED)


def _padding_label(layer: Layer) -> Label:
    before, after = layer.op.args
    count = f"{before} + {after} channels" if before else pluralize(int(after), "channel")
    stride = (f"stride {layer.stride}",) if layer.stride > 1 else ()
    added = (f"{count} of zeros",) if after else ()
    return Label("zero padding" if after else "subsampling", (*stride, *added), Style.SHORTCUT)


SHORTCUT_LABELS = {"zero-pad": _padding_label, "shift-project": _shift_label}


def _other_label(op: Op, arch: Arch) -> Label:
    name = _LAYERS.get(op.name, op.name)
    if op.name in ("drop", "drop2d"):
        return Label(f"{name} {float(op.args[0]) if op.args else arch.drop_rate:g}")
    if op.name == "se":
        values = OPERATIONS[Family.LAYER]["se"].bind(op)
        ratio = float(values.get("ratio") or arch.se_ratio)
        of_input = " of the block's input" if values.get("of") == "in" else ""
        return Label(name, (f"ratio 1/{1 / ratio:g}{of_input}",))
    args = [format_arg(arg) for arg in op.args] + [f"{key}={format_arg(arg)}" for key, arg in op.kwargs]
    return Label(name, (", ".join(args),) if args else ())


def _factor_text(factor: Arg, block: BlockSpec | None) -> str:
    if not isinstance(factor, str):
        return _short(factor)
    if block is None:
        return factor
    return _short(evaluate(factor, {"std": block.expected_std, "L": block.num_blocks, "l": block.index + 1}))


def _short(value: float) -> str:
    return f"{value:.3g}"


def modifier_label(op: Op, block: BlockSpec) -> Label:
    """Return the label of a modifier of one path, ahead of the merge."""
    args = merge_args(op, block.index + 1, block.num_blocks)
    make = _MODIFIERS.get(op.name)
    if make is None:
        return Label(str(op), style=Style.SHORTCUT)
    name, detail = make(args, block)
    return Label(name, (detail,) if detail else (), Style.SHORTCUT)


def combination_label(block: BlockSpec) -> Label | None:
    """Return the label of what makes one branch of several parallel ones; None for one branch."""
    op = block.merge.combination
    if block.branches == 1:
        return None
    return Label("sum of the branches", style=Style.SHORTCUT) if op is None else modifier_label(op, block)


def _shake_details(args: dict[str, Arg], block: BlockSpec) -> tuple[str, str]:
    draws = {"shake": "random", "even": "equal", "keep": "the same"}
    forward, backward = (draws[str(args[name])] for name in ("forward", "backward"))
    return f"shake, per {args['level']}", f"weights: {forward}; backward: {backward}"


def _probability(args: dict[str, Arg]) -> float:
    return float(args["p"])


_MODIFIERS: dict[str, Callable[[dict[str, Arg], BlockSpec], tuple[str, str]]] = {
    "dropout": lambda args, block: (f"dropout {_probability(args):g}", ""),
    "stochastic-depth": lambda args, block: (
        "stochastic depth",
        f"kept with p = {_short(survival_probability(_probability(args), block.index, block.num_blocks))}",
    ),
    "drop-path": lambda args, block: (
        "drop path",
        f"rate {_short(drop_path_rate(_probability(args), block.index, block.num_blocks))}",
    ),
    "shake": _shake_details,
    "rezero": lambda args, block: ("× learned scalar", "initially 0"),
    "skipinit": lambda args, block: ("× learned scalar", "initially 0"),
    "layerscale": lambda args, block: ("× scalar per channel", f"initially {format_arg(args['eps'])}"),
}


def factor_labels(block: BlockSpec) -> tuple[Label | None, Label | None]:
    """Return the labels of the fixed factors of shortcut and branch in a `scale`; None for a factor of 1."""
    op = block.merge.op
    if MERGE_OPS[op.name].branch_factor != "b":
        return None, None
    args = merge_args(op, block.index + 1, block.num_blocks)
    shortcut, branch = (
        None if args[name] == 1 else Label(f"× {_short(float(args[name]))}", style=Style.SHORTCUT) for name in "ab"
    )
    return shortcut, branch
