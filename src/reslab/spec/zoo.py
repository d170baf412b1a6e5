"""The networks by name: one literal table, most lines a change of another."""

from dataclasses import replace

from reslab.spec.arch import Arch

_HE2015 = "He et al. 2015, arXiv:1512.03385"
_HE2016 = "He et al. 2016, arXiv:1603.05027"
_TV = "torchvision models/resnet.py"
_TIMM = "timm models/resnet.py"
_WRN = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_D2L = "Zhang et al., Dive into Deep Learning, Sec. 8.6"
_BOOK = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8"
_DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) norm act maxpool3/2"


def _named(name: str, base: Arch, source: str, **changes: object) -> tuple[str, Arch]:
    return name, replace(base, name=name, source=source, **changes)  # type: ignore[arg-type]


# Torchvision's family: four stages of 64 to 512, stride in the first 3x3 ("v1.5" where the unit is a bottleneck).
_BASIC = Arch("resnet18", f"{_HE2015}, Table 1; {_TV}", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512))
_BOTTLENECK = replace(_BASIC, name="resnet50", depths=(3, 4, 6, 3), branch=(1, 3, 1), expansion=4)
_V15 = f"{_HE2015}, Table 1, stride in the 3x3 (v1.5); {_TV}"
_XIE = "Xie et al. 2017, arXiv:1611.05431"

_IMAGENET: dict[str, Arch] = dict(
    [
        ("resnet18", _BASIC),
        _named("resnet34", _BASIC, _BASIC.source, depths=(3, 4, 6, 3)),
        _named("resnet50", _BOTTLENECK, _V15),
        _named("resnet101", _BOTTLENECK, _V15, depths=(3, 4, 23, 3)),
        _named("resnet152", _BOTTLENECK, _V15, depths=(3, 8, 36, 3)),
        _named("resnext50_32x4d", _BOTTLENECK, f"{_XIE}, Table 1; {_TV}", groups=32, width_per_group=4),
        _named(
            "resnext101_32x4d",
            _BOTTLENECK,
            f"{_XIE}, Table 3; {_TIMM}",
            depths=(3, 4, 23, 3),
            groups=32,
            width_per_group=4,
        ),
        _named("resnext101_32x8d", _BOTTLENECK, f"{_XIE}; {_TV}", depths=(3, 4, 23, 3), groups=32, width_per_group=8),
        _named(
            "resnext101_64x4d",
            _BOTTLENECK,
            f"{_XIE}, Table 4; {_TV}",
            depths=(3, 4, 23, 3),
            groups=64,
            width_per_group=4,
        ),
        _named("wide_resnet50_2", _BOTTLENECK, f"{_WRN}, Table 8; {_TV}", width_per_group=128),
        _named("wide_resnet101_2", _BOTTLENECK, f"{_WRN}; {_TV}", depths=(3, 4, 23, 3), width_per_group=128),
        # The 2015 paper's own: stride in the first 1x1.
        _named("resnet50_v1", _BOTTLENECK, f"{_HE2015}, Table 1 (stride in the first 1x1)", stride_at=1),
        _named(
            "resnet101_v1",
            _BOTTLENECK,
            f"{_HE2015}, Table 1 (stride in the first 1x1)",
            depths=(3, 4, 23, 3),
            stride_at=1,
        ),
        _named(
            "resnet152_v1",
            _BOTTLENECK,
            f"{_HE2015}, Table 1 (stride in the first 1x1)",
            depths=(3, 8, 36, 3),
            stride_at=1,
        ),
        # Option A and C of the paper's Table 3.
        _named("resnet18_a", _BASIC, f"{_HE2015}, Table 2 (option A)", match="pad"),
        _named("resnet34_a", _BASIC, f"{_HE2015}, Tables 2 and 3 (option A)", depths=(3, 4, 6, 3), match="pad"),
        _named("resnet34_c", _BASIC, f"{_HE2015}, Table 3 (option C)", depths=(3, 4, 6, 3), match="project-all"),
        # timm's names.
        _named("resnet26", _BOTTLENECK, _TIMM, depths=(2, 2, 2, 2)),
        _named("resnet200", _BOTTLENECK, f"{_HE2016}, Table 5 (original unit); {_TIMM}", depths=(3, 24, 36, 3)),
        _named(
            "resnet50c", _BOTTLENECK, f"He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(b); {_TIMM}", stem=_DEEP_STEM
        ),
        _named("seresnet50", _BOTTLENECK, f"Hu, Shen and Sun 2018, arXiv:1709.01507, Table 1; {_TIMM}", order="se"),
    ]
)

_DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "26": (2, 2, 2, 2), "50": (3, 4, 6, 3)} | {
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
}

for _depth, _units in _DEPTHS.items():
    _base = _BASIC if _depth in ("18", "34") else _BOTTLENECK
    _source = f"He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c); {_TIMM}"
    _IMAGENET |= [_named(f"resnet{_depth}d", _base, _source, depths=_units, stem=_DEEP_STEM, match="avg-project")]
for _depth in ("50", "101", "152"):
    _source = f"{_HE2016}; timm models/resnetv2.py"
    _IMAGENET |= [_named(f"resnetv2_{_depth}", _BOTTLENECK, _source, depths=_DEPTHS[_depth], order="full-preact")]
for _depth in ("152", "200"):
    _source = f"{_HE2016}, Table 5 (pre-act); fb.resnet.torch models/preresnet.lua"
    _IMAGENET |= [_named(f"preresnet{_depth}", _BOTTLENECK, _source, depths=_DEPTHS[_depth], order="full-preact-stem")]
for _depth in ("18", "34"):
    _source = f"{_HE2015}, Fig. 3 and Table 2 (plain)"
    _IMAGENET |= [_named(f"plain{_depth}", _BASIC, _source, depths=_DEPTHS[_depth], mix="none")]

# CIFAR networks of He et al.: 3x3 stem, three stages of 16, 32, 64; depth 6n + 2, or 9n + 2 with bottlenecks.
_CIFAR = Arch(
    "resnet20_cifar",
    f"{_HE2015}, Sec. 4.2 and Table 6 (option A)",
    depths=(3, 3, 3),
    widths=(16, 32, 64),
    strides=(1, 2, 2),
    match="pad",
    stem="conv3(16) norm act",
    num_classes=10,
    image_size=(32, 32),
)
_CIFAR_BOTTLENECK = replace(_CIFAR, branch=(1, 3, 1), expansion=4, match="project")
_WIDE = replace(_CIFAR, order="wide", match="project")

_SMALL: dict[str, Arch] = {}
for _layers in (20, 32, 44, 56, 110, 1202):
    _n = (_layers - 2) // 6
    _SMALL |= [_named(f"resnet{_layers}_cifar", _CIFAR, _CIFAR.source, depths=(_n,) * 3)]
    if _layers <= 110:
        _source = f"{_HE2015}, Sec. 4.2 and Fig. 6 (plain)"
        _SMALL |= [_named(f"plain{_layers}_cifar", _CIFAR, _source, depths=(_n,) * 3, mix="none")]
for _layers in (164, 1001):
    _n = (_layers - 2) // 9
    _SMALL |= [
        _named(f"resnet{_layers}_cifar", _CIFAR_BOTTLENECK, f"{_HE2016}, Table 3 (baseline)", depths=(_n,) * 3),
        _named(
            f"preresnet{_layers}_cifar",
            _CIFAR_BOTTLENECK,
            f"{_HE2016}, Tables 3 and 4",
            depths=(_n,) * 3,
            order="full-preact",
        ),
    ]
for _name, _depth_k in {"wrn16_8": (16, 8), "wrn28_10": (28, 10), "wrn40_4": (40, 4)}.items():
    _n, _k = (_depth_k[0] - 4) // 6, _depth_k[1]
    _SMALL |= [
        _named(f"{_name}_cifar", _WIDE, f"{_WRN}, Tables 1 and 5", depths=(_n,) * 3, widths=(16 * _k, 32 * _k, 64 * _k))
    ]

