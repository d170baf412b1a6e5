"""The unit everything hangs on: p = before(x); y = after(mix(match(p), branch(p)))."""

from torch import Tensor, nn

from reslab.nn.layers import NormLayer, get_norm_layer, make_conv, make_layer
from reslab.nn.shortcut import Merge, make_shortcut
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.layout import BlockSpec, layout_stages
from reslab.spec.order import NamedOp
from reslab.spec.shortcut import parse_merge


class ResidualBlock(nn.Module):
    """y = after(mix(match(p), branch(p))) with p = before(x), the words ahead of the fork.

    N C H W to N C' H/stride W/stride. Its sentence is read once, here; `before_names`, `branch_names` and `after_names`
    are the modules each part runs through. A plain twin has neither `downsample` nor `mix`: y = after(branch(p)).
    """

    def __init__(self, spec: BlockSpec, arch: Arch, norm: NormLayer | None) -> None:
        super().__init__()
        self.spec = spec
        pre_ops = () if spec.skip_preact else spec.ops.pre
        self.pre_names = self._add_ops(pre_ops if spec.shared_preact else (), arch, norm)
        self.branch_names = self._add_ops((() if spec.shared_preact else pre_ops) + spec.ops.branch, arch, norm)
        self.post_names = self._add_ops(spec.ops.post, arch, norm)
        self.downsample = make_shortcut(spec, norm if arch.order_spec.projection_norm else None, arch.bias)
        self.merge = None if self.downsample is None else Merge(parse_merge(arch.merge), spec)

    def _add_ops(self, ops: tuple[NamedOp, ...], arch: Arch, norm: NormLayer | None) -> tuple[str, ...]:
        names = []
        for named_op in ops:
            module = self._make_layer(named_op, arch, norm)
            if module is not None:
                self.add_module(named_op.name, module)
                names.append(named_op.name)
        return tuple(names)

    def _make_layer(self, named_op: NamedOp, arch: Arch, norm: NormLayer | None) -> nn.Module | None:
        convs = self.spec.convs
        if named_op.op.name == "conv":
            return make_conv(convs[named_op.num_convs - 1], arch.bias, arch.padding)
        channels = convs[named_op.num_convs - 1].out_channels if named_op.num_convs else convs[0].in_channels
        return make_layer(named_op.op, channels, arch, norm)

    def _run_layers(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def pre(self, x: Tensor) -> Tensor:
        """The words ahead of the fork; x itself where there are none."""
        return self._run_layers(self.pre_names, x)

    def branch(self, p: Tensor) -> Tensor:
        """The residual function F, of what the fork hands out."""
        return self._run_layers(self.branch_names, p)

    def post(self, y: Tensor) -> Tensor:
        """The words after the addition."""
        return self._run_layers(self.post_names, y)

    def forward(self, x: Tensor) -> Tensor:
        p = self.pre(x)
        y = self.branch(p)
        if self.downsample is not None and self.merge is not None:
            y = self.merge(p, self.downsample(p), y)
        return self.post(y)

    def last_norm(self) -> nn.Module | None:
        """The branch's last norm, ahead of the addition; None where there is none."""
        norms = [name for name in self.branch_names if name.startswith("bn")]
        return getattr(self, norms[-1]) if norms else None


def Residual(in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> ResidualBlock:
    """The unit of Dive into Deep Learning, Sec. 8.6: relu(bn2(conv2(relu(bn1(conv1(x))))) + x), or + conv3(x) with
    `use_1x1conv`.

    A function over `Unit`: convolutions with bias, the 1x1 projection bare (`downsample.0`, the tutorial's `conv3`);
    torch.nn's own initialisation. N in_channels H W to N num_channels H/strides W/strides. ValueError where the shapes
    differ and no projection is asked for.
    """
    if not use_1x1conv and (in_channels != num_channels or strides != 1):
        got = f"Residual({in_channels}, {num_channels}, use_1x1conv=False, strides={strides})"
        raise invalid(
            "use_1x1conv=True where channels or size change",
            got,
            f"Residual({in_channels}, {num_channels}, True, {strides})",
        )
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
