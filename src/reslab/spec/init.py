"""Initialisations: how fresh weights are drawn, one line each."""

from dataclasses import dataclass

from reslab.spec.errors import unknown_name


@dataclass(frozen=True)
class InitScheme:
    """The rule for convolutions, for those of the stem (empty: the same), for the branch's last (empty: the same) and
    for linear layers.

    Rules: `kaiming-normal-out` N(0, 2 / fan_out), `kaiming-normal-in` N(0, 2 / fan_in), `xavier-uniform`, `zeros`,
    `fixup` N(0, 2 / fan_out) times L^(-1 / (2m - 2)) for L units of m convolutions, `normal-small` N(0, 0.01^2),
    `torch`: as torch.nn draws them. Biases follow torch.nn with rule `torch` and are 0 with `zeros`, `fixup` and
    `normal-small`; other rules leave them as torch.nn draws them.
    """

    conv: str
    linear: str
    reference: str
    stem: str = ""
    last_conv: str = ""


INITS: dict[str, InitScheme] = {
    "torchvision": InitScheme(
        "kaiming-normal-out", "torch", "torchvision 0.29 models/resnet.py; He et al. 2015, arXiv:1502.01852, Eq. 14"
    ),
    "he-in": InitScheme("kaiming-normal-in", "torch", "He et al. 2015, arXiv:1502.01852, Eq. 10"),
    "xavier": InitScheme(
        "xavier-uniform",
        "xavier-uniform",
        "Zhang et al., Dive into Deep Learning, train_ch6; Glorot and Bengio 2010, Eq. 16",
    ),
    "torch": InitScheme("torch", "torch", "the defaults of torch.nn"),
    "book": InitScheme(
        "kaiming-normal-in", "torch", "Stevens, Antiga and Viehmann 2020, Sec. 8.5.3, ResBlock", stem="torch"
    ),
    "goyal": InitScheme(
        "kaiming-normal-out",
        "normal-small",
        "Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1; which says nothing of biases",
    ),
    "fixup": InitScheme(
        "fixup",
        "zeros",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Sec. 3",
        stem="kaiming-normal-out",
        last_conv="zeros",
    ),
}


def get_init(name: str) -> InitScheme:
    """The initialisation of this name; ValueError with the nearest names where there is none."""
    if name not in INITS:
        raise unknown_name("init", name, INITS)
    return INITS[name]
