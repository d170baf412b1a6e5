"""What a residual network is: a chain of two-path units, written as a small piece of data.

p = before(x)                                   the words ahead of the fork, often none
y = after( mix( match(p), branch(p) ) )
"""

from dataclasses import dataclass, replace

from reslab.spec.grammar import Op, parse_ops
from reslab.spec.order import Order, get_order


@dataclass(frozen=True)
class Arch:
    """A network as data. Every field is an axis that can be overridden by name.

    `depths`: units a stage. `widths`: the width of each stage's branch, or a law: `additive(16,48)` is PyramidNet's,
    unit k of N being round(16 + 48 k / N) wide. `branch`: the kernel of each convolution. `expansion`: a unit's output
    width over its stage's width. `groups`, `width_per_group`: cardinality and base width, the inner width is int(width
    * width_per_group / 64) * groups, and kernels larger than 1 are grouped. `stride_at`: the convolution that strides,
    counted from 1; 0 is the first with a kernel larger than 1. `strides`: one a stage. `replace_stride_with_dilation`:
    one truth value a stage after the first.

    `order`, `match`, `mix`: names or sentences (see `reslab.spec.order`, `match`, `mix`). `stem`, `head`: sentences;
    the words of the stem after its last convolution are the order's. `drop`: the rate of each `drop` without one of its
    own. `norm`: `batch`, `group(32)`, `frozen` or `none`. `init`: a line of `reslab.spec.init`. `last_norm_weight`: the
    initial weight of each branch's last norm (0 is Goyal et al. 2017, Sec. 5.1). `shared`: the units of a stage share
    one set of weights. `in_channels`, `image_size` (height, width): the input the network is described for.
    """

    name: str
    reference: str
    depths: tuple[int, ...]
    widths: tuple[int, ...] | str
    convs: tuple[int, ...] = (3, 3)
    expansion: int = 1
    groups: int = 1
    width_per_group: int = 64
    stride_conv: int = 0
    strides: tuple[int, ...] = (1, 2, 2, 2)
    replace_stride_with_dilation: tuple[bool, ...] = ()
    order: str = "original"
    shortcut: str = "project"
    merge: str = "add"
    stem: str = "conv7/2(64) norm act maxpool3/2"
    head: str = "avgpool flatten fc"
    drop_rate: float = 0.0
    act: str = "relu"
    norm: str = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    bias: bool = False
    stem_bias: bool = False
    padding: str = "zeros"
    init: str = "torchvision"
    last_norm_weight: float = 1.0
    se_ratio: float = 0.0625
    share_weights: bool = False
    num_classes: int = 1000
    in_channels: int = 3
    image_size: tuple[int, int] = (224, 224)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the input the network is described for."""
        return (self.in_channels, *self.image_size)

    @property
    def num_blocks(self) -> int:
        """Units in all stages."""
        return sum(self.depths)

    @property
    def depth(self) -> int:
        """Weighted layers on the way through: convolutions of stem and branches and linear layers; projections are not
        counted."""
        num_stem_convs = sum(op.name == "conv" for op in self.stem_ops)
        num_head_layers = sum(op.name == "fc" for op in parse_ops(self.head))
        return num_stem_convs + self.num_blocks * len(self.convs) + num_head_layers

    @property
    def stem_ops(self) -> tuple[Op, ...]:
        """The words of the stem, those after its last convolution replaced by the order's (a pre-activated network's
        stem ends bare)."""
        ops = parse_ops(self.stem)
        conv_indices = [i for i, op in enumerate(ops) if op.name == "conv"]
        if not conv_indices:
            return ops
        end = conv_indices[-1] + 1
        rest_start = end
        while rest_start < len(ops) and ops[rest_start].name in ("norm", "act", "bias"):
            rest_start += 1
        order_ops = parse_ops(self.order_spec.stem_ops)
        return ops[:end] + order_ops + ops[rest_start:]

    @property
    def order_spec(self) -> Order:
        """The order with the facts that belong to it."""
        return get_order(self.order)

    def without_shortcuts(self) -> "Arch":
        """The plain twin: the same network with mix `none`."""
        return replace(self, merge="none")
