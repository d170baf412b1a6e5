"""ResNets with other stems, pools, attention or multi-path convolutions, under timm's names."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.imagenet import BASIC, BOTTLENECK, DEEP_STEM, DEPTHS_34, DEPTHS_101, DEPTHS_152, DEPTHS_200

_TIMM = "timm models/resnet.py"
_DEPTHS_26 = (2, 2, 2, 2)
_DEPTHS_269 = (3, 30, 48, 8)
_TIERED_STEM = "conv3/2(24) norm act conv3(32) norm act conv3(64) norm act maxpool3/2"
_WIDE_STEM = "conv3/2(64) norm act conv3(64) norm act conv3(128) norm act maxpool3/2"
_C = replace(BOTTLENECK, reference=f"He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(b); {_TIMM}", stem=DEEP_STEM)
_S = replace(BOTTLENECK, reference=f"ResNet-C with a stem of twice the width; {_TIMM}", stem=_WIDE_STEM)
_BASIC_D = replace(BASIC, stem=DEEP_STEM, shortcut="avg-project", reference=f"He, Tong et al. 2019; {_TIMM}")
_D = replace(BOTTLENECK, stem=DEEP_STEM, shortcut="avg-project", reference=f"He, Tong et al. 2019; {_TIMM}")
_T = replace(_D, stem=_TIERED_STEM, reference=f"ResNet-D with a stem of widths 24, 32, 64; {_TIMM}")

_HU2018 = "Hu, Shen and Sun 2018, arXiv:1709.01507"
_SE = replace(BOTTLENECK, order="se", reference=f"{_HU2018}, Table 1; {_TIMM}")
_SE_BASIC = replace(BASIC, order="se", reference=f"{_HU2018}; {_TIMM}")
_SE_D = replace(_D, order="se", reference=f"{_HU2018}, on ResNet-D; {_TIMM}")
_SE_X = replace(_SE, groups=32, width_per_group=4, reference=f"{_HU2018}, Table 2; {_TIMM}")
_ECA = {"order": "conv norm act | conv norm eca + act", "reference": f"Wang et al. 2020, arXiv:1910.03151; {_TIMM}"}
_ECA_D, _ECA_T = replace(_D, **_ECA), replace(_T, **_ECA)  # type: ignore[arg-type]

_ZHANG2019 = f"Zhang 2019, arXiv:1904.11486; {_TIMM}"
_BLUR = replace(
    BOTTLENECK,
    reference=_ZHANG2019,
    order="conv norm act | conv norm act blurpool | conv norm + act",
    stem="conv7/2(64) norm act maxpool3/1 blurpool3/2",
)
_BLUR_D = replace(_BLUR, shortcut="avg-project", stem=DEEP_STEM.replace("maxpool3/2", "maxpool3/1 blurpool3/2"))
_AA = replace(
    BOTTLENECK,
    reference=f"average pools in place of strides; {_TIMM}",
    order="conv norm act | conv norm act avgpool | conv norm + act",
    stem="conv7/2(64) norm act avgpool2",
)
_AA_D = replace(_AA, shortcut="avg-project", stem=DEEP_STEM.replace("maxpool3/2", "avgpool2"))
_SE_AA_D = replace(_AA_D, order="conv norm act | conv norm act avgpool | conv norm se + act")
_RS = replace(
    _D,
    reference=f"Bello et al. 2021, arXiv:2103.07579, Sec. 4; {_TIMM}",
    order="se",
    se_ratio=0.25,
    stem=DEEP_STEM.replace("maxpool3/2", "conv3/2(64) norm act"),
)

_IBN_A = replace(
    BOTTLENECK,
    reference="Pan et al. 2018, arXiv:1807.09441, Fig. 3(a) and Sec. 3.2; github.com/XingangPan/IBN-Net",
    order=(
        "conv norm(ibn) act | conv norm act | conv norm + act; conv norm(ibn) act | conv norm act | conv norm + act; "
        "conv norm(ibn) act | conv norm act | conv norm + act; original"
    ),
)

VARIANTS: dict[str, Arch] = {
    "resnet50_ibn_a": _IBN_A,
    "resnet101_ibn_a": replace(_IBN_A, depths=DEPTHS_101),
    "r3d_18": replace(
        BASIC,
        reference="Tran et al. 2018, arXiv:1711.11248, Sec. 3 (R3D); torchvision models/video/resnet.py",
        dims=3,
        stem="conv3x7x7/1x2x2(64) norm act",
        num_classes=400,
        image_size=(16, 112, 112),
    ),
    "resnet10t": replace(_T, depths=(1, 1, 1, 1), convs=(3, 3), expansion=1),
    "resnet14t": replace(_T, depths=(1, 1, 1, 1)),
    "resnet26t": replace(_T, depths=_DEPTHS_26),
    "resnet50t": _T,
    "resnet50s": _S,
    "resnet101s": replace(_S, depths=DEPTHS_101),
    "resnet152s": replace(_S, depths=DEPTHS_152),
    "resnet101c": replace(_C, depths=DEPTHS_101),
    "resnet152c": replace(_C, depths=DEPTHS_152),
    "resnet50_gn": replace(BOTTLENECK, reference=f"Wu and He 2018, arXiv:1803.08494; {_TIMM}", norm="group(32)"),
    "resnext50d_32x4d": replace(_D, groups=32, width_per_group=4),
    "resnext101_32x16d": replace(
        BOTTLENECK, reference="Mahajan et al. 2018, arXiv:1805.00932", depths=DEPTHS_101, groups=32, width_per_group=16
    ),
    "resnext101_32x32d": replace(
        BOTTLENECK, reference="Mahajan et al. 2018, arXiv:1805.00932", depths=DEPTHS_101, groups=32, width_per_group=32
    ),
    "seresnet18": _SE_BASIC,
    "seresnet34": replace(_SE_BASIC, depths=DEPTHS_34),
    "seresnet101": replace(_SE, depths=DEPTHS_101),
    "seresnet152": replace(_SE, depths=DEPTHS_152),
    "seresnet50t": replace(_T, order="se"),
    "seresnet152d": replace(_SE_D, depths=DEPTHS_152),
    "seresnet200d": replace(_SE_D, depths=DEPTHS_200),
    "seresnet269d": replace(_SE_D, depths=_DEPTHS_269),
    "seresnext26d_32x4d": replace(_SE_D, depths=_DEPTHS_26, groups=32, width_per_group=4),
    "seresnext26t_32x4d": replace(_T, order="se", depths=_DEPTHS_26, groups=32, width_per_group=4),
    "seresnext50_32x4d": _SE_X,
    "seresnext101_32x4d": replace(_SE_X, depths=DEPTHS_101),
    "seresnext101_32x8d": replace(_SE_X, depths=DEPTHS_101, width_per_group=8),
    "seresnext101d_32x8d": replace(_SE_D, depths=DEPTHS_101, groups=32, width_per_group=8),
    "seresnext101_64x4d": replace(_SE_X, depths=DEPTHS_101, groups=64),
    "senet154": replace(
        _SE,
        reference=f"{_HU2018}, appendix; {_TIMM}",
        depths=DEPTHS_152,
        convs="1(inner//2), 3, 1",
        groups=64,
        width_per_group=4,
        stem=_WIDE_STEM,
        shortcut="project3",
    ),
    "ecaresnet26t": replace(_ECA_T, depths=_DEPTHS_26),
    "ecaresnet50d": _ECA_D,
    "ecaresnet50t": _ECA_T,
    "ecaresnetlight": replace(_ECA_D, depths=(1, 1, 11, 3), stem="conv7/2(64) norm act maxpool3/2"),
    "ecaresnet101d": replace(_ECA_D, depths=DEPTHS_101),
    "ecaresnet200d": replace(_ECA_D, depths=DEPTHS_200),
    "ecaresnet269d": replace(_ECA_D, depths=_DEPTHS_269),
    "ecaresnext26t_32x4d": replace(_ECA_T, depths=_DEPTHS_26, groups=32, width_per_group=4),
    "ecaresnext50t_32x4d": replace(_ECA_T, groups=32, width_per_group=4),
    "resnetblur18": replace(
        _BLUR, depths=_DEPTHS_26, convs=(3, 3), expansion=1, order="conv norm act blurpool | conv norm + act"
    ),
    "resnetblur50": _BLUR,
    "resnetblur50d": _BLUR_D,
    "resnetblur101d": replace(_BLUR_D, depths=DEPTHS_101),
    "resnetaa34d": replace(_AA_D, convs=(3, 3), expansion=1, order="conv norm act avgpool | conv norm + act"),
    "resnetaa50": _AA,
    "resnetaa50d": _AA_D,
    "resnetaa101d": replace(_AA_D, depths=DEPTHS_101),
    "seresnetaa50d": _SE_AA_D,
    "seresnextaa101d_32x8d": replace(_SE_AA_D, depths=DEPTHS_101, groups=32, width_per_group=8),
    "seresnextaa201d_32x8d": replace(
        _SE_AA_D,
        depths=(3, 24, 36, 4),
        groups=32,
        width_per_group=8,
        stem=_WIDE_STEM.replace("maxpool3/2", "avgpool2"),
    ),
    "resnetrs50": _RS,
    "resnetrs101": replace(_RS, depths=DEPTHS_101),
    "resnetrs152": replace(_RS, depths=DEPTHS_152),
    "resnetrs200": replace(_RS, depths=DEPTHS_200),
    "resnetrs270": replace(_RS, depths=(4, 29, 53, 4)),
    "resnetrs350": replace(_RS, depths=(4, 36, 72, 4)),
    "resnetrs420": replace(_RS, depths=(4, 44, 87, 4)),
}

_LEGACY_SE = replace(
    BOTTLENECK,
    reference=f"{_HU2018}; Caffe; timm models/senet.py",
    order="conv norm act | conv norm se(0.0625,divisor=1) + act",
    stride_conv=1,
    stem="conv7/2(64) norm act maxpool3/2(ceil)",
)
_LEGACY_SE_BASIC = replace(
    _LEGACY_SE, convs=(3, 3), expansion=1, order="conv norm act | conv norm act se(0.0625,divisor=1) + act"
)
_LEGACY_SE_X = replace(_LEGACY_SE, stride_conv=0, groups=32, width_per_group=4)
_RES2 = replace(
    BOTTLENECK,
    reference="Gao et al. 2019, arXiv:1904.01169, Fig. 2(b); timm models/res2net.py",
    convs="1(4*inner), 3(4*inner), 1",
    width_per_group=26,
    order="conv norm act | conv(res2(4)) | conv norm + act",
)
_RES2_8 = replace(_RES2, convs="1(8*inner), 3(8*inner), 1", order="conv norm act | conv(res2(8)) | conv norm + act")
_RES2_D = replace(_RES2, stem=DEEP_STEM, shortcut="avg-project")
_SK = replace(
    BOTTLENECK,
    reference="Li et al. 2019, arXiv:1903.06586; timm models/sknet.py, which splits the input among the paths",
    order="conv norm act | conv(select(2,split)) | conv norm + act",
)
_SK_BASIC = replace(
    _SK,
    depths=_DEPTHS_26,
    convs=(3, 3),
    expansion=1,
    order="conv(select(2,split,ratio=0.125,divisor=16)) | conv norm + act",
)
_RESNEST = replace(
    _D,
    reference="Zhang et al. 2020, arXiv:2004.08955, Sec. 3; timm models/resnest.py",
    order="conv norm act | conv(split(2)) avgpool3 | conv norm + act",
)
_RESNEST_E = replace(_RESNEST, stem=_WIDE_STEM)

MULTIPATH: dict[str, Arch] = {
    "legacy_seresnet18": replace(_LEGACY_SE_BASIC, depths=_DEPTHS_26),
    "legacy_seresnet34": _LEGACY_SE_BASIC,
    "legacy_seresnet50": _LEGACY_SE,
    "legacy_seresnet101": replace(_LEGACY_SE, depths=DEPTHS_101),
    "legacy_seresnet152": replace(_LEGACY_SE, depths=DEPTHS_152),
    "legacy_seresnext26_32x4d": replace(_LEGACY_SE_X, depths=_DEPTHS_26),
    "legacy_seresnext50_32x4d": _LEGACY_SE_X,
    "legacy_seresnext101_32x4d": replace(_LEGACY_SE_X, depths=DEPTHS_101),
    "legacy_senet154": replace(
        _LEGACY_SE,
        depths=DEPTHS_152,
        convs="1(2*w), 3(4*w), 1",
        groups=64,
        width_per_group=4,
        stride_conv=0,
        stem=_WIDE_STEM.replace("maxpool3/2", "maxpool3/2(ceil)"),
        shortcut="project3",
    ),
    "res2net50_26w_4s": _RES2,
    "res2net101_26w_4s": replace(_RES2, depths=DEPTHS_101),
    "res2net50_26w_6s": replace(
        _RES2, convs="1(6*inner), 3(6*inner), 1", order="conv norm act | conv(res2(6)) | conv norm + act"
    ),
    "res2net50_26w_8s": _RES2_8,
    "res2net50_48w_2s": replace(
        _RES2,
        convs="1(2*inner), 3(2*inner), 1",
        width_per_group=48,
        order="conv norm act | conv(res2(2)) | conv norm + act",
    ),
    "res2net50_14w_8s": replace(_RES2_8, width_per_group=14),
    "res2next50": replace(_RES2, groups=8, width_per_group=4),
    "res2net50d": _RES2_D,
    "res2net101d": replace(_RES2_D, depths=DEPTHS_101),
    "skresnet18": _SK_BASIC,
    "skresnet34": replace(_SK_BASIC, depths=DEPTHS_34),
    "skresnet50": _SK,
    "skresnet50d": replace(_SK, stem=DEEP_STEM, shortcut="avg-project"),
    "skresnext50_32x4d": replace(
        _SK,
        groups=32,
        width_per_group=4,
        order="conv norm act | conv(select(2,divisor=32)) | conv norm + act",
    ),
    "resnest14d": replace(_RESNEST, depths=(1, 1, 1, 1)),
    "resnest26d": replace(_RESNEST, depths=_DEPTHS_26),
    "resnest50d": _RESNEST,
    "resnest101e": replace(_RESNEST_E, depths=DEPTHS_101),
    "resnest200e": replace(_RESNEST_E, depths=DEPTHS_200),
    "resnest269e": replace(_RESNEST_E, depths=_DEPTHS_269),
    "resnest50d_4s2x40d": replace(
        _RESNEST,
        groups=2,
        width_per_group=40,
        order="conv norm act avgpool3 | conv(split(4)) | conv norm + act",
    ),
    "resnest50d_1s4x24d": replace(
        _RESNEST,
        groups=4,
        width_per_group=24,
        order="conv norm act avgpool3 | conv(split(1)) | conv norm + act",
    ),
}
