"""The sentences at the two ends of a network, stem and head, and what each of their words may say."""

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.order import check_op_args

POOL_OPS = ("maxpool", "avgpool")
STEM_OPS = ("conv", *POOL_OPS, "norm", "act", "drop", "drop2d", "se", "bias", "scale")
HEAD_OPS = (*POOL_OPS, "flatten", "fc", "act", "drop", "drop2d", "bias", "scale")


def conv_width(op: Op) -> int:
    """The output width of a stem's `conv3/2(32)`; ValueError where it has none, or an even kernel."""
    if len(op.args) != 1 or not isinstance(op.args[0], int) or op.args[0] < 1:
        raise invalid("a stem's convolution as convK/S(WIDTH)", repr(str(op)), "'conv3(16)'")
    if op.size is not None and op.size % 2 == 0:
        suggestion = f"'conv{op.size + 1}({op.args[0]})'"
        raise invalid("an odd kernel, so that only the stride changes the size", repr(str(op)), suggestion)
    return op.args[0]


def check_stem(expression: str) -> None:
    """Raises ValueError for a word that has no place in a stem, or says what it cannot mean there."""
    for op in parse_ops(expression):
        if op.name not in STEM_OPS:
            raise unknown_name("word in a stem", op.name, STEM_OPS)
        _check_stride(op)
        if op.name == "conv":
            conv_width(op)
        elif op.name not in POOL_OPS:
            check_op_args(op)
        elif not op.size or op.args:
            raise invalid("a stem's pool as maxpoolK/S", repr(str(op)), "'maxpool3/2'")


def check_head(expression: str) -> None:
    """Raises ValueError for a word that has no place in a head, for linear layers that read maps, or a last one that
    has a width of its own in place of num_classes."""
    ops = parse_ops(expression)
    is_flat = False
    for op in ops:
        if op.name not in HEAD_OPS:
            raise unknown_name("word in a head", op.name, HEAD_OPS)
        _check_stride(op)
        if is_flat if op.name in (*POOL_OPS, "flatten", "drop2d") else not is_flat and op.name == "fc":
            raise invalid(
                "maps pooled, then flattened once, then linear layers", repr(expression), "'avgpool flatten fc'"
            )
        is_flat = is_flat or op.name == "flatten"
        if op.name not in (*POOL_OPS, "flatten", "fc"):
            check_op_args(op)
        elif op.name == "fc" and op.args:
            _check_hidden_width(op)
    linear_ops = [op for op in ops if op.name == "fc"]
    if linear_ops and linear_ops[-1].args:
        raise invalid(
            "a last 'fc' without a width (num_classes is its width)", repr(expression), "'avgpool flatten fc'"
        )


def _check_stride(op: Op) -> None:
    if op.stride == 0 or op.size == 0:
        raise invalid("sizes and strides from 1", repr(str(op)), repr(f"{op.name}3/2"))


def _check_hidden_width(op: Op) -> None:
    width = op.args[0]
    if len(op.args) != 1 or not isinstance(width, int) or width < 1:
        raise invalid("a hidden linear layer as fc(WIDTH)", repr(str(op)), "'fc(32)'")
