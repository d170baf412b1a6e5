"""Weight initialization schemes, one line each."""

from dataclasses import dataclass

from reslab.spec.errors import unknown_name


@dataclass(frozen=True)
class InitScheme:
    """The rules that draw fresh weights: `conv` for convolutions, `linear` for linear layers.

    `stem` and `last_conv` (the last convolution of each branch) replace `conv` where they are not empty. Rules:

    * `kaiming-normal-out`: N(0, 2 / fan_out). `kaiming-normal-in`: N(0, 2 / fan_in).
    * `xavier-uniform`; `zeros`; `normal-small`: N(0, 0.01^2).
    * `dirac`: the identity in the first filters, one for each input channel; the rest keeps the default of torch.nn.
    * `fixup`: N(0, 2 / fan_out) times L^(-1 / (2m - 2)) for L blocks of m convolutions.
    * `trunc-normal`: N(0, 0.02^2) cut at 2. `torch`: the default of torch.nn.

    Biases are 0 with `zeros`, `fixup`, `normal-small` and `trunc-normal`; the other rules keep the default of torch.nn.
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
        "Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1, which does not mention biases",
    ),
    "dirac": InitScheme(
        "dirac", "normal-small", "Jordan 2024, arXiv:2404.00498, Sec. 3.2; the head, smaller, is our own choice"
    ),
    "convnext": InitScheme("trunc-normal", "trunc-normal", "Liu et al. 2022, arXiv:2201.03545, Table 5"),
    "fixup": InitScheme(
        "fixup",
        "zeros",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Sec. 3",
        stem="kaiming-normal-out",
        last_conv="zeros",
    ),
}


def get_init(name: str) -> InitScheme:
    """Return the scheme of this name. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in INITS:
        raise unknown_name("init", name, INITS)
    return INITS[name]
