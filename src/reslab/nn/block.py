"""The residual block.

p = pre(x)
y = post( merge( shortcut(p), branch(p) ) )
"""

from torch import Tensor, nn

from reslab.nn.layers import make_conv, make_layer
from reslab.nn.merge import make_merge
from reslab.nn.registry import NormLayer, Site, get_norm_layer
from reslab.nn.shortcut import make_shortcut
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.layout import BlockSpec, layout_stages
from reslab.spec.order import NamedOp


class ResidualBlock(nn.Module):
    """y = post(merge(shortcut(p), branch(p))) with p = pre(x). N C H W to N C' H/stride W/stride.

    `pre_names`, `branch_names` and `post_names` are the modules of each part, in order. The module of the shortcut is
    `downsample`, as in torchvision. A plain twin has neither `downsample` nor `merge`: y = post(branch(p)).
    """

    def __init__(self, spec: BlockSpec, arch: Arch, norm: NormLayer | None) -> None:
        super().__init__()
        self.spec = spec
        site = Site(arch, spec.in_channels, norm, block=spec)
        pre_ops = () if spec.skip_preact else spec.ops.pre
        self.pre_names = self._add_ops(pre_ops if spec.shared_preact else (), site)
        self.branch_names = self._add_ops((() if spec.shared_preact else pre_ops) + spec.ops.branch, site)
        self.post_names = self._add_ops(spec.ops.post, site)
        self.downsample = make_shortcut(spec, site)
        self.merge = None if self.downsample is None else make_merge(spec, site)

    def _add_ops(self, ops: tuple[NamedOp, ...], site: Site) -> tuple[str, ...]:
        names = []
        for named_op in ops:
            module = self._make_layer(named_op, site)
            if module is not None:
                self.add_module(named_op.name, module)
                names.append(named_op.name)
        return tuple(names)

    def _make_layer(self, named_op: NamedOp, site: Site) -> nn.Module | None:
        convs = self.spec.convs
        if named_op.op.name == "conv":
            kind = str(named_op.op.args[0]) if named_op.op.args else ""
            return make_conv(site, convs[named_op.num_convs - 1], site.arch.bias, kind)
        channels = convs[named_op.num_convs - 1].out_channels if named_op.num_convs else convs[0].in_channels
        return make_layer(named_op.op, site.at(channels))

    def _run_layers(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def pre(self, x: Tensor) -> Tensor:
        """Run the operations ahead of the fork; without any, return x itself."""
        return self._run_layers(self.pre_names, x)

    def branch(self, p: Tensor) -> Tensor:
        """Run the residual function F."""
        return self._run_layers(self.branch_names, p)

    def post(self, y: Tensor) -> Tensor:
        """Run the operations after the merge."""
        return self._run_layers(self.post_names, y)

    def forward(self, x: Tensor) -> Tensor:
        p = self.pre(x)
        y = self.branch(p)
        if self.downsample is not None and self.merge is not None:
            y = self.merge(p, self.downsample(p), y)
        return self.post(y)

    def last_norm(self) -> nn.Module | None:
        """Return the last norm of the branch, ahead of the merge; None without one."""
        norms = [name for name in self.branch_names if name.startswith("bn")]
        return getattr(self, norms[-1]) if norms else None


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