_R110 = _SMALL["resnet110_cifar"]
_R56 = _SMALL["resnet56_cifar"]
_SMALL |= [
    _named("preresnet110_cifar", _R110, f"{_HE2016}, Tables 2 and 3", order="full-preact"),
    _named(
        "resnet110_1layer_cifar", _CIFAR, f"{_HE2016}, Table 3 (1-layer skip, baseline)", depths=(36,) * 3, branch=(3,)
    ),
    _named(
        "preresnet110_1layer_cifar",
        _CIFAR,
        f"{_HE2016}, Table 3 (1-layer skip)",
        depths=(36,) * 3,
        branch=(3,),
        order="full-preact",
    ),
    _named(
        "resnet110_sd_cifar", _R110, "Huang et al. 2016, arXiv:1603.09382, Sec. 4 (p_L = 0.5)", mix="survive(0.5) add"
    ),
    _named("rezero56_cifar", _R56, "Bachlechner et al. 2021, arXiv:2003.04887, Sec. 5 (ResNet-56)", mix="rezero add"),
    _named(
        "skipinit56_cifar",
        _R56,
        "De and Smith 2020, arXiv:2002.10444, Sec. 3",
        order="norm-free-preact",
        mix="skipinit add",
        norm="none",
        bias=True,
        stem_bias=True,
    ),
    _named(
        "fixup110_cifar",
        _R110,
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Table 2; github.com/hongyi-zhang/Fixup",
        order="fixup",
        norm="none",
        init="fixup",
        head="avgpool flatten bias fc",
    ),
    _named(
        "pyramidnet110_cifar",
        _R110,
        "Han, Kim and Kim 2017, arXiv:1610.02915, Table 4 (alpha = 48)",
        widths="additive(16,48)",
        order="pyramid",
        match="avg-pad",
    ),
    _named(
        "resnext29_8x64d_cifar",
        _CIFAR_BOTTLENECK,
        f"{_XIE}, Table 7 and appendix A",
        widths=(64, 128, 256),
        groups=8,
        stem="conv3(64) norm act",
    ),
    _named(
        "resnet18_cifar",
        _BASIC,
        "the four-stage, 64-wide network of CIFAR scripts, such as github.com/kuangliu/pytorch-cifar",
        stem="conv3(64) norm act",
        num_classes=10,
        image_size=(32, 32),
    ),
]

# The tutorials' networks.
_BOOK_NET = Arch(
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
    stem_bias=True,
    bias=True,
    init="torch",
    num_classes=2,
    image_size=(32, 32),
)
_BOOK_WIDTH = "conv3(32) act maxpool2 conv3(16) act maxpool2"
_BOOK_RES = replace(
    _BOOK_NET,
    depths=(1,),
    widths=(16,),
    strides=(1,),
    act="relu",
    stem=_BOOK_WIDTH,
    head="maxpool2 flatten fc(32) act fc",
)
_BOOK_DEEP = replace(
    _BOOK_RES,
    depths=(100,),
    widths=(32,),
    order="book",
    bias=False,
    stem="conv3(32) act maxpool2",
    init="book",
    last_norm_weight=0.5,
)

_TUTORIALS: dict[str, Arch] = dict(
    [
        _named(
            "resnet18_d2l",
            _BASIC,
            _D2L,
            match="conv1x1",
            bias=True,
            stem_bias=True,
            init="xavier",
            num_classes=10,
            in_channels=1,
        ),
        ("book_net", _BOOK_NET),
        _named("book_width", _BOOK_NET, f"{_BOOK}, NetWidth", stem=_BOOK_WIDTH),
        _named(
            "book_dropout",
            _BOOK_NET,
            f"{_BOOK}, NetDropout",
            stem=_BOOK_WIDTH.replace("maxpool2", "maxpool2 drop2d(0.4)"),
        ),
        _named(
            "book_batchnorm",
            _BOOK_NET,
            f"{_BOOK}, NetBatchNorm",
            stem=_BOOK_WIDTH.replace(") act", ") norm act"),
            order="original",
        ),
        _named("book_depth", _BOOK_RES, f"{_BOOK}, NetDepth", mix="none"),
        _named("book_res", _BOOK_RES, f"{_BOOK}, NetRes"),
        _named(
            "book_resdeep", _BOOK_DEEP, f"{_BOOK}, NetResDeep as its code has it: one block, 100 times", shared=True
        ),
        _named("book_resdeep_separate", _BOOK_DEEP, f"{_BOOK}, NetResDeep as its text has it: 100 blocks"),
    ]
)

ARCHS: dict[str, Arch] = _IMAGENET | _SMALL | _TUTORIALS
