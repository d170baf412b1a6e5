"""The papers' formulas transcribed in torch.nn.functional: nothing here knows how `reslab.nn` builds a network.

Weights come by the names that DESIGN fixes (`conv1`, `bn1`, `downsample.0` ...). A branch has as many convolutions as
`strides` has entries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import relu


@dataclass(frozen=True)
class Weights:
    """Layers by name over a state dict: `w.conv("conv1", x)`."""

    state: Mapping[str, Tensor]
    training: bool
    prefix: str = ""

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name]

    def at(self, name: str) -> "Weights":
        return Weights(self.state, self.training, f"{self.prefix}{name}.")

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1, dilation: int = 1) -> Tensor:
        weight = self[f"{name}.weight"]
        bias = self[f"{name}.bias"] if f"{self.prefix}{name}.bias" in self.state else None
        return F.conv2d(x, weight, bias, stride, dilation * (weight.shape[-1] // 2), dilation, groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Ioffe and Szegedy 2015; momentum 0.1, eps 1e-5."""
        mean, var = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, self[f"{name}.weight"], self[f"{name}.bias"], self.training, 0.1, 1e-5)

    def fc(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]


# Shortcuts: from the block's input to the branch's stride and width.


def pad(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """Option A of He et al. 2015: strided identity, zeros for the new channels."""
    z = z[:, :, ::stride, ::stride]
    return torch.cat([z, z.new_zeros(z.shape[0], width - z.shape[1], *z.shape[2:])], 1)


def pad_split(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """akamaster/pytorch_resnet_cifar10: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes//4, planes//4))."""
    z = z[:, :, ::stride, ::stride]
    half = z.new_zeros(z.shape[0], (width - z.shape[1]) // 2, *z.shape[2:])
    return torch.cat([half, z, half], 1)


def average(z: Tensor, stride: int) -> Tensor:
    """Mean of each 2x2 window that lies inside the map, or of what of it does."""
    return F.avg_pool2d(z, 2, stride, ceil_mode=True, count_include_pad=False)


def avg_pad(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """Han, Kim and Kim 2017: average pool where the map shrinks, zeros for the new channels."""
    z = average(z, stride) if stride != 1 else z
    return torch.cat([z, z.new_zeros(z.shape[0], width - z.shape[1], *z.shape[2:])], 1)


def project(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """Option B of He et al. 2015: a 1x1 convolution and its norm."""
    return w.norm("downsample.1", w.conv("downsample.0", z, stride))


def bare(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """He et al. 2016 and Dive into Deep Learning: a 1x1 convolution."""
    return w.conv("downsample.0", z, stride)


def avg_project(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    """ResNet-D: 2x2 average pool, 1x1 convolution, norm."""
    z = average(z, stride) if stride != 1 else z
    return w.norm("downsample.2", w.conv("downsample.1", z))


def avg_bare(w: Weights, z: Tensor, stride: int, width: int) -> Tensor:
    z = average(z, stride) if stride != 1 else z
    return w.conv("downsample.1", z)


ShortcutFn = Callable[[Weights, Tensor, int, int], Tensor]
MergeFn = Callable[[Weights, Tensor, Tensor, Tensor, int], Tensor]


def add(w: Weights, read: Tensor, shortcut: Tensor, branch: Tensor, stride: int) -> Tensor:
    return shortcut + branch


@dataclass(frozen=True)
class Place:
    """The context of a block: the stride of each convolution, the shortcut (None: identity), whether it is the
    network's first and whether its projection has weights; `conv`: further arguments of the larger convolutions."""

    strides: tuple[int, ...]
    width: int
    shortcut: ShortcutFn | None
    first: bool = False
    projects: bool = False
    merge_fn: MergeFn = add
    conv: Mapping[str, int] = field(default_factory=dict)
    drop: float = 0.0

    @property
    def stride(self) -> int:
        return max(self.strides)

    @property
    def numbers(self) -> range:
        return range(1, len(self.strides) + 1)

    def convolve(self, w: Weights, k: int, x: Tensor) -> Tensor:
        facts = self.conv if w[f"conv{k}.weight"].shape[-1] > 1 else {}
        facts = {name: value[k - 1] if isinstance(value, tuple) else value for name, value in facts.items()}
        return w.conv(f"conv{k}", x, self.strides[k - 1], **facts)

    def meet(self, w: Weights, read: Tensor, branch: Tensor) -> Tensor:
        shortcut = read if self.shortcut is None else self.shortcut(w, read, self.stride, self.width)
        return self.merge_fn(w, read, shortcut, branch, self.stride)


def original(w: Weights, x: Tensor, at: Place) -> Tensor:
    """He et al. 2015, Eqs. 1 and 2; He et al. 2016, Fig. 4(a): x+ = relu(h(x) + F(x))."""
    y = x
    for k in at.numbers:
        y = w.norm(f"bn{k}", at.convolve(w, k, y))
        y = relu(y) if k < len(at.strides) else y
    return relu(at.meet(w, x, y))


def bn_after_add(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Fig. 4(b): the last norm comes after the addition."""
    y, last = x, len(at.strides)
    for k in at.numbers:
        y = at.convolve(w, k, y)
        y = relu(w.norm(f"bn{k}", y)) if k < last else y
    return relu(w.norm(f"bn{last}", at.meet(w, x, y)))


def relu_before_add(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Fig. 4(c): x+ = h(x) + relu(bn(conv ...)))."""
    y = x
    for k in at.numbers:
        y = relu(w.norm(f"bn{k}", at.convolve(w, k, y)))
    return at.meet(w, x, y)


def relu_preact(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Fig. 4(d): F = bn(conv(relu( bn(conv(relu(x))) )))."""
    p = y = relu(x)
    for k in at.numbers:
        y = relu(y) if k > 1 else y
        y = w.norm(f"bn{k}", at.convolve(w, k, y))
    return at.meet(w, p if at.first or at.projects else x, y)


def full_preact(w: Weights, x: Tensor, at: Place, drop_before: int = 0) -> Tensor:
    """Fig. 4(e) and appendix: F = conv(relu(bn( conv(relu(bn(x))) ))); the first block, and a block that projects, fork
    after the activation."""
    p = y = relu(w.norm("bn1", x))
    for k in at.numbers:
        y = relu(w.norm(f"bn{k}", y)) if k > 1 else y
        y = F.dropout(y, at.drop, w.training) if k == drop_before else y
        y = at.convolve(w, k, y)
    return at.meet(w, p if at.first or at.projects else x, y)


def preact_fb(w: Weights, x: Tensor, at: Place) -> Tensor:
    """fb.resnet.torch models/preresnet.lua: `no_preact` in the first block, `both_preact` where the shape changes."""
    p = x if at.first else relu(w.norm("bn1", x))
    y = p
    for k in at.numbers:
        y = relu(w.norm(f"bn{k}", y)) if k > 1 else y
        y = at.convolve(w, k, y)
    return at.meet(w, p if at.projects else x, y)


def preact_norm_stem(w: Weights, x: Tensor, at: Place) -> Tensor:
    """pytorchcv preresnet.py: every block starts with norm and activation; one that projects forks after them."""
    return full_preact(w, x, replace(at, first=False))


def wide(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Zagoruyko and Komodakis 2016, Fig. 1(d), and their wide-resnet.lua: dropout ahead of the last convolution; only a
    block that projects forks after the activation."""
    here = Place(at.strides, at.width, at.shortcut, False, at.projects, at.merge_fn, at.conv, at.drop)
    return full_preact(w, x, here, drop_before=len(at.strides))


def pyramid(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Han, Kim and Kim 2017, Fig. 6(d): bn conv bn relu conv bn, nothing ahead of the fork, nothing after the sum."""
    y = w.norm("bn1", x)
    for k in at.numbers:
        y = relu(w.norm(f"bn{k}", y)) if k > 1 else y
        y = at.convolve(w, k, y)
    return at.meet(w, x, w.norm(f"bn{len(at.strides) + 1}", y))


def squeeze(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Hu, Shen and Sun 2018, Eqs. 2 to 4 and Fig. 3: the branch times sigmoid(W2 relu(W1 z)), z its mean."""
    y = x
    for k in at.numbers:
        y = w.norm(f"bn{k}", at.convolve(w, k, y))
        y = relu(y) if k < len(at.strides) else y
    z = y.flatten(2).mean(2)
    z = relu(z @ w["se.fc1.weight"].flatten(1).T + w["se.fc1.bias"])
    s = torch.sigmoid(z @ w["se.fc2.weight"].flatten(1).T + w["se.fc2.bias"])
    return relu(at.meet(w, x, y * s[:, :, None, None]))


def norm_free(w: Weights, x: Tensor, at: Place) -> Tensor:
    """De and Smith 2020, Sec. 3: the pre-activated block without its norms."""
    p = y = relu(x)
    for k in at.numbers:
        y = at.convolve(w, k, relu(y) if k > 1 else y)
    return at.meet(w, p if at.first or at.projects else x, y)


def fixup(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Zhang, Dauphin and Ma 2019, Fig. 1 (right), and fixup_resnet_cifar.py: the shortcut of a block that changes shape
    reads x + bias1a."""
    y, number = x, 1
    for k in at.numbers:
        y = at.convolve(w, k, y + w[f"bias{number}.bias"])
        if k < len(at.strides):
            y = relu(y + w[f"bias{number + 1}.bias"])
        number += 2
    y = y * w["scale1.scale"] + w[f"bias{number - 1}.bias"]
    return relu(at.meet(w, x if at.shortcut is None else x + w["bias1.bias"], y))


def book(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Deep Learning with PyTorch, ResBlock: relu(batch_norm(conv(x))) + x."""
    return at.meet(w, x, relu(w.norm("bn1", at.convolve(w, 1, x))))


def book_bare(w: Weights, x: Tensor, at: Place) -> Tensor:
    """Deep Learning with PyTorch, NetRes: relu(conv(x)) + x."""
    return at.meet(w, x, relu(at.convolve(w, 1, x)))


@dataclass(frozen=True)
class Paper:
    """An order's block, its operations after stem and last block, and whether a projection has a norm."""

    block: Callable[[Weights, Tensor, Place], Tensor]
    stem: Callable[[Weights, Tensor], Tensor]
    last: Callable[[Weights, Tensor], Tensor]
    projection_norm: bool = True


def norm_relu(w: Weights, x: Tensor) -> Tensor:
    return relu(w.norm("bn1", x))


def nothing(w: Weights, x: Tensor) -> Tensor:
    return x


def last_norm(w: Weights, x: Tensor) -> Tensor:
    return relu(w.norm("norm", x))


PAPERS = {
    "original": Paper(original, norm_relu, nothing),
    "bn-after-add": Paper(bn_after_add, norm_relu, nothing, projection_norm=False),
    "relu-before-add": Paper(relu_before_add, norm_relu, nothing),
    "relu-preact": Paper(relu_preact, lambda w, x: w.norm("bn1", x), lambda w, x: relu(x)),
    "full-preact": Paper(full_preact, nothing, last_norm, projection_norm=False),
    "full-preact-stem": Paper(preact_fb, norm_relu, last_norm, projection_norm=False),
    "full-preact-norm-stem": Paper(preact_norm_stem, norm_relu, last_norm, projection_norm=False),
    "wide": Paper(wide, nothing, last_norm, projection_norm=False),
    "pyramid": Paper(pyramid, lambda w, x: w.norm("bn1", x), last_norm, projection_norm=False),
    "se": Paper(squeeze, norm_relu, nothing),
    "norm-free-preact": Paper(norm_free, nothing, lambda w, x: relu(x), projection_norm=False),
    "fixup": Paper(fixup, lambda w, x: relu(x + w["bias1.bias"]), nothing, projection_norm=False),
    "book": Paper(book, lambda w, x: relu(x), nothing),
    "book-bare": Paper(book_bare, lambda w, x: relu(x), nothing),
}

# By name: the shortcut where a projection has a norm, where it has none, and whether it applies to every block.
SHORTCUTS: dict[str, tuple[ShortcutFn, ShortcutFn, bool]] = {
    "pad": (pad, pad, False),
    "pad-split": (pad_split, pad_split, False),
    "avg-pad": (avg_pad, avg_pad, False),
    "project": (project, bare, False),
    "project-all": (project, bare, True),
    "project3": (project, bare, False),
    "conv1x1": (bare, bare, False),
    "conv1x1-all": (bare, bare, True),
    "conv1x1-grow": (bare, bare, False),
    "avg-project": (avg_project, avg_bare, False),
}


# Merges of shortcut and branch: He et al. 2016, Sec. 3.1, unless stated otherwise.


def gate_of(w: Weights, read: Tensor, stride: int) -> Tensor:
    """g(x) = sigmoid(W x + b), a 1x1 convolution over what the shortcut reads."""
    read = read[:, :, ::stride, ::stride]
    logits = torch.einsum("nchw,dc->ndhw", read, w["merge.gate.weight"].flatten(1)).contiguous()
    return torch.sigmoid(logits + w["merge.gate.bias"][:, None, None])


def exclusive_gate(w: Weights, read: Tensor, shortcut: Tensor, branch: Tensor, stride: int) -> Tensor:
    g = gate_of(w, read, stride)
    return (1 - g) * shortcut + g * branch


def shortcut_gate(w: Weights, read: Tensor, shortcut: Tensor, branch: Tensor, stride: int) -> Tensor:
    return (1 - gate_of(w, read, stride)) * shortcut + branch


def scaled(a: float, b: float) -> MergeFn:
    return lambda w, read, shortcut, branch, stride: a * shortcut + b * branch


def dropout_shortcut(p: float, merge_fn: MergeFn = add) -> MergeFn:
    return lambda w, read, shortcut, branch, stride: merge_fn(
        w, read, F.dropout(shortcut, p, w.training), branch, stride
    )


def learned_scalar(w: Weights, read: Tensor, shortcut: Tensor, branch: Tensor, stride: int) -> Tensor:
    """ReZero, Eq. 1, and SkipInit: x + alpha F(x)."""
    return shortcut + w["merge.scale"] * branch


def layer_scale(w: Weights, read: Tensor, shortcut: Tensor, branch: Tensor, stride: int) -> Tensor:
    """Touvron et al. 2021, Eq. 4: x + diag(lambda) F(x)."""
    return shortcut + torch.einsum("nchw,c->nchw", branch, w["merge.gamma"])


MERGES: dict[str, MergeFn] = {
    "add": add,
    "scale(0.5,0.5)": scaled(0.5, 0.5),
    "scale(0,1)": scaled(0.0, 1.0),
    "gate(-1)": exclusive_gate,
    "shortcut-gate(-2)": shortcut_gate,
    "dropout(0.5) add": dropout_shortcut(0.5),
    "dropout(0.3) shortcut-gate(0)": dropout_shortcut(0.3, shortcut_gate),
    "rezero": learned_scalar,
    "skipinit add": learned_scalar,
    "layerscale(0.1) add": layer_scale,
}
