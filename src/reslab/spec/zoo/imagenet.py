"""Networks for photographs of about 224 pixels: four stages of 64 to 512."""

from dataclasses import replace

from reslab.spec.arch import Arch

_HE2015 = "He et al. 2015, arXiv:1512.03385"
_HE2016 = "He et al. 2016, arXiv:1603.05027"
_WIDE = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
_NEXT = "Xie et al. 2017, arXiv:1611.05431"
_TRICKS = "He, Tong et al. 2019, arXiv:1812.01187"
_TV = "torchvision models/resnet.py"
_TIMM = "timm models/resnet.py"

_34 = (3, 4, 6, 3)  # also 50
_101 = (3, 4, 23, 3)
_152 = (3, 8, 36, 3)
_200 = (3, 24, 36, 3)

BASIC = Arch("basic", f"{_HE2015}, Table 1; {_TV}", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512))
_SOURCE_V1 = f"{_HE2015}, Table 1 (stride in the first 1x1)"
_SOURCE_V15 = f"{_HE2015}, Table 1, with the stride in the 3x3 (v1.5); {_TV}"
BOTTLENECK = replace(BASIC, source=_SOURCE_V15, depths=_34, branch=(1, 3, 1), expansion=4)

_V1 = replace(BOTTLENECK, source=_SOURCE_V1, stride_at=1)
_DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) norm act maxpool3/2"
_SOURCE_D = f"{_TRICKS}, Fig. 2(c); {_TIMM}"
_BASIC_D = replace(BASIC, source=_SOURCE_D, stem=_DEEP_STEM, match="avg-project")
_D = replace(BOTTLENECK, source=_SOURCE_D, stem=_DEEP_STEM, match="avg-project")
_V2 = replace(BOTTLENECK, source=f"{_HE2016}; timm models/resnetv2.py", order="full-preact")
_PRE = replace(BOTTLENECK, source=f"{_HE2016}, Table 5; fb.resnet.torch models/preresnet.lua", order="full-preact-stem")
_PLAIN = replace(BASIC, source=f"{_HE2015}, Fig. 3 and Table 2 (plain)", mix="none")

IMAGENET: dict[str, Arch] = {
    "resnet18": BASIC,
    "resnet34": replace(BASIC, depths=_34),
    "resnet50": BOTTLENECK,
    "resnet101": replace(BOTTLENECK, depths=_101),
    "resnet152": replace(BOTTLENECK, depths=_152),
    "resnet26": replace(BOTTLENECK, source=_TIMM, depths=(2, 2, 2, 2)),
    "resnet200": replace(BOTTLENECK, source=f"{_HE2016}, Table 5 (original unit); {_TIMM}", depths=_200),
    "resnet50_v1": _V1,
    "resnet101_v1": replace(_V1, depths=_101),
    "resnet152_v1": replace(_V1, depths=_152),
    "resnet18_a": replace(BASIC, source=f"{_HE2015}, Table 2 (option A)", match="pad"),
    "resnet34_a": replace(BASIC, source=f"{_HE2015}, Tables 2, 3 (option A)", depths=_34, match="pad"),
    "resnet34_c": replace(BASIC, source=f"{_HE2015}, Table 3 (option C)", depths=_34, match="project-all"),
    "plain18": _PLAIN,
    "plain34": replace(_PLAIN, depths=_34),
    "resnext50_32x4d": replace(BOTTLENECK, source=f"{_NEXT}, Table 1; {_TV}", groups=32, width_per_group=4),
    "resnext101_32x4d": replace(BOTTLENECK, source=f"{_NEXT}, Table 3", depths=_101, groups=32, width_per_group=4),
    "resnext101_32x8d": replace(BOTTLENECK, source=f"{_NEXT}; {_TV}", depths=_101, groups=32, width_per_group=8),
    "resnext101_64x4d": replace(BOTTLENECK, source=f"{_NEXT}, Table 4", depths=_101, groups=64, width_per_group=4),
    "wide_resnet50_2": replace(BOTTLENECK, source=f"{_WIDE}, Table 8; {_TV}", width_per_group=128),
    "wide_resnet101_2": replace(BOTTLENECK, source=f"{_WIDE}; {_TV}", depths=_101, width_per_group=128),
    "resnet50c": replace(BOTTLENECK, source=f"{_TRICKS}, Fig. 2(b); {_TIMM}", stem=_DEEP_STEM),
    "resnet18d": _BASIC_D,
    "resnet34d": replace(_BASIC_D, depths=_34),
    "resnet26d": replace(_D, depths=(2, 2, 2, 2)),
    "resnet50d": _D,
    "resnet101d": replace(_D, depths=_101),
    "resnet152d": replace(_D, depths=_152),
    "resnet200d": replace(_D, depths=_200),
    "resnetv2_50": _V2,
    "resnetv2_101": replace(_V2, depths=_101),
    "resnetv2_152": replace(_V2, depths=_152),
    "preresnet152": replace(_PRE, depths=_152),
    "preresnet200": replace(_PRE, depths=_200),
    "seresnet50": replace(BOTTLENECK, source="Hu, Shen and Sun 2018, arXiv:1709.01507, Table 1; timm", order="se"),
}
