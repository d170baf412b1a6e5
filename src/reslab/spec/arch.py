"""A residual network as data: a chain of two-path blocks.

p = pre(x)                                        operations ahead of the fork, often none
y = post( merge( shortcut(p), branch(p) ) )
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from reslab.spec.errors import invalid
from reslab.spec.grammar import check_expression, parse_ops, split_outside_brackets

# The names of width expressions: channels of the block's input, the stage's width, the inner width of ResNeXt's
# formula, channels of the block's output, the stage's group width, and 1 in the network's first block (0 in others).
WIDTH_NAMES = ("in", "w", "inner", "out", "g", "first")
_EXAMPLE = "'7(w, groups=w), 1(4*w), 1(w)'"


@dataclass(frozen=True)
class ConvRule:
    """One convolution of the branch: its kernel, and expressions for its width and groups (empty: the default)."""

    kernel: int
    width: str = ""
    groups: str = ""


@dataclass(frozen=True)
class ConvSpec:
    """One convolution. `kernels` and `strides`: one for each dimension of the map, where they differ.

    `keeps_size`: padded as TensorFlow pads, so that the map keeps its size for an even kernel too.
    """

    kernel: int
    in_channels: int
    out_channels: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    kernels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    keeps_size: bool = False


@lru_cache(maxsize=1024)
def parse_convs(convs: tuple[int, ...] | str) -> tuple[tuple[ConvRule, ...], ...]:
    """Return the convolutions of each list: one for all stages, or one a stage.

    Raises ValueError for text that is no list of `KERNEL` or `KERNEL(WIDTH, groups=GROUPS)`.
    """
    if not isinstance(convs, str):
        return (tuple(ConvRule(kernel) for kernel in convs),)
    return tuple(
        tuple(_parse_rule(text.strip()) for text in split_outside_brackets(stage, ","))
        for stage in split_outside_brackets(convs, ";")
    )


def _parse_rule(text: str) -> ConvRule:
    # An operation starts with a letter: `k7(w)` stands for the kernel and its arguments.
    ops = parse_ops(f"k{text}") if text[:1].isdigit() else ()
    if len(ops) != 1 or ops[0].name != "k" or ops[0].size is None or ops[0].stride is not None:
        raise invalid(
            "convolutions as KERNEL or KERNEL(WIDTH, groups=GROUPS), separated by commas", repr(text), _EXAMPLE
        )
    op, kwargs = ops[0], dict(ops[0].kwargs)
    if len(op.args) > 1 or set(kwargs) - {"groups"}:
        raise invalid("a convolution as KERNEL(WIDTH, groups=GROUPS)", repr(text), _EXAMPLE)
    rule = ConvRule(op.size or 0, str(op.args[0]) if op.args else "", str(kwargs.get("groups", "")))
    for expression in (rule.width, rule.groups):
        if expression:
            check_expression(expression, WIDTH_NAMES)
    return rule


def format_convs(convs: tuple[int, ...] | str) -> str:
    """Return the axis as a text."""
    return convs if isinstance(convs, str) else ",".join(map(str, convs))


@dataclass(frozen=True)
class Arch:
    """The architecture of a network. Every field is an axis that can be overridden by name.

    Sizes:

    * `depths`: blocks in each stage.
    * `widths`: the width of each stage's branch, or a law: `additive(16,48)` (PyramidNet) makes block k of N
      round(16 + 48 k / N) wide.
    * `convs`: the kernel of each convolution of the branch, or a text with widths and groups, one list for all stages
      or one a stage: `7(w, groups=w), 1(4*w), 1(w)`, `3,3; 1,3,1`.
    * `branches`: the number of parallel branches of a block, alike but for their weights; their sum is F, unless the
      merge combines them otherwise (`shake`).
    * `expansion`: a block's output width divided by its stage's width.
    * `groups`, `width_per_group`: cardinality and base width (ResNeXt). The inner width is
      int(width * width_per_group / 64) * groups; convolutions with a kernel above 1 are grouped.
    * `group_width`: the number of channels of a group, one for all stages or one a stage (RegNet); 0: see `groups`.
    * `strides`: one per stage. `stride_conv`: the number of the strided convolution, from 1; 0 means the first one with
      a kernel above 1.
    * `replace_stride_with_dilation`: one truth value for each stage after the first.
    * `in_channels`, `image_size` (height, width), `num_classes`: the input and output the network is described for.
    * `dims`: the dimensions of the maps: 1 for signals (N C T), 2 for images, 3 for volumes and clips (N C D H W);
      `image_size` has as many sides.

    Expressions (see `reslab.spec.order` and `reslab.spec.shortcut`):

    * `order`: the name of a block layout, or a layout. `shortcut`: a name. `merge`: an expression.
    * `stem`, `transition`, `head`: expressions; the order decides which operations follow the stem's last convolution,
      and, unless `final` says so, which follow the last block.
      The transition comes ahead of each stage but the first and then makes its stride and its width (ConvNeXt).

    Layers:

    * `drop_rate`: the rate of every `drop` without a rate of its own.
    * `conv`, `norm`, `act`: the kind of every convolution, norm and activation that the expressions give no other kind
      (`reslab.spec.operations`). `init`: a name in `reslab.nn.init`.
    * `padding`: the padding mode of convolutions, or `same`: as much at the end as at the beginning, or one more
      (TensorFlow).
    * `last_norm_weight`: the initial weight of each branch's last norm (0: Goyal et al. 2017, Sec. 5.1).
    * `share_weights`: the blocks of a stage share one set of weights.

    `reference` names the source of the numbers. Values are checked when the blocks are laid out
    (`reslab.spec.layout.layout_stages`), because most rules concern several axes at once.
    """

    name: str
    reference: str
    depths: tuple[int, ...]
    widths: tuple[int, ...] | str
    convs: tuple[int, ...] | str = (3, 3)
    branches: int = 1
    expansion: int = 1
    groups: int = 1
    width_per_group: int = 64
    group_width: int | tuple[int, ...] = 0
    stride_conv: int = 0
    strides: tuple[int, ...] = (1, 2, 2, 2)
    replace_stride_with_dilation: tuple[bool, ...] = ()
    order: str = "original"
    shortcut: str = "project"
    merge: str = "add"
    stem: str = "conv7/2(64) norm act maxpool3/2"
    transition: str = ""
    final: str | None = None
    head: str = "avgpool flatten fc"
    drop_rate: float = 0.0
    conv: str = "plain"
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
    dims: int = 2
    image_size: tuple[int, ...] = (224, 224)

    @property
    def input_size(self) -> tuple[int, ...]:
        """Channels and sides of the input the network is described for."""
        return (self.in_channels, *self.image_size)

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the images the network is described for. Raises ValueError for signals and volumes."""
        if len(self.image_size) != 2:
            raise invalid("a network of images (dims=2)", f"dims={self.dims}", next_step="predict from tensors")
        return self.image_size[0], self.image_size[1]

    @property
    def num_blocks(self) -> int:
        """The number of blocks in all stages."""
        return sum(self.depths)

    @property
    def stage_convs(self) -> tuple[tuple[ConvRule, ...], ...]:
        """The convolutions of a block of each stage. Raises ValueError for another number of lists than stages."""
        lists, num_stages = parse_convs(self.convs), len(self.depths)
        if len(lists) not in (1, num_stages):
            required = f"convs as one list for all stages, or {num_stages} separated by ';'"
            raise invalid(required, repr(self.convs), next_step="set convs or depths")
        return lists * num_stages if len(lists) == 1 else lists

    @property
    def num_convs(self) -> int:
        """The number of convolutions of the longest branch."""
        return max(len(rules) for rules in parse_convs(self.convs))

    @property
    def depth(self) -> int:
        """The number of weighted layers on the main path, as papers count them.

        Convolutions of stem, branches, transitions and head, and linear layers; projections on shortcuts are not
        counted.
        """

        def count(expression: str) -> int:
            return sum(op.name in ("conv", "fc") for op in parse_ops(expression))

        num_branch_convs = sum(depth * len(rules) for depth, rules in zip(self.depths, self.stage_convs, strict=True))
        num_transitions = max(len(self.depths) - 1, 0)
        return count(self.stem) + num_branch_convs + num_transitions * count(self.transition) + count(self.head)

    def without_shortcuts(self) -> "Arch":
        """Return the plain twin: the same network with `merge="none"`."""
        return replace(self, merge="none")


def parse_arch_overrides(texts: tuple[str, ...]) -> dict[str, str]:
    """Return `("merge=drop-path(0.05)", ...)` as a dictionary.

    Raises ValueError for a text that is not AXIS=VALUE and for an axis given twice.
    """
    overrides: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or name in overrides:
            raise invalid("axes of the network as AXIS=VALUE, each once", repr(text), nearest="'merge=drop-path(0.05)'")
        overrides[name] = value
    return overrides
