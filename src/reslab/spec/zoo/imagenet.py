"""Networks for images of about 224 pixels: four stages with widths of 64 to 512."""

from dataclasses import replace

from reslab.spec.arch import Arch

_HE2015 = "He et al. 2015, arXiv:1512.03385"
_HE2016 = "He et al. 2016, arXiv:1603.05027"
_ZAGORUYKO2016 = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_XIE2017 = "Xie et al. 2017, arXiv:1611.05431"
_HE2019 = "He, Tong et al. 2019, arXiv:1812.01187"
_TORCHVISION = "torchvision models/resnet.py"
_TIMM = "timm models/resnet.py"

DEPTHS_34 = (3, 4, 6, 3)  # also 50
DEPTHS_101 = (3, 4, 23, 3)
DEPTHS_152 = (3, 8, 36, 3)
DEPTHS_200 = (3, 24, 36, 3)

BASIC = Arch("basic", f"{_HE2015}, Table 1; {_TORCHVISION}", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512))
_REFERENCE_V1 = f"{_HE2015}, Table 1 (stride in the first 1x1)"
_REFERENCE_V15 = f"{_HE2015}, Table 1, with the stride in the 3x3 (v1.5); {_TORCHVISION}"
BOTTLENECK = replace(BASIC, reference=_REFERENCE_V15, depths=DEPTHS_34, convs=(1, 3, 1), expansion=4)

_BOTTLENECK_V1 = replace(BOTTLENECK, reference=_REFERENCE_V1, stride_conv=1)
DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) norm act maxpool3/2"
_REFERENCE_D = f"{_HE2019}, Fig. 2(c); {_TIMM}"
_BASIC_D = replace(BASIC, reference=_REFERENCE_D, stem=DEEP_STEM, shortcut="avg-project")
_BOTTLENECK_D = replace(BOTTLENECK, reference=_REFERENCE_D, stem=DEEP_STEM, shortcut="avg-project")
_BOTTLENECK_V2 = replace(BOTTLENECK, reference=f"{_HE2016}; timm models/resnetv2.py", order="full-preact")
_PREACT = replace(
    BOTTLENECK, reference=f"{_HE2016}, Table 5; fb.resnet.torch models/preresnet.lua", order="full-preact-stem"
)
_KERAS = replace(_BOTTLENECK_V1, reference="keras.applications.ResNet50", norm_eps=1.001e-5)
_KERAS_V2 = replace(
    BOTTLENECK,
    reference="keras.applications.ResNet50V2: stages of one block have the strides, the convolutions biases",
    depths=(2, 1, 3, 1, 5, 1, 3),
    widths=(64, 64, 128, 128, 256, 256, 512),
    strides=(1, 2, 1, 2, 1, 2, 1),
    order="full-preact-identity",
    shortcut="conv1x1-grow",
    stem="conv7/2(64) maxpool3/2(zero)",
    norm_eps=1.001e-5,
    bias=True,
    stem_bias=True,
)
_CAFFE = replace(
    _BOTTLENECK_V1,
    reference=f"{_HE2015}; github.com/KaimingHe/deep-residual-networks (Caffe)",
    stem="conv7/2(64) norm act maxpool3/2(ceil)",
)
_PLAIN = replace(BASIC, reference=f"{_HE2015}, Fig. 3 and Table 2 (plain)", merge="none")

