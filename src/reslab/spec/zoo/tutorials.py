"""The tutorials' networks: Dive into Deep Learning's ResNet-18 and the book's chapter 8."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.imagenet import BASIC

_BOOK = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8"
_WIDTH = "conv3(32) act maxpool2 conv3(16) act maxpool2"

_NET = Arch(
    "book_net",
    f"{_BOOK}, Net",
    depths=(),
    widths=(),
    strides=(),
    branch=(3,),
    order="book-bare",
    stem="conv3(16) act maxpool2 conv3(8) act maxpool2",
    head="flatten fc(32) act fc",
    act="tanh",
    bias=True,
    stem_bias=True,
    init="torch",
    num_classes=2,
    image_size=(32, 32),
)
_RES = replace(
    _NET,
    source=f"{_BOOK}, NetRes",
    depths=(1,),
    widths=(16,),
    strides=(1,),
    act="relu",
    stem=_WIDTH,
    head="maxpool2 flatten fc(32) act fc",
)
_RES_DEEP = replace(
    _RES,
    source=f"{_BOOK}, NetResDeep as its text has it: 100 blocks",
    depths=(100,),
    widths=(32,),
    order="book",
    bias=False,
    stem="conv3(32) act maxpool2",
    init="book",
    last_norm_weight=0.5,
)

TUTORIALS: dict[str, Arch] = {
    "resnet18_d2l": replace(
        BASIC,
        source="Zhang et al., Dive into Deep Learning, Sec. 8.6",
        match="conv1x1",
        bias=True,
        stem_bias=True,
        init="xavier",
        num_classes=10,
        in_channels=1,
    ),
    "book_net": _NET,
    "book_width": replace(_NET, source=f"{_BOOK}, NetWidth", stem=_WIDTH),
    "book_dropout": replace(
        _NET, source=f"{_BOOK}, NetDropout", stem=_WIDTH.replace("maxpool2", "maxpool2 drop2d(0.4)")
    ),
    "book_batchnorm": replace(
        _NET, source=f"{_BOOK}, NetBatchNorm", stem=_WIDTH.replace(") act", ") norm act"), order="original"
    ),
    "book_depth": replace(_RES, source=f"{_BOOK}, NetDepth", mix="none"),
    "book_res": _RES,
    "book_resdeep": replace(
        _RES_DEEP, source=f"{_BOOK}, NetResDeep as its code has it: one block, 100 times", shared=True
    ),
    "book_resdeep_separate": _RES_DEEP,
}
