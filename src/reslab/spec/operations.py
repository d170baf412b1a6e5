"""The operations of the grammar: their arguments with types and ranges, where they may stand, and their source.

Four families: layers of a block, stem or head (`se(0.25, of=in)`), and the kinds of convolution, norm and activation
that `conv(...)`, `norm(...)`, `act(...)` and the axes of these names take (`conv(standardized)`, `norm=group(32)`).
`reslab.nn.registry` holds the builder of each module.
"""

from dataclasses import dataclass
from enum import StrEnum

from reslab.spec.errors import unknown_name
from reslab.spec.grammar import Arg, Op, Param, bind, parse_ops
from reslab.spec.plugins import Table


class Family(StrEnum):
    """The family of an operation."""

    LAYER = "layer"
    CONV = "conv"
    NORM = "norm"
    ACT = "act"


class Place(StrEnum):
    """The position that a layer may have."""

    BLOCK = "block"
    STEM = "stem"
    TRANSITION = "transition"
    HEAD = "head"


EVERYWHERE = (Place.BLOCK, Place.STEM, Place.TRANSITION, Place.HEAD)
MAPS = (Place.BLOCK, Place.STEM, Place.TRANSITION)

# Names that a factor may use: the expected standard deviation of the block's input (Brock et al. 2021, Sec. 3), the
# number of blocks L, and the number of the block l, from 1.
BLOCK_NAMES = ("std", "L", "l")


@dataclass(frozen=True)
class Operation:
    """An operation: what it computes, its arguments, its source, and for layers the places where it may stand.

    `is_pool`: it has a size and a stride; in a block, a pool without a stride of its own takes the block's stride, and
    only blocks with a stride have it; `dilates_with_block`: also blocks in which dilation replaces the stride.
    """

    description: str
    reference: str
    params: tuple[Param, ...] = ()
    places: tuple[Place, ...] = ()
    is_pool: bool = False
    dilates_with_block: bool = False

    def bind(self, op: Op) -> dict[str, Arg]:
        """Return the value of every argument by name. Raises ValueError for arguments that it cannot take."""
        return bind(op, self.params)


def _drop(description: str, reference: str) -> Operation:
    rate = Param("rate", float, low=0, below=1, example="0.3")
    return Operation(description, reference, (rate,), EVERYWHERE)


_EPS = Param("eps", float, low=0, example="1e-6")
_STANDARDIZED_EPS = Param("eps", float, default=1e-6, low=0, example="1e-6")
_GROUPS = Param("groups", int, low=1, example="32")
_GROUP_SIZE = Param("size", int, low=1, example="size=16")

_LAYERS: dict[str, Operation] = {
    "conv": Operation("a convolution; in a block the next one of `convs`", "", (Param("kind", str),), EVERYWHERE),
    "norm": Operation("a norm", "", (Param("kind", str),), EVERYWHERE),
    "act": Operation("an activation", "", (Param("kind", str, example="tanh"),), EVERYWHERE),
    "drop": _drop("dropout of elements", "Srivastava et al. 2014"),
    "drop2d": _drop("dropout of whole maps", "Tompson et al. 2015, arXiv:1411.4280"),
    "bias": Operation("adds a learned scalar", "Zhang, Dauphin and Ma 2019, Fig. 1", (), EVERYWHERE),
    "scale": Operation("multiplies by a learned scalar", "Zhang, Dauphin and Ma 2019, Fig. 1", (), EVERYWHERE),
    "mul": Operation(
        "multiplies by a number, or by arithmetic over std, L and l",
        "Brock et al. 2021, arXiv:2101.08692, Sec. 3",
        (Param("factor", float, required=True, names=BLOCK_NAMES, example="1/std"),),
        EVERYWHERE,
    ),
    "se": Operation(
        "squeeze-and-excitation: x sigmoid(W2 act(W1 mean(x))); the inner width is a share of the channels here, or of "
        "the block's input (`of=in`), rounded to a multiple of `divisor`",
        "Hu, Shen and Sun 2018, arXiv:1709.01507, Eqs. 2 to 4",
        (
            Param("ratio", float, low=0, high=1, example="0.25"),
            Param("of", str, default="self", choices=("self", "in")),
            Param("divisor", int, default=8, low=1, example="0.25,divisor=8"),
            Param("act", str, default="relu"),
        ),
        MAPS,
    ),
    "eca": Operation(
        "efficient channel attention: x sigmoid(conv1d(mean(x))) over the channels; without a size, the kernel is the "
        "odd number at or above |log2 C + 1| / 2, at least 3",
        "Wang et al. 2020, arXiv:1910.03151, Eq. 12",
        (Param("size", int, low=1, example="3"),),
        MAPS,
    ),
    "cbam": Operation(
        "channel attention from average and maximum, then spatial attention",
        "Woo et al. 2018, arXiv:1807.06521, Eqs. 2 and 3",
        (
            Param("ratio", float, default=0.0625, low=0, high=1, example="0.0625"),
            Param("kernel", int, default=7, low=1, example="kernel=7"),
        ),
        MAPS,
    ),
    "gc": Operation(
        "global context: x + W2 relu(norm(W1 context)), the context a softmax-weighted sum over positions",
        "Cao et al. 2019, arXiv:1904.11492, Fig. 4(d)",
        (Param("ratio", float, default=0.0625, low=0, high=1, example="0.0625"),),
        MAPS,
    ),
    "spatial": Operation(
        "spatial attention alone: x sigmoid(conv(mean and maximum over channels))",
        "Woo et al. 2018, arXiv:1807.06521, Eq. 3",
        (Param("kernel", int, default=7, low=1, example="7"),),
        MAPS,
    ),
    "grn": Operation(
        "global response normalization: x + bias + weight x g / mean(g), g the norm of each map",
        "Woo et al. 2023, arXiv:2301.00808, Eqs. 1 to 3",
        (),
        MAPS,
    ),
    "maxpool": Operation(
        "max-pool; `ceil`: without padding, the last window may leave the map; `zero`: padded with zeros",
        "",
        (Param("mode", str, choices=("ceil", "zero")),),
        EVERYWHERE,
        is_pool=True,
    ),
    "avgpool": Operation("average pool", "", (), EVERYWHERE, is_pool=True),
    "blurpool": Operation(
        "binomial filter (3x3 unless a size is given) over reflected borders, then the stride",
        "Zhang 2019, arXiv:1904.11486, Sec. 3",
        (),
        MAPS,
        is_pool=True,
        dilates_with_block=True,
    ),
    "flatten": Operation("one row of features per image", "", (), (Place.HEAD,)),
    "fc": Operation("a linear layer", "", (Param("width", int, low=1, example="32"),), (Place.HEAD,)),
}

