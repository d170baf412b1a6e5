"""The unit everything hangs on: p = before(x); y = after(mix(match(p), branch(p)))."""

from torch import Tensor, nn

from reslab.nn.layers import NormLayer, make_conv, make_plain_word, norm_maker
from reslab.nn.shortcut import Mix, make_match
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.layout import UnitPlan, plan_stages
from reslab.spec.order import NamedWord
from reslab.spec.shortcut import parse_mix


class Unit(nn.Module):
    """y = after(mix(match(p), branch(p))) with p = before(x), the words ahead of the fork.

    N C H W to N C' H/stride W/stride. Its sentence is read once, here; `before_names`, `branch_names` and `after_names`
    are the modules each part runs through. A plain twin has neither `downsample` nor `mix`: y = after(branch(p)).
    """

    def __init__(self, plan: UnitPlan, arch: Arch, norm: NormLayer | None) -> None:
        super().__init__()
        self.plan = plan
        leading = () if plan.bare else plan.sentence.leading
        self.before_names = self._add_words(leading if plan.ahead else (), arch, norm)
        self.branch_names = self._add_words((() if plan.ahead else leading) + plan.sentence.branch, arch, norm)
        self.after_names = self._add_words(plan.sentence.after, arch, norm)
        self.downsample = make_match(plan, norm if arch.facts.projection_norm else None, arch.bias)
        self.mix = None if self.downsample is None else Mix(parse_mix(arch.mix), plan)

    def _add_words(self, words: tuple[NamedWord, ...], arch: Arch, norm: NormLayer | None) -> tuple[str, ...]:
        names = []
        for named in words:
            module = self._make(named, arch, norm)
            if module is not None:
                self.add_module(named.name, module)
                names.append(named.name)
        return tuple(names)

    def _make(self, named: NamedWord, arch: Arch, norm: NormLayer | None) -> nn.Module | None:
        convs = self.plan.convs
        if named.word.name == "conv":
            return make_conv(convs[named.conv - 1], arch.bias, arch.padding)
        channels = convs[named.conv - 1].out_channels if named.conv else convs[0].in_channels
        return make_plain_word(named.word, channels, arch, norm)

    def _run(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def before(self, x: Tensor) -> Tensor:
        """The words ahead of the fork; x itself where there are none."""
        return self._run(self.before_names, x)

    def branch(self, p: Tensor) -> Tensor:
        """The residual function F, of what the fork hands out."""
        return self._run(self.branch_names, p)

    def after(self, y: Tensor) -> Tensor:
        """The words after the addition."""
        return self._run(self.after_names, y)

    def forward(self, x: Tensor) -> Tensor:
        p = self.before(x)
        y = self.branch(p)
        if self.downsample is not None and self.mix is not None:
            y = self.mix(p, self.downsample(p), y)
        return self.after(y)

    def last_norm(self) -> nn.Module | None:
        """The branch's last norm, ahead of the addition; None where there is none."""
        norms = [name for name in self.branch_names if name.startswith("bn")]
        return getattr(self, norms[-1]) if norms else None


def Residual(in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> Unit:
    """The unit of Dive into Deep Learning, Sec. 8.6: relu(bn2(conv2(relu(bn1(conv1(x))))) + x), or + conv3(x) with
    `use_1x1conv`.

    A function over `Unit`: convolutions with bias, the 1x1 projection bare (`downsample.0`, the tutorial's `conv3`);
    torch.nn's own initialisation. N in_channels H W to N num_channels H/strides W/strides. ValueError where the shapes
    differ and no projection is asked for.
    """
    if not use_1x1conv and (in_channels != num_channels or strides != 1):
        got = f"Residual({in_channels}, {num_channels}, use_1x1conv=False, strides={strides})"
        raise refuse(
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
        match="conv1x1-all" if use_1x1conv else "conv1x1",
        stem="",
        bias=True,
        in_channels=in_channels,
    )
    return Unit(plan_stages(arch)[0][0], arch, norm_maker(arch))
