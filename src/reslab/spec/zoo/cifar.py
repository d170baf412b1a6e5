"""Networks for images of 32 pixels: a 3x3 stem, three stages, depth 6n + 2 (9n + 2 with bottlenecks)."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.imagenet import BASIC

_HE2015 = "He et al. 2015, arXiv:1512.03385"
_HE2016 = "He et al. 2016, arXiv:1603.05027"
_ZAGORUYKO2016 = "Zagoruyko and Komodakis 2016, arXiv:1605.07146, Tables 1 and 5"

_RESNET20 = Arch(
    "cifar",
    f"{_HE2015}, Sec. 4.2 and Table 6 (option A)",
    depths=(3, 3, 3),
    widths=(16, 32, 64),
    strides=(1, 2, 2),
    shortcut="pad",
    stem="conv3(16) norm act",
    num_classes=10,
    image_size=(32, 32),
)
_RESNET56 = replace(_RESNET20, depths=(9, 9, 9))
_RESNET110 = replace(_RESNET20, depths=(18, 18, 18))
_PLAIN20 = replace(_RESNET20, reference=f"{_HE2015}, Sec. 4.2 and Fig. 6 (plain)", merge="none")
_RESNET164 = replace(
    _RESNET20,
    reference=f"{_HE2016}, Table 3 (baseline)",
    convs=(1, 3, 1),
    expansion=4,
    shortcut="project",
    depths=(18, 18, 18),
)
_PRERESNET164 = replace(_RESNET164, reference=f"{_HE2016}, Tables 3 and 4", order="full-preact")
_ONE_LAYER = replace(_RESNET20, reference=f"{_HE2016}, Table 3 (1-layer skip)", depths=(36, 36, 36), convs=(3,))
_WRN = replace(_RESNET20, reference=_ZAGORUYKO2016, order="wide", shortcut="project")
_SE_PRERESNET20 = replace(
    _RESNET20,
    reference="github.com/osmr/pytorchcv, pytorchcv/models/sepreresnet_cifar.py",
    order="se-preact",
    shortcut="project",
)
_SHAKE26 = replace(
    _RESNET20,
    reference="Gastaldi 2017, arXiv:1705.07485, Table 1 (Shake-Shake-Image); github.com/xgastaldi/shake-shake",
    depths=(4, 4, 4),
    widths=(32, 64, 128),
    branches=2,
    order="relu-preact",
    shortcut="shift-project",
    merge="shake add",
)
_RESNET11 = replace(
    _RESNET20,
    reference="our own, after the residual airbench96 of Jordan 2024, arXiv:2404.00498, Sec. 4.2",
    depths=(1, 1, 1),
    widths=(64, 256, 256),
    strides=(1, 1, 1),
    shortcut="project",
    stem="conv3(24,whitened) act conv3(64) norm act maxpool2",
    transition="conv3 maxpool2 norm act",
    head="maxpool4(ceil) flatten fc",
    act="gelu",
    norm_momentum=0.4,
    init="dirac",
)

CIFAR: dict[str, Arch] = {
    "resnet20_cifar": _RESNET20,
    "resnet32_cifar": replace(_RESNET20, depths=(5, 5, 5)),
    "resnet44_cifar": replace(_RESNET20, depths=(7, 7, 7)),
    "resnet56_cifar": _RESNET56,
    "resnet110_cifar": _RESNET110,
    "resnet1202_cifar": replace(_RESNET20, depths=(200, 200, 200)),
    "plain20_cifar": _PLAIN20,
    "plain32_cifar": replace(_PLAIN20, depths=(5, 5, 5)),
    "plain44_cifar": replace(_PLAIN20, depths=(7, 7, 7)),
    "plain56_cifar": replace(_PLAIN20, depths=(9, 9, 9)),
    "plain110_cifar": replace(_PLAIN20, depths=(18, 18, 18)),
    "resnet164_cifar": _RESNET164,
    "resnet1001_cifar": replace(_RESNET164, depths=(111, 111, 111)),
    "preresnet110_cifar": replace(_RESNET110, reference=f"{_HE2016}, Tables 2 and 3", order="full-preact"),
    "preresnet164_cifar": _PRERESNET164,
    "preresnet1001_cifar": replace(_PRERESNET164, depths=(111, 111, 111)),
    "sepreresnet20_cifar": _SE_PRERESNET20,
    "sepreresnet56_cifar": replace(_SE_PRERESNET20, depths=(9, 9, 9)),
    "sepreresnet110_cifar": replace(_SE_PRERESNET20, depths=(18, 18, 18)),
    "sepreresnet164_cifar": replace(_SE_PRERESNET20, depths=(18, 18, 18), convs=(1, 3, 1), expansion=4),
    "resnet110_1layer_cifar": _ONE_LAYER,
    "preresnet110_1layer_cifar": replace(_ONE_LAYER, order="full-preact"),
    "wrn16_8_cifar": replace(_WRN, depths=(2, 2, 2), widths=(128, 256, 512)),
    "wrn28_10_cifar": replace(_WRN, depths=(4, 4, 4), widths=(160, 320, 640)),
    "wrn40_4_cifar": replace(_WRN, depths=(6, 6, 6), widths=(64, 128, 256)),
    "resnext29_8x64d_cifar": replace(
        _RESNET164,
        reference="Xie et al. 2017, arXiv:1611.05431, Table 7 and appendix A",
        depths=(3, 3, 3),
        widths=(64, 128, 256),
        groups=8,
        stem="conv3(64) norm act",
    ),
    "resnet18_cifar": replace(
        BASIC,
        reference="the four-stage, 64-wide network of CIFAR scripts, such as github.com/kuangliu/pytorch-cifar",
        stem="conv3(64) norm act",
        num_classes=10,
        image_size=(32, 32),
    ),
    "sepreresnet18_cifar": replace(
        BASIC,
        reference="github.com/kuangliu/pytorch-cifar, models/senet.py, SENet18",
        order="se-preact",
        stem="conv3(64) norm act",
        num_classes=10,
        image_size=(32, 32),
    ),
    "resnet110_sd_cifar": replace(
        _RESNET110,
        reference="Huang et al. 2016, arXiv:1603.09382, Sec. 4 (p_L = 0.5)",
        merge="stochastic-depth(0.5) add",
    ),
    "resnet8_fast": replace(
        _RESNET20,
        reference="our own, for time to accuracy on 28x28 gray images: one block per stage, option B",
        depths=(1, 1, 1),
        widths=(32, 64, 128),
        shortcut="project",
        stem="conv3/2(16) norm act maxpool2",
        in_channels=1,
        image_size=(28, 28),
    ),
    "resnet11_fast": _RESNET11,
    "resnet11_fast_wide": replace(
        _RESNET11, widths=(128, 384, 512), stem="conv3(24,whitened) act conv3(128) norm act maxpool2"
    ),
    "shake26_2x32d_cifar": _SHAKE26,
    "shake26_2x64d_cifar": replace(_SHAKE26, widths=(64, 128, 256)),
    "shake26_2x96d_cifar": replace(_SHAKE26, widths=(96, 192, 384)),
    "rezero56_cifar": replace(
        _RESNET56, reference="Bachlechner et al. 2021, arXiv:2003.04887, Sec. 5 (ResNet-56)", merge="rezero add"
    ),
    "skipinit56_cifar": replace(
        _RESNET56,
        reference="De and Smith 2020, arXiv:2002.10444, Sec. 3",
        order="norm-free-preact",
        merge="skipinit add",
        norm="none",
        bias=True,
        stem_bias=True,
    ),
    "fixup110_cifar": replace(
        _RESNET110,
        reference="Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Table 2; github.com/hongyi-zhang/Fixup",
        order="fixup",
        norm="none",
        init="fixup",
        head="avgpool flatten bias fc",
    ),
    "pyramidnet110_cifar": replace(
        _RESNET110,
        reference="Han, Kim and Kim 2017, arXiv:1610.02915, Table 4 (alpha = 48)",
        widths="additive(16,48)",
        order="pyramid",
        shortcut="avg-pad",
    ),
}