_CONVS: dict[str, Operation] = {
    "plain": Operation("a convolution", ""),
    "standardized": Operation(
        "weights with mean 0 and variance 1 in each filter",
        "Qiao et al. 2019, arXiv:1903.10520, Eq. 6",
        (_STANDARDIZED_EPS,),
    ),
    "scaled-standardized": Operation(
        "standardized weights divided by sqrt(fan in), times a learned gain per filter and the gain of the activation "
        "unless `gain=none`",
        "Brock et al. 2021, arXiv:2101.08692, Eq. 1",
        (Param("gain", str, default="act", choices=("act", "none")), _STANDARDIZED_EPS),
    ),
    "dirac": Operation(
        "diag(a) I + diag(b) W / |W|, with I the identity as a kernel, a and b learned per filter",
        "Zagoruyko and Komodakis 2017, arXiv:1706.00388, Eqs. 3 and 4",
    ),
    "whitened": Operation(
        "frozen filters that whiten the patches of training images, each with both signs, and a learned bias",
        "Jordan 2024, arXiv:2404.00498, section 3.3; Page 2019, How to Train Your ResNet 8",
        (Param("eps", float, default=5e-4, low=1e-9, example="0.01"),),
    ),
    "res2": Operation(
        "channels in `scales` parts: each goes through a convolution, norm and activation of its own, after the part "
        "before is added; the last part goes through unchanged",
        "Gao et al. 2019, arXiv:1904.01169, Eq. 1",
        (Param("scales", int, required=True, low=1, example="4"),),
    ),
    "select": Operation(
        "convolutions of growing dilation, chosen per channel by a softmax; `split` divides the input among them",
        "Li et al. 2019, arXiv:1903.06586, Sec. 3.1",
        (
            Param("paths", int, default=2, low=2, example="2"),
            Param("input", str, default="whole", choices=("whole", "split")),
            Param("ratio", float, default=0.0625, low=0, high=1, example="0.0625"),
            Param("divisor", int, default=8, low=1, example="2,divisor=8"),
        ),
    ),
    "split": Operation(
        "split attention over `radix` groups",
        "Zhang et al. 2020, arXiv:2004.08955, Sec. 3.1",
        (Param("radix", int, default=2, low=1, example="2"), Param("ratio", float, default=0.25, low=0, high=1)),
    ),
}