IMAGENET: dict[str, Arch] = {
    "resnet18": BASIC,
    "resnet34": replace(BASIC, depths=DEPTHS_34),
    "resnet50": BOTTLENECK,
    "resnet101": replace(BOTTLENECK, depths=DEPTHS_101),
    "resnet152": replace(BOTTLENECK, depths=DEPTHS_152),
    "resnet26": replace(BOTTLENECK, reference=_TIMM, depths=(2, 2, 2, 2)),
    "resnet200": replace(BOTTLENECK, reference=f"{_HE2016}, Table 5 (original unit); {_TIMM}", depths=DEPTHS_200),
    "resnet50_v1": _BOTTLENECK_V1,
    "resnet101_v1": replace(_BOTTLENECK_V1, depths=DEPTHS_101),
    "resnet152_v1": replace(_BOTTLENECK_V1, depths=DEPTHS_152),
    "resnet50_keras": _KERAS,
    "resnet101_keras": replace(_KERAS, depths=DEPTHS_101),
    "resnet152_keras": replace(_KERAS, depths=DEPTHS_152),
    "resnet50v2_keras": _KERAS_V2,
    "resnet101v2_keras": replace(_KERAS_V2, depths=(2, 1, 3, 1, 22, 1, 3)),
    "resnet152v2_keras": replace(_KERAS_V2, depths=(2, 1, 7, 1, 35, 1, 3)),
    "resnet50_caffe": _CAFFE,
    "resnet101_caffe": replace(_CAFFE, depths=DEPTHS_101),
    "resnet152_caffe": replace(_CAFFE, depths=DEPTHS_152),
    "resnet18_a": replace(BASIC, reference=f"{_HE2015}, Table 2 (option A)", shortcut="pad"),
    "resnet34_a": replace(BASIC, reference=f"{_HE2015}, Tables 2, 3 (option A)", depths=DEPTHS_34, shortcut="pad"),
    "resnet34_c": replace(BASIC, reference=f"{_HE2015}, Table 3 (option C)", depths=DEPTHS_34, shortcut="project-all"),
    "plain18": _PLAIN,
    "plain34": replace(_PLAIN, depths=DEPTHS_34),
    "resnext50_32x4d": replace(
        BOTTLENECK, reference=f"{_XIE2017}, Table 1; {_TORCHVISION}", groups=32, width_per_group=4
    ),
    "resnext101_32x4d": replace(
        BOTTLENECK, reference=f"{_XIE2017}, Table 3", depths=DEPTHS_101, groups=32, width_per_group=4
    ),
    "resnext101_32x8d": replace(
        BOTTLENECK, reference=f"{_XIE2017}; {_TORCHVISION}", depths=DEPTHS_101, groups=32, width_per_group=8
    ),
    "resnext101_64x4d": replace(
        BOTTLENECK, reference=f"{_XIE2017}, Table 4", depths=DEPTHS_101, groups=64, width_per_group=4
    ),
    "wide_resnet50_2": replace(BOTTLENECK, reference=f"{_ZAGORUYKO2016}, Table 8; {_TORCHVISION}", width_per_group=128),
    "wide_resnet101_2": replace(
        BOTTLENECK, reference=f"{_ZAGORUYKO2016}; {_TORCHVISION}", depths=DEPTHS_101, width_per_group=128
    ),
    "resnet50c": replace(BOTTLENECK, reference=f"{_HE2019}, Fig. 2(b); {_TIMM}", stem=DEEP_STEM),
    "resnet18d": _BASIC_D,
    "resnet34d": replace(_BASIC_D, depths=DEPTHS_34),
    "resnet26d": replace(_BOTTLENECK_D, depths=(2, 2, 2, 2)),
    "resnet50d": _BOTTLENECK_D,
    "resnet101d": replace(_BOTTLENECK_D, depths=DEPTHS_101),
    "resnet152d": replace(_BOTTLENECK_D, depths=DEPTHS_152),
    "resnet200d": replace(_BOTTLENECK_D, depths=DEPTHS_200),
    "resnetv2_50": _BOTTLENECK_V2,
    "resnetv2_101": replace(_BOTTLENECK_V2, depths=DEPTHS_101),
    "resnetv2_152": replace(_BOTTLENECK_V2, depths=DEPTHS_152),
    "preresnet152": replace(_PREACT, depths=DEPTHS_152),
    "preresnet200": replace(_PREACT, depths=DEPTHS_200),
    "seresnet50": replace(BOTTLENECK, reference="Hu, Shen and Sun 2018, arXiv:1709.01507, Table 1; timm", order="se"),
}


_TIMM_V2 = "timm models/resnetv2.py"
_DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) maxpool3/2"
_V2 = replace(BOTTLENECK, reference=f"He et al. 2016, arXiv:1603.05027; {_TIMM_V2}", order="full-preact")
_V2_BASIC = replace(BASIC, reference=_V2.reference, order="full-preact-identity")
_V2_D = replace(_V2, stem=_DEEP_STEM, shortcut="avg-project")
# The norm holds the activation too.
_V2_NORM_ACT = replace(_V2_D, order="norm conv | norm conv +", stem=_DEEP_STEM.replace(" act", ""))
_BIT = replace(
    _V2,
    reference=f"Kolesnikov et al. 2020, arXiv:1912.11370, Sec. 3; {_TIMM_V2}",
    conv="standardized(1e-8)",
    norm="group(32)",
    stem="conv7/2(64) maxpool3/2(zero)",
)


def _widened(factor: int) -> Arch:
    """Return BiT with all widths times a factor."""
    return replace(
        _BIT,
        widths=(64 * factor, 128 * factor, 256 * factor, 512 * factor),
        stem=f"conv7/2({64 * factor}) maxpool3/2(zero)",
    )


RESNETV2: dict[str, Arch] = {
    "resnetv2_18": _V2_BASIC,
    "resnetv2_18d": replace(_V2_BASIC, stem=_DEEP_STEM, shortcut="avg-project"),
    "resnetv2_34": replace(_V2_BASIC, depths=DEPTHS_34),
    "resnetv2_34d": replace(_V2_BASIC, depths=DEPTHS_34, stem=_DEEP_STEM, shortcut="avg-project"),
    "resnetv2_50d": _V2_D,
    "resnetv2_50t": replace(_V2_D, stem="conv3/2(24) norm act conv3(32) norm act conv3(64) maxpool3/2"),
    "resnetv2_101d": replace(_V2_D, depths=DEPTHS_101),
    "resnetv2_152d": replace(_V2_D, depths=DEPTHS_152),
    "resnetv2_50d_gn": replace(_V2_D, norm="group(32)"),
    "resnetv2_50d_evos": replace(_V2_NORM_ACT, norm="evonorm-s0(32)"),
    "resnetv2_50d_frn": replace(_V2_NORM_ACT, norm="frn"),
    "resnetv2_50x1_bit": _BIT,
    "resnetv2_50x3_bit": _widened(3),
    "resnetv2_101x1_bit": replace(_BIT, depths=DEPTHS_101),
    "resnetv2_101x3_bit": replace(_widened(3), depths=DEPTHS_101),
    "resnetv2_152x2_bit": replace(_widened(2), depths=DEPTHS_152),
    "resnetv2_152x4_bit": replace(_widened(4), depths=DEPTHS_152),
}
