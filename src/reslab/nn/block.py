"""The residual block.

p = pre(x)
y = post( merge( shortcut(p), branch(p) ) )
"""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

import reslab.nn.operations  # noqa: F401, which registers the builders
from reslab.nn.merge import make_combination, make_merge
from reslab.nn.recompute import run_recomputed
from reslab.nn.registry import NormLayer, Site, get_norm_layer, make_conv, make_layer
from reslab.nn.shortcut import make_shortcut
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.layout import BlockSpec, layout_stages
from reslab.spec.order import NamedOp


class Branch(nn.Module):
    """One of several parallel branches of a block. `branch_names` are its modules in order."""

    def __init__(self, spec: BlockSpec, ops: tuple[NamedOp, ...], site: Site) -> None:
        super().__init__()
        self.branch_names = _add_ops(self, spec, ops, site)

    def forward(self, x: Tensor) -> Tensor:
        return _run_layers(self, self.branch_names, x)


def _add_ops(module: nn.Module, spec: BlockSpec, ops: tuple[NamedOp, ...], site: Site) -> tuple[str, ...]:
    """Add the layers of operations to a module; return their names."""
    names = []
    for named_op in ops:
        layer = _make_layer(spec, named_op, site)
        if layer is not None:
            module.add_module(named_op.name, layer)
            names.append(named_op.name)
    return tuple(names)


def _make_layer(spec: BlockSpec, named_op: NamedOp, site: Site) -> nn.Module | None:
    convs = spec.convs
    if named_op.op.name == "conv":
        kind = str(named_op.op.args[0]) if named_op.op.args else ""
        return make_conv(site, convs[named_op.num_convs - 1], site.arch.bias, kind)
    channels = convs[named_op.num_convs - 1].out_channels if named_op.num_convs else convs[0].in_channels
    return make_layer(named_op.op, site.at(channels))


def _run_layers(module: nn.Module, names: tuple[str, ...], x: Tensor) -> Tensor:
    for name in names:
        x = getattr(module, name)(x)
    return x


class ResidualBlock(nn.Module):
    """y = post(merge(shortcut(p), branch(p))) with p = pre(x). N C H W to N C' H/stride W/stride.

    `pre_names`, `branch_names` and `post_names` are the modules of each part, in order. The module of the shortcut is
    `downsample`, as in torchvision. Several parallel branches are modules of their own, `branch1`, `branch2` and so on;
    `combination` makes one of their outputs. With `recomputes`, the backward pass computes the block
    again and keeps only its input. A plain twin has neither `downsample` nor `merge`: y = post(branch(p)).
    """

    def __init__(self, spec: BlockSpec, arch: Arch, norm: NormLayer | None) -> None:
        super().__init__()
        self.spec, self.recomputes = spec, False
        site = Site(arch, spec.in_channels, norm, block=spec)
        pre_ops = () if spec.skip_preact else spec.ops.pre
        self.pre_names = _add_ops(self, spec, pre_ops if spec.shared_preact else (), site)
        branch_ops = (() if spec.shared_preact else pre_ops) + spec.ops.branch
        self.branch_names: tuple[str, ...] = ()
        self.combination = make_combination(spec, site)
        if self.combination is None:
            self.branch_names = _add_ops(self, spec, branch_ops, site)
        else:
            for number in range(1, spec.branches + 1):
                self.add_module(f"branch{number}", Branch(spec, branch_ops, site))
        self.post_names = _add_ops(self, spec, spec.ops.post, site)
        self.downsample = make_shortcut(spec, site)
        self.merge = None if self.downsample is None else make_merge(spec, site)

    @property
    def branches(self) -> tuple["ResidualBlock | Branch", ...]:
        """The modules that hold the layers of the branches (`branch_names`): the block itself if it has one."""
        if self.combination is None:
            return (self,)
        return tuple(getattr(self, f"branch{number}") for number in range(1, self.spec.branches + 1))

    def pre(self, x: Tensor) -> Tensor:
        """Run the operations ahead of the fork; without any, return x itself."""
        return _run_layers(self, self.pre_names, x)

    def branch(self, p: Tensor) -> Tensor:
        """Run the residual function F; of several branches, what `combination` makes of them."""
        if self.combination is None:
            return _run_layers(self, self.branch_names, p)
        output: Tensor = self.combination([branch(p) for branch in self.branches])
        return output

    def post(self, y: Tensor) -> Tensor:
        """Run the operations after the merge."""
        return _run_layers(self, self.post_names, y)

    def forward(self, x: Tensor) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            return run_recomputed(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        p = self.pre(x)
        y = self.branch(p)
        if self.downsample is not None and self.merge is not None:
            is_traced_identity = isinstance(p, Proxy) and isinstance(self.downsample, nn.Identity)
            # torch.fx would record the identity as a node, which torchvision's graph does not have.
            y = self.merge(p, p if is_traced_identity else self.downsample(p), y)
        return self.post(y)

    def last_norms(self) -> tuple[nn.Module, ...]:
        """Return the last norm of each branch, ahead of the merge; empty without norms."""
        norms = [(branch, [name for name in branch.branch_names if name.startswith("bn")]) for branch in self.branches]
        return tuple(getattr(branch, names[-1]) for branch, names in norms if names)


def Residual(in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> ResidualBlock:
    """Return the block of Dive into Deep Learning, Sec. 8.6: relu(bn2(conv2(relu(bn1(conv1(x))))) + x).

    With `use_1x1conv`, + conv3(x). Convolutions have a bias, the 1x1 projection (`downsample.0`, the tutorial's
    `conv3`) has no norm, and weights are drawn as in torch.nn. N in_channels H W to N num_channels H/strides W/strides.
    Raises ValueError if the shapes differ and `use_1x1conv` is not set.
    """
    if not use_1x1conv and (in_channels != num_channels or strides != 1):
        got = f"Residual({in_channels}, {num_channels}, use_1x1conv=False, strides={strides})"
        suggestion = f"Residual({in_channels}, {num_channels}, True, {strides})"
        raise invalid("use_1x1conv=True where channels or size change", got, suggestion)
    arch = Arch(
        "residual",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6",
        depths=(1,),
        widths=(num_channels,),
        strides=(strides,),
        shortcut="conv1x1-all" if use_1x1conv else "conv1x1",
        stem="",
        bias=True,
        in_channels=in_channels,
    )
    return ResidualBlock(layout_stages(arch)[0][0], arch, get_norm_layer(arch))