_NORMS: dict[str, Operation] = {
    "batch": Operation("batch norm", "Ioffe and Szegedy 2015, arXiv:1502.03167"),
    "frozen": Operation("batch norm with fixed statistics, weight and bias", "torchvision.ops.FrozenBatchNorm2d"),
    "group": Operation(
        "group norm of `groups` groups, or of groups of `size` channels",
        "Wu and He 2018, arXiv:1803.08494",
        (_GROUPS, _GROUP_SIZE),
    ),
    "layer": Operation("layer norm over the channels of each position", "Ba et al. 2016, arXiv:1607.06450", (_EPS,)),
    "rms": Operation(
        "division by the root mean square over the channels of each position",
        "Zhang and Sennrich 2019, arXiv:1910.07467",
        (_EPS,),
    ),
    "simple": Operation(
        "division by the standard deviation over the channels of each position, without a mean to subtract",
        "timm layers/norm.py, SimpleNorm",
        (_EPS,),
    ),
    "instance": Operation(
        "instance norm with weight and bias", "Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022", (_EPS,)
    ),
    "ibn": Operation(
        "instance norm of the first share of the channels, batch norm of the rest",
        "Pan et al. 2018, arXiv:1807.09441, Fig. 3(a)",
        (Param("ratio", float, default=0.5, low=0, below=1, example="0.5"),),
    ),
    "frn": Operation(
        "filter response norm and its thresholded activation: max(weight x / rms(x) + bias, tau)",
        "Singh and Krishnan 2020, arXiv:1911.09737, Eqs. 1 to 3",
        (_EPS,),
    ),
    "evonorm-s0": Operation(
        "weight x sigmoid(v x) / std of the group + bias: norm and activation in one",
        "Liu et al. 2020, arXiv:2004.02967, Table 1",
        (Param("groups", int, default=32, low=1, example="32"), _EPS),
    ),
    "none": Operation("no norm", ""),
    "custom": Operation("the callable given as norm_layer", ""),
}

# Gains that keep the variance of a unit Gaussian (Brock et al. 2021, arXiv:2101.08692, Sec. 3; deepmind nfnets).
ACT_GAINS: dict[str, float] = {
    "relu": 1.7139588594436646,
    "tanh": 1.5939117670059204,
    "sigmoid": 4.803835391998291,
    "leaky-relu": 1.70590341091156,
    "elu": 1.2716004848480225,
    "selu": 1.0008515119552612,
    "gelu": 1.7015043497085571,
    "silu": 1.7881293296813965,
    "softplus": 1.9203323125839233,
    "identity": 1.0,
}

_ACTS: dict[str, Operation] = {
    name: Operation(name, reference)
    for name, reference in {
        "relu": "Nair and Hinton 2010",
        "relu6": "Krizhevsky 2010; min(max(x, 0), 6)",
        "tanh": "",
        "sigmoid": "",
        "leaky-relu": "Maas et al. 2013",
        "elu": "Clevert et al. 2016, arXiv:1511.07289",
        "selu": "Klambauer et al. 2017, arXiv:1706.02515",
        "gelu": "Hendrycks and Gimpel 2016, arXiv:1606.08415",
        "gelu-tanh": "Hendrycks and Gimpel 2016, arXiv:1606.08415, the approximation by tanh",
        "silu": "Hendrycks and Gimpel 2016, arXiv:1606.08415; Ramachandran et al. 2017, arXiv:1710.05941",
        "mish": "Misra 2019, arXiv:1908.08681",
        "hardswish": "Howard et al. 2019, arXiv:1905.02244",
        "softplus": "Glorot et al. 2011",
        "identity": "",
    }.items()
}

# Users add theirs with `reslab.register_operation`.
OPERATIONS: dict[Family, Table[Operation]] = {
    Family.LAYER: Table("layer", _LAYERS, is_word_of_grammar=True),
    Family.CONV: Table("kind of convolution", _CONVS, is_word_of_grammar=True),
    Family.NORM: Table("kind of norm", _NORMS, is_word_of_grammar=True),
    Family.ACT: Table("kind of activation", _ACTS, is_word_of_grammar=True),
}


def get_operation(family: Family, name: str) -> Operation:
    """Return the operation of this name. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in OPERATIONS[family]:
        raise unknown_name("operation" if family is Family.LAYER else family.value, name, OPERATIONS[family])
    return OPERATIONS[family][name]


def layer_names(place: Place) -> list[str]:
    """Return the names of the layers that may stand at this place."""
    return [name for name, operation in OPERATIONS[Family.LAYER].items() if place in operation.places]


def parse_kind(family: Family, text: str) -> tuple[str, dict[str, Arg]]:
    """Return name and arguments of a kind of convolution, norm or activation: `group(32)`.

    Raises ValueError for an unknown kind, with the nearest ones, and for arguments it cannot take.
    """
    op = parse_name_and_args(text)
    if op is None:
        raise unknown_name(family.value, text, OPERATIONS[family])
    return op.name, get_operation(family, op.name).bind(op)


def parse_name_and_args(text: str) -> Op | None:
    """Return one name with its arguments, digits at its end included (`res2(4)`); None for anything else."""
    ops = [op for op in parse_ops(text) if op.stride is None] if text else []
    if len(ops) != 1:
        return None
    return Op(f"{ops[0].name}{'' if ops[0].size is None else ops[0].size}", ops[0].args, kwargs=ops[0].kwargs)


def is_pool(op: Op) -> bool:
    """Return whether the operation is a pool."""
    operation = OPERATIONS[Family.LAYER].get(op.name)
    return operation is not None and operation.is_pool


def dilates_with_block(op: Op) -> bool:
    """Return whether a block in which dilation replaces the stride has the operation, a pool, with stride 1."""
    return OPERATIONS[Family.LAYER][op.name].dilates_with_block
