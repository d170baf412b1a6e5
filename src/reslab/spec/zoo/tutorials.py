"""Networks of tutorials: ResNet-18 of Dive into Deep Learning, and chapter 8 of Deep Learning with PyTorch."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.imagenet import BASIC

_REFERENCE = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8"
_WIDE_STEM = "conv3(32) act maxpool2 conv3(16) act maxpool2"

_BOOK_NET = Arch(
    "book_net",
    f"{_REFERENCE}, Net",
    depths=(),
    widths=(),
    strides=(),
    convs=(3,),
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
_BOOK_RES = replace(
    _BOOK_NET,
    reference=f"{_REFERENCE}, NetRes",
    depths=(1,),
    widths=(16,),
    strides=(1,),
    act="relu",
    stem=_WIDE_STEM,
    head="maxpool2 flatten fc(32) act fc",
)
_BOOK_RES_DEEP = replace(
    _BOOK_RES,
    reference=f"{_REFERENCE}, NetResDeep as in its text: 100 blocks",
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
        reference="Zhang et al., Dive into Deep Learning, Sec. 8.6",
        shortcut="conv1x1",
        bias=True,
        stem_bias=True,
        init="xavier",
        num_classes=10,
        in_channels=1,
    ),
    "book_net": _BOOK_NET,
    "book_width": replace(_BOOK_NET, reference=f"{_REFERENCE}, NetWidth", stem=_WIDE_STEM),
    "book_dropout": replace(
        _BOOK_NET, reference=f"{_REFERENCE}, NetDropout", stem=_WIDE_STEM.replace("maxpool2", "maxpool2 drop2d(0.4)")
    ),
    "book_batchnorm": replace(
        _BOOK_NET,
        reference=f"{_REFERENCE}, NetBatchNorm",
        stem=_WIDE_STEM.replace(") act", ") norm act"),
        order="original",
    ),
    "book_depth": replace(_BOOK_RES, reference=f"{_REFERENCE}, NetDepth", merge="none"),
    "book_res": _BOOK_RES,
    "book_resdeep": replace(
        _BOOK_RES_DEEP,
        reference=f"{_REFERENCE}, NetResDeep as in its code: one block, run 100 times",
        share_weights=True,
    ),
    "book_resdeep_separate": _BOOK_RES_DEEP,
}
