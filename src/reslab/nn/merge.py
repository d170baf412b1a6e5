"""The merge of shortcut and branch: modifiers of each path, then one operation (`reslab.spec.shortcut.MERGE_OPS`).

An operation is a function of both paths (`add`), or a class with weights (`GatedMerge`). A modifier is a function that
returns a module, or the initial values of a learned factor.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.fx
from torch import Tensor, nn

from reslab.nn.registry import Site, call_with_context, describe, layer_class, per_channel
from reslab.spec.grammar import Op, signature_params
from reslab.spec.layout import BlockSpec
from reslab.spec.shortcut import (
    MERGE_OPS,
    MergeOp,
    MergeRole,
    drop_path_rate,
    merge_args,
    survival_probability,
)

MergeBuilder = Callable[..., Any]
MergeBuilderT = TypeVar("MergeBuilderT", bound=MergeBuilder)
MERGE_BUILDERS: dict[str, MergeBuilder] = {}
_CONTEXT = ("block", "site", "block_input", "shortcut", "branch")


def merge_builder(*names: str) -> Callable[[MergeBuilderT], MergeBuilderT]:
    """Return a decorator that adds the function or class of built-in operations."""

    def add(function: MergeBuilderT) -> MergeBuilderT:
        MERGE_BUILDERS.update(dict.fromkeys(names, function))
        return function

    return add


def register_merge(
    name: str,
    *,
    reference: str = "",
    description: str = "",
    role: str = MergeRole.MERGE,
    varies_with_depth: bool = False,
) -> Callable[[MergeBuilderT], MergeBuilderT]:
    """Return a decorator that registers an operation of the axis `merge`, or with another `role` a modifier.

    * `merge`: a function of `shortcut` and `branch` (N C H W; also `block_input`, if it has such a parameter), or a
      subclass of `Merge` (of `block` and `site`) with weights of its own. Further parameters are arguments.
    * `shortcut`, `branch`: a function that returns a module for that path; it may have parameters `block` (`BlockSpec`)
      and `site` (`Site`) beside its arguments.
    * `branches`: such a function; its module takes the list of the parallel branches' outputs, and returns one tensor.

    The description is by default the docstring; `varies_with_depth` forbids the operation in blocks that share weights.
    Raises ValueError for a name that is taken.
    """

    def register(function: MergeBuilderT) -> MergeBuilderT:
        params = signature_params(function, _CONTEXT)
        operation = MergeOp(
            description or describe(function),
            reference,
            params,
            MergeRole(role),
            varies_with_depth=varies_with_depth,
        )
        MERGE_OPS.register(name, operation, function)
        MERGE_BUILDERS[name] = function
        return function

    return register


# torch.fx records one call of these functions, so that a traced network draws new random numbers in each call, and the
# nodes of training and eval mode are the same, as `create_feature_extractor` of torchvision requires.
@torch.fx.wrap
def drop_batch(x: Tensor, probability: float, training: bool) -> Tensor:
    """Return x times one draw from Bernoulli(probability), in eval mode times the probability."""
    if not training:
        return x * probability
    return x * torch.bernoulli(torch.full((), probability, device=x.device)).to(x.dtype)


@torch.fx.wrap
def drop_samples(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x times one draw per sample from Bernoulli(1 - rate), divided by 1 - rate; in eval mode x."""
    if not training or rate == 0:
        return x
    keep_probability = 1 - rate
    if keep_probability == 0:
        return x * 0
    shape = (len(x), *([1] * (x.ndim - 1)))
    mask = torch.bernoulli(torch.full(shape, keep_probability, device=x.device)).to(x.dtype)
    return x * (mask / keep_probability)


@torch.fx.wrap
def shake_branches(branches: list[Tensor], forward_mode: str, backward_mode: str, level: str, training: bool) -> Tensor:
    """Return the weighted sum of parallel branches, with other weights in the backward pass; in eval mode the mean."""
    stacked = torch.stack(branches)
    if not training:
        return stacked.mean(0)
    forward = draw_branch_weights(branches[0], len(branches), forward_mode, level)
    if backward_mode == "keep":
        return (forward * stacked).sum(0)
    backward = draw_branch_weights(branches[0], len(branches), backward_mode, level)
    # The gradient passes through the first product alone.
    return (backward * stacked + ((forward - backward) * stacked).detach()).sum(0)


