"""Counts derived from the papers by arithmetic alone: what `networks.json` says where no library has the network.

Multiply-adds are those of convolutions and linear layers; a projection has the bias and the norm its source gives it.
"""

from dataclasses import dataclass


@dataclass
class Tally:
    """Parameters and multiply-adds so far, and the map that the next layer reads."""

    channels: int
    side: int
    params: int = 0
    macs: int = 0

    def conv(self, kernel, out, stride=1, groups=1, bias=False, reads=None):
        inner = (self.channels if reads is None else reads) // groups
        side = -(-self.side // stride)
        self.params += kernel * kernel * inner * out + bias * out
        self.macs += kernel * kernel * inner * out * side * side
        if reads is None:
            self.channels, self.side = out, side
        return self

    def norm(self, channels=None):
        self.params += 2 * (self.channels if channels is None else channels)
        return self

    def fc(self, out, inputs=None):
        inputs = self.channels if inputs is None else inputs
        self.params += inputs * out + out
        self.macs += inputs * out
        self.channels = out
        return self

    @property
    def totals(self):
        return self.params, self.macs


def chain(tally, depths, widths, branch, *, out=1, strides=(1, 2, 2), groups=1, project=False, norms=True, bias=False):
    """Blocks as He et al. 2015 number them: a conv and its norm for each kernel, 1x1 projections where shapes change.

    `project`: False (option A), "norm" (with a norm) or "bare". In a 3-layer block the stride stands in the 3x3.
    """
    for depth, width, stage_stride in zip(depths, widths, strides, strict=True):
        for block in range(depth):
            stride = stage_stride if block == 0 else 1
            reads, side = tally.channels, tally.side
            for k, kernel in enumerate(branch):
                last = k == len(branch) - 1
                strided = kernel > 1 and all(before == 1 for before in branch[:k])
                grouped = groups if kernel > 1 else 1
                wide = width * out if last else width * groups
                tally.conv(kernel, wide, stride if strided else 1, grouped, bias)
                if norms:
                    tally.norm()
            if project and (stride != 1 or reads != tally.channels):
                here, tally.side = tally.side, side
                tally.conv(1, tally.channels, stride, bias=bias, reads=reads)
                tally.side = here
                if project == "norm":
                    tally.norm()
    return tally


def cifar(depths, branch=(3, 3), **rest):
    """He et al. 2015, Sec. 4.2: 3x3 stem of 16, stages of 16, 32, 64, a linear layer of 10."""
    return chain(Tally(3, 32).conv(3, 16).norm(), depths, (16, 32, 64), branch, **rest).fc(10).totals


def preact(depths, width, branch=(1, 3, 1), stem=(7, 2), side=224, classes=1000):
    """He et al. 2016: the norms read what the convolutions read; bare projections; a norm at the end.

    A norm ahead of each convolution of the blocks, none after the stem.
    """
    tally = Tally(3, side).conv(stem[0], width, stem[1])
    if stem[0] == 7:
        tally.side //= 2
    for stage, depth in enumerate(depths):
        for block in range(depth):
            reads, stride = tally.channels, 2 if stage and not block else 1
            inner, out = width << stage, (width << stage) * 4
            side = tally.side
            tally.norm().conv(1, inner).norm().conv(3, inner, stride).norm().conv(1, out)
            if reads != out or stride != 1:
                here, tally.side = tally.side, side
                tally.conv(1, out, stride, reads=reads)
                tally.side = here
    return tally.norm().fc(classes).totals


def pyramid(blocks, alpha):
    """Han, Kim and Kim 2017: width 16 + alpha k / N, rounded; a norm before each conv and one after the last."""
    tally = Tally(3, 32).conv(3, 16).norm()
    for k in range(1, blocks + 1):
        width = round(16 + alpha * k / blocks)
        stride = 2 if k in (blocks // 3 + 1, 2 * blocks // 3 + 1) else 1
        tally.norm().conv(3, width, stride).norm().conv(3, width).norm()
    return tally.norm().fc(10).totals


def book(stem, blocks=0, shared=False, norm=False, bias=True, stem_norm=False):
    """The networks of chapter 8: 3x3 convolutions with bias, each followed by a 2x2 pool, then 32 and 2 numbers."""
    tally = Tally(3, 32)
    for width in stem:
        tally.conv(3, width, bias=True)
        if stem_norm:
            tally.norm()
        tally.side //= 2
    for block in range(blocks):
        before = tally.params
        tally.conv(3, tally.channels, bias=bias)
        if norm:
            tally.norm()
        if shared and block:
            tally.params = before
    if blocks:
        tally.side //= 2
    return tally.fc(32, tally.channels * tally.side**2).fc(2).totals


def d2l():
    """Biases everywhere, bare projections with bias, one input channel."""
    tally = Tally(1, 224).conv(7, 64, 2, bias=True).norm()
    tally.side //= 2
    widths = (64, 128, 256, 512)
    chain(tally, (2,) * 4, widths, (3, 3), strides=(1, 2, 2, 2), project="bare", bias=True)
    return tally.fc(10).totals


def skipinit56():
    """Biases and no norms; a scalar per block."""
    tally = Tally(3, 32).conv(3, 16, bias=True)
    params, macs = chain(tally, (9,) * 3, (16, 32, 64), (3, 3), norms=False, bias=True).fc(10).totals
    return params + 27, macs


def fixup110():
    """No norms; four biases and a multiplier per block, a bias after the stem and one before the linear layer."""
    params, macs = chain(Tally(3, 32).conv(3, 16), (18,) * 3, (16, 32, 64), (3, 3), norms=False).fc(10).totals
    return params + 54 * 5 + 2, macs


def rezero56():
    params, macs = cifar((9,) * 3)
    return params + 27, macs


def resnet18_cifar():
    tally = Tally(3, 32).conv(3, 64).norm()
    return chain(tally, (2,) * 4, (64, 128, 256, 512), (3, 3), strides=(1, 2, 2, 2), project="norm").fc(10).totals


def resnext29():
    """Xie et al. 2017, appendix A: 8 groups of 64, 128, 256; outputs 256, 512, 1024."""
    tally = Tally(3, 32).conv(3, 64).norm()
    widths = (64, 128, 256)
    return chain(tally, (3,) * 3, widths, (1, 3, 1), out=4, groups=8, project="norm").fc(10).totals


def resnet8_fast():
    """A strided convolution and a 2x2 pool; a block at 7, 4 and 2 pixels."""
    tally = Tally(1, 28).conv(3, 16, 2).norm()
    tally.side //= 2
    return chain(tally, (1,) * 3, (32, 64, 128), (3, 3), project="norm").fc(10).totals


def resnet11_fast(first, second, third):
    """Two convolutions; a block at 16, 8 and 4 pixels; a convolution and a 2x2 pool ahead of the second and the third.

    Of the convolutions only the first, whose filters are fixed, has a bias, and it has no norm.
    """
    tally = Tally(3, 32).conv(3, 24, bias=True).conv(3, first).norm()
    for stage, width in enumerate((first, second, third)):
        if stage:
            tally.conv(3, width).norm()
        tally.side //= 2
        tally.conv(3, width).norm().conv(3, width).norm()
    return tally.fc(10).totals


def shake26(width):
    """Gastaldi 2017, Sec. 2: two branches, each with norms; two 1x1 projections to half of the width."""
    tally = Tally(3, 32).conv(3, 16).norm()
    for stage in range(3):
        for block in range(4):
            reads, side, out, stride = tally.channels, tally.side, width << stage, 2 if stage and not block else 1
            for _ in range(2):
                tally.channels, tally.side = reads, side
                tally.conv(3, out, stride).norm().conv(3, out).norm()
            if reads != out:
                here, tally.side = tally.side, side
                for _ in range(2):
                    tally.conv(1, out // 2, stride, reads=reads)
                tally.norm()
                tally.side = here
    return tally.fc(10).totals


def se_preact(depths, widths, branch=(3, 3), out=1, stem=16):
    """Norms read what the convolutions read; bare projections; gates of a sixteenth of the width, with biases.

    No norm at the end.
    """
    tally = Tally(3, 32).conv(3, stem).norm()
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for block in range(depth):
            reads, side, stride = tally.channels, tally.side, 2 if stage and not block else 1
            for k, kernel in enumerate(branch):
                strided = kernel > 1 and all(before == 1 for before in branch[:k])
                tally.norm().conv(kernel, width * out if k == len(branch) - 1 else width, stride if strided else 1)
            channels = tally.channels
            inner = channels // 16
            tally.params += 2 * channels * inner + inner + channels
            tally.macs += 2 * channels * inner
            if reads != channels:
                here, tally.side = tally.side, side
                tally.conv(1, channels, stride, reads=reads)
                tally.side = here
    return tally.fc(10).totals


DERIVED = {
    "shake26_2x32d_cifar": lambda: shake26(32),
    "shake26_2x64d_cifar": lambda: shake26(64),
    "shake26_2x96d_cifar": lambda: shake26(96),
    "sepreresnet20_cifar": lambda: se_preact((3,) * 3, (16, 32, 64)),
    "sepreresnet56_cifar": lambda: se_preact((9,) * 3, (16, 32, 64)),
    "sepreresnet110_cifar": lambda: se_preact((18,) * 3, (16, 32, 64)),
    "sepreresnet164_cifar": lambda: se_preact((18,) * 3, (16, 32, 64), (1, 3, 1), out=4),
    "sepreresnet18_cifar": lambda: se_preact((2,) * 4, (64, 128, 256, 512), stem=64),
    "resnet164_cifar": lambda: cifar((18,) * 3, (1, 3, 1), out=4, project="norm"),
    "resnet1001_cifar": lambda: cifar((111,) * 3, (1, 3, 1), out=4, project="norm"),
    "resnet110_1layer_cifar": lambda: cifar((36,) * 3, (3,)),
    "preresnet110_1layer_cifar": lambda: cifar((36,) * 3, (3,)),
    "preresnet110_cifar": lambda: cifar((18,) * 3),
    "preresnet152": lambda: preact((3, 8, 36, 3), 64),
    "preresnet200": lambda: preact((3, 24, 36, 3), 64),
    "preresnet164_cifar": lambda: preact((18,) * 3, 16, stem=(3, 1), side=32, classes=10),
    "preresnet1001_cifar": lambda: preact((111,) * 3, 16, stem=(3, 1), side=32, classes=10),
    "resnet18_cifar": resnet18_cifar,
    "resnet8_fast": resnet8_fast,
    "resnet11_fast": lambda: resnet11_fast(64, 256, 256),
    "resnet11_fast_wide": lambda: resnet11_fast(128, 384, 512),
    "resnext29_8x64d_cifar": resnext29,
    "pyramidnet110_cifar": lambda: pyramid(54, 48),
    "rezero56_cifar": rezero56,
    "skipinit56_cifar": skipinit56,
    "fixup110_cifar": fixup110,
    "resnet18_d2l": d2l,
    "book_net": lambda: book((16, 8)),
    "book_width": lambda: book((32, 16)),
    "book_dropout": lambda: book((32, 16)),
    "book_batchnorm": lambda: book((32, 16), stem_norm=True),
    "book_depth": lambda: book((32, 16), 1),
    "book_res": lambda: book((32, 16), 1),
    "book_resdeep": lambda: book((32,), 100, shared=True, norm=True, bias=False),
    "book_resdeep_separate": lambda: book((32,), 100, norm=True, bias=False),
}
