"""Several views of each picture at test time, their probabilities averaged: `flip`, `ten-crop(224)`, `scales(224)`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pictures

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops

Maker = Callable[[Tensor, list[int]], list[Tensor]]


def _flip(x: Tensor, _: list[int]) -> list[Tensor]:
    return [x, x.flip(3)]


def _five_crop(x: Tensor, sizes: list[int]) -> list[Tensor]:
    _fits(x, sizes[0])
    return list(pictures.five_crop(x, [sizes[0], sizes[0]]))


def _ten_crop(x: Tensor, sizes: list[int]) -> list[Tensor]:
    _fits(x, sizes[0])
    return list(pictures.ten_crop(x, [sizes[0], sizes[0]]))


def _scales(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return [pictures.resize(x, [size], antialias=True) for size in sizes]


VIEWS: dict[str, tuple[str, int, Maker]] = {
    "flip": ("flip", 0, _flip),
    "five-crop": ("five-crop(224)", 1, _five_crop),
    "ten-crop": ("ten-crop(224)", 1, _ten_crop),
    "scales": ("scales(224,256,384)", 99, _scales),
}


class Views(nn.Module):
    """log of the mean over views of softmax(network(view)); N C H W to N classes.

    `flip` is the picture and its mirror image; `five-crop(s)` four corners and the middle, `ten-crop(s)` with their
    mirror images (Krizhevsky et al. 2012, Sec. 4.1); `scales(a,b,...)` the shorter side at each of these, bilinear (He
    et al. 2015, Sec. 3.4). Of several words every view of one is seen by the next. Its softmax is the averaged
    probabilities, so that whatever judges a network judges this.
    Raises ValueError for an unknown word (with the nearest), arguments it does not take, or pictures too small.
    """

    def __init__(self, network: nn.Module, words: str) -> None:
        super().__init__()
        self.network, self.words = network, words
        self._makers = [_maker(word) for word in parse_ops(words)]

    def views(self, x: Tensor) -> Iterator[Tensor]:
        """The views of a batch, one after another."""
        found = [x]
        for make, sizes in self._makers:
            found = [view for one in found for view in make(one, sizes)]
        yield from found

    def forward(self, x: Tensor) -> Tensor:
        logs = [self.network(view).float().log_softmax(1) for view in self.views(x)]
        return torch.stack(logs).logsumexp(0) - torch.tensor(float(len(logs)), device=x.device).log()


def _maker(word: Op) -> tuple[Maker, list[int]]:
    if word.name not in VIEWS:
        raise unknown_name("view", str(word), VIEWS, "views such as 'flip' or 'ten-crop(224)'")
    example, most, make = VIEWS[word.name]
    sizes = [arg for arg in word.args if isinstance(arg, int) and arg > 0]
    if len(sizes) != len(word.args) or word.size is not None or not min(1, most) <= len(sizes) <= most:
        raise invalid(f"{word.name} with whole numbers of pixels, such as {example}", str(word), nearest=example)
    return make, sizes


def _fits(x: Tensor, size: int) -> None:
    if min(x.shape[-2:]) < size:
        sides = "x".join(str(side) for side in x.shape[-2:])
        advice = f"let the evaluation end with center-crop({round(size * 8 / 7)})"
        raise invalid(f"pictures of at least {size}x{size} to crop", sides, next_step=advice)