class StochasticDepthBatch(nn.Module):
    """Stochastic depth with one draw per batch (Huang et al. 2016, Sec. 3).

    In training b x with b drawn from Bernoulli(p), in eval mode p x. The branch is computed and multiplied, not
    skipped as in the authors' code, so its norms see every batch.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return drop_batch(x, self.probability, self.training)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"


def draw_branch_weights(x: Tensor, num_branches: int, mode: str, level: str) -> Tensor:
    """Return weights K N 1 ... (K 1 1 ... per batch) of sum 1 over the K branches, for outputs N C ... like `x`."""
    shape = (num_branches, len(x) if level == "image" else 1)
    if mode == "even":
        weights = torch.full(shape, 1 / num_branches, device=x.device)
    else:
        # The gaps between K - 1 sorted uniform numbers are uniform over all weights of sum 1.
        cuts = torch.rand((num_branches - 1, shape[1]), device=x.device).sort(0).values
        weights = torch.diff(cuts, dim=0, prepend=cuts.new_zeros(1, shape[1]), append=cuts.new_ones(1, shape[1]))
    return weights.to(x.dtype).reshape(*shape, *([1] * (x.ndim - 1)))


class DropPath(nn.Module):
    """Stochastic depth with one draw per sample (Larsson et al. 2017; timm's DropPath).

    In training x b / (1 - p) with b drawn from Bernoulli(1 - p), in eval mode x.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return drop_samples(x, self.rate, self.training)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Merge(nn.Module, ABC):
    """Merge shortcut and branch: the modifiers of each path, then `combine`. N C H W in and out.

    Learned factors of the branch are parameters of this module: `scale` (rezero, skipinit), `gamma` (layerscale).
    """

    def __init__(self, block: BlockSpec, site: Site) -> None:
        super().__init__()
        self.is_sum = MERGE_OPS[block.merge.op.name].is_sum
        self.factor_names: list[str] = []
        self.shortcut_modifiers = nn.Sequential()
        self.branch_modifiers = nn.Sequential()
        for op in block.merge.shortcut_modifiers:
            self.shortcut_modifiers.append(_call_builder(op, block, site))
        for op in block.merge.branch_modifiers:
            part, factor = _call_builder(op, block, site), MERGE_OPS[op.name].factor
            if factor:
                self.register_parameter(factor, nn.Parameter(part))
                self.factor_names.append(factor)
            else:
                self.branch_modifiers.append(part)

    @property
    def is_plain_sum(self) -> bool:
        """True if the shortcut is added unchanged: no factor, gate or dropout."""
        return self.is_sum and len(self.shortcut_modifiers) == 0

    @property
    def adds_branch_unchanged(self) -> bool:
        """True if the output is a sum with the branch itself: no modifier or factor of the branch."""
        return self.is_sum and len(self.branch_modifiers) == 0 and not self.factor_names

    @abstractmethod
    def combine(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Return the output of the two paths, after their modifiers."""

    def init_weights(self) -> None:
        """Set the initial values that the network's `init` does not draw; none here."""

    def forward(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        branch = self.branch_modifiers(branch)
        for name in self.factor_names:
            branch = branch * per_channel(getattr(self, name), branch)
        return self.combine(block_input, self.shortcut_modifiers(shortcut), branch)


class FunctionMerge(Merge):
    """A merge by a function of `shortcut`, `branch` and, if it has such a parameter, `block_input`.

    With `inplace` a sum is written into the branch (`reslab.nn.inplace`).
    """

    inplace = False

    def __init__(self, block: BlockSpec, site: Site) -> None:
        super().__init__(block, site)
        op = block.merge.op
        self.function, self.args = MERGE_BUILDERS[op.name], merge_args(op, block.index + 1, block.num_blocks)
        self.needs_input = "block_input" in inspect.signature(self.function).parameters

    def combine(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.inplace and (shortcut.dtype, shortcut.shape) == (branch.dtype, branch.shape):
            return branch.add_(shortcut)
        args = {**self.args, "block_input": block_input} if self.needs_input else self.args
        output: Tensor = self.function(shortcut=shortcut, branch=branch, **args)
        return output

    def extra_repr(self) -> str:
        return ", ".join([self.function.__name__, *(f"{name}={value}" for name, value in self.args.items())])


class SumBranches(nn.Module):
    """The sum of parallel branches (aggregated transformations; Xie et al. 2017, Eq. 2)."""

    def forward(self, branches: list[Tensor]) -> Tensor:
        return torch.stack(branches).sum(0)


class Shake(nn.Module):
    """Random weights of parallel branches (Gastaldi 2017, arXiv:1705.07485, Eqs. 2 and 3); in eval mode the mean.

    The forward pass computes sum_i a_i x_i, the backward pass multiplies the gradient by b_i. `shake` draws the weights
    uniformly from those of sum 1 (for two branches, a_1 from U(0, 1) and a_2 = 1 - a_1), `even` takes 1 / K, and `keep`
    takes b = a. `level`: one draw per `image` or per `batch`.
    """

    def __init__(self, forward: str = "shake", backward: str = "shake", level: str = "image") -> None:
        super().__init__()
        self.forward_mode, self.backward_mode, self.level = forward, backward, level

    def forward(self, branches: list[Tensor]) -> Tensor:
        return shake_branches(branches, self.forward_mode, self.backward_mode, self.level, self.training)

    def extra_repr(self) -> str:
        return f"forward={self.forward_mode}, backward={self.backward_mode}, level={self.level}"


@merge_builder("shake")
def shake(forward: str, backward: str, level: str) -> nn.Module:
    """Build the `Shake` that combines parallel branches."""
    return Shake(forward, backward, level)


def make_combination(block: BlockSpec, site: Site) -> nn.Module | None:
    """Return the module that makes one branch of several parallel ones; None for one branch."""
    if block.branches == 1:
        return None
    if block.merge.combination is None:
        return SumBranches()
    module: nn.Module = _call_builder(block.merge.combination, block, site)
    return module


def make_merge(block: BlockSpec, site: Site) -> Merge:
    """Return the merge of a block."""
    if isinstance(MERGE_BUILDERS[block.merge.op.name], type):
        merge: Merge = _call_builder(block.merge.op, block, site)
        return merge
    return FunctionMerge(block, site)


def _call_builder(op: Op, block: BlockSpec, site: Site) -> Any:
    args = merge_args(op, block.index + 1, block.num_blocks)
    return call_with_context(MERGE_BUILDERS[op.name], {"block": block, "site": site}, args.items())


@merge_builder("add")
def add(shortcut: Tensor, branch: Tensor) -> Tensor:
    """Return shortcut + branch."""
    return shortcut + branch


@merge_builder("none")
def branch_alone(shortcut: Tensor, branch: Tensor) -> Tensor:
    """Return the branch: a plain network."""
    return branch


@merge_builder("scale")
def scaled_add(shortcut: Tensor, branch: Tensor, a: float, b: float) -> Tensor:
    """Return a * shortcut + b * branch."""
    return a * shortcut + b * branch


class GatedMerge(Merge):
    """A merge with a gate g = sigmoid(W x + b), a 1x1 convolution over the block's input x with the block's stride.

    Parameters: `gate.weight` and `gate.bias`, which is initially `bias`.
    """

    def __init__(self, block: BlockSpec, site: Site, bias: float) -> None:
        super().__init__(block, site)
        self.gate = layer_class("Conv", site.arch.dims)(block.in_channels, block.out_channels, 1, block.stride)
        self.gate_bias = bias

    def init_weights(self) -> None:
        """Set the gate's bias; its weight is drawn like that of any convolution."""
        assert isinstance(self.gate.bias, Tensor)
        nn.init.constant_(self.gate.bias, self.gate_bias)

    def gate_value(self, block_input: Tensor) -> Tensor:
        """Return the gate g = sigmoid(W x + b)."""
        gate: Tensor = torch.sigmoid(self.gate(block_input))
        return gate


@merge_builder("gate")
class ExclusiveGate(GatedMerge):
    """(1 - g) * shortcut + g * branch (He et al. 2016, Sec. 3.1)."""

    def combine(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        g = self.gate_value(block_input)
        return (1 - g) * shortcut + g * branch


@merge_builder("shortcut-gate")
class ShortcutGate(GatedMerge):
    """(1 - g) * shortcut + branch (He et al. 2016, Sec. 3.1)."""

    def combine(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        return (1 - self.gate_value(block_input)) * shortcut + branch


@merge_builder("dropout")
def dropout(block: BlockSpec, p: float) -> nn.Module:
    """Build `torch.nn.Dropout` for a path."""
    return nn.Dropout(p)


@merge_builder("stochastic-depth")
def stochastic_depth(block: BlockSpec, p: float) -> nn.Module:
    """Build stochastic depth with the survival probability of the block."""
    return StochasticDepthBatch(survival_probability(p, block.index, block.num_blocks))


@merge_builder("drop-path")
def drop_path(block: BlockSpec, p: float) -> nn.Module:
    """Build a `DropPath` with the rate of the block."""
    return DropPath(drop_path_rate(p, block.index, block.num_blocks))


@merge_builder("rezero", "skipinit")
def learned_scalar(block: BlockSpec) -> Tensor:
    """Return the initial value, 0, of a learned factor of the branch."""
    return torch.zeros(1)


@merge_builder("layerscale")
def layer_scale(block: BlockSpec, eps: float) -> Tensor:
    """Return the initial values, `eps`, of a learned factor for each channel of the branch."""
    return torch.full((block.out_channels,), eps)
