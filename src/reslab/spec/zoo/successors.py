"""Successors of ResNet: RegNet, ConvNeXt, and networks without norms (NF-ResNet, NF-RegNet, NFNet).

The widths and depths of RegNet are quantized from a line (Radosavovic et al. 2020, Eqs. 2 to 4). ConvNeXt has a
depthwise 7x7 convolution, one norm and an inverted bottleneck. The weights of NF networks are standardized.
"""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.operations import ACT_GAINS
from reslab.spec.zoo.imagenet import BOTTLENECK, DEPTHS_34, DEPTHS_101

_SE = "se(0.25,of=in,divisor=1)"
_X = Arch(
    "regnetx",
    "Radosavovic et al. 2020, arXiv:2003.13678, Fig. 17 and Table 9; timm models/regnet.py",
    depths=(1, 2, 7, 12),
    widths=(32, 64, 160, 384),
    convs=(1, 3, 1),
    strides=(2, 2, 2, 2),
    stem="conv3/2(32) norm act",
)
_Y = replace(
    _X,
    reference="Radosavovic et al. 2020, arXiv:2003.13678, Fig. 18; timm models/regnet.py",
    order=f"conv norm act | conv norm act {_SE} | conv norm + act",
)
_V = replace(
    _X,
    reference="timm models/regnet.py, PreBottleneck",
    order="regnetv",
    act="silu",
    stem="conv3/2(32)",
)
_Z = replace(
    _X,
    reference="Dollar, Singh and Girshick 2021, arXiv:2103.06877, Sec. 5; timm models/regnet.py",
    convs="1(4*w), 3(4*w), 1(w)",
    order="conv norm act | conv norm act se(0.25,of=in,divisor=1,act=silu) | conv norm +",
    act="silu",
    shortcut="identity",
)


def _regnet(base: Arch, group_width: int | tuple[int, ...], depths: tuple[int, ...], widths: tuple[int, ...]) -> Arch:
    return replace(base, group_width=group_width, depths=depths, widths=widths)


REGNET: dict[str, Arch] = {
    "regnetx_002": _regnet(_X, 8, (1, 1, 4, 7), (24, 56, 152, 368)),
    "regnetx_004": _regnet(_X, 16, (1, 2, 7, 12), (32, 64, 160, 384)),
    "regnetx_004_tv": _regnet(_X, 16, (1, 2, 7, 12), (32, 64, 160, 400)),
    "regnetx_006": _regnet(_X, 24, (1, 3, 5, 7), (48, 96, 240, 528)),
    "regnetx_008": _regnet(_X, 16, (1, 3, 7, 5), (64, 128, 288, 672)),
    "regnetx_016": _regnet(_X, 24, (2, 4, 10, 2), (72, 168, 408, 912)),
    "regnetx_032": _regnet(_X, 48, (2, 6, 15, 2), (96, 192, 432, 1008)),
    "regnetx_040": _regnet(_X, 40, (2, 5, 14, 2), (80, 240, 560, 1360)),
    "regnetx_064": _regnet(_X, 56, (2, 4, 10, 1), (168, 392, 784, 1624)),
    "regnetx_080": _regnet(_X, (80, 120, 120, 120), (2, 5, 15, 1), (80, 240, 720, 1920)),
    "regnetx_120": _regnet(_X, 112, (2, 5, 11, 1), (224, 448, 896, 2240)),
    "regnetx_160": _regnet(_X, 128, (2, 6, 13, 1), (256, 512, 896, 2048)),
    "regnetx_320": _regnet(_X, 168, (2, 7, 13, 1), (336, 672, 1344, 2520)),
    "regnety_002": _regnet(_Y, 8, (1, 1, 4, 7), (24, 56, 152, 368)),
    "regnety_004": _regnet(_Y, 8, (1, 3, 6, 6), (48, 104, 208, 440)),
    "regnety_006": _regnet(_Y, 16, (1, 3, 7, 4), (48, 112, 256, 608)),
    "regnety_008": _regnet(_Y, 16, (1, 3, 8, 2), (64, 128, 320, 768)),
    "regnety_008_tv": _regnet(_Y, 16, (1, 3, 8, 2), (64, 144, 320, 784)),
    "regnety_016": _regnet(_Y, 24, (2, 6, 17, 2), (48, 120, 336, 888)),
    "regnety_032": _regnet(_Y, 24, (2, 5, 13, 1), (72, 216, 576, 1512)),
    "regnety_040": _regnet(_Y, 64, (2, 6, 12, 2), (128, 192, 512, 1088)),
    "regnety_064": _regnet(_Y, 72, (2, 7, 14, 2), (144, 288, 576, 1296)),
    "regnety_080": _regnet(_Y, 56, (2, 4, 10, 1), (168, 448, 896, 2016)),
    "regnety_080_tv": _regnet(_Y, 56, (2, 4, 10, 1), (224, 448, 896, 2016)),
    "regnety_120": _regnet(_Y, 112, (2, 5, 11, 1), (224, 448, 896, 2240)),
    "regnety_160": _regnet(_Y, 112, (2, 4, 11, 1), (224, 448, 1232, 3024)),
    "regnety_320": _regnet(_Y, 232, (2, 5, 12, 1), (232, 696, 1392, 3712)),
    "regnety_640": _regnet(_Y, 328, (2, 5, 12, 1), (328, 984, 1968, 4920)),
    "regnety_1280": _regnet(_Y, 264, (2, 7, 17, 1), (528, 1056, 2904, 7392)),
    "regnety_2560": _regnet(_Y, 373, (2, 7, 17, 1), (746, 1492, 4103, 10444)),
    "regnety_040_sgn": replace(
        _regnet(_Y, 64, (2, 6, 12, 2), (128, 192, 512, 1088)),
        act="silu",
        norm="group(size=16)",
        order=_Z.order + " act",
    ),
    "regnetv_040": _regnet(_V, 64, (2, 6, 12, 2), (128, 192, 512, 1088)),
    "regnetv_064": replace(_regnet(_V, 72, (2, 7, 14, 2), (144, 288, 576, 1296)), shortcut="avg-project"),
    "regnetz_005": replace(
        _regnet(_Z, 4, (1, 4, 9, 7), (16, 40, 104, 256)), head="conv1(1024) norm act avgpool flatten fc"
    ),
    "regnetz_040": replace(_regnet(_Z, 8, (2, 6, 14, 6), (48, 104, 240, 528)), final="act"),
    "regnetz_040_h": replace(
        _regnet(_Z, 8, (2, 6, 14, 6), (48, 104, 240, 528)), head="conv1(1536) norm act avgpool flatten fc"
    ),
}


_TIMM = "timm models/convnext.py"
_V1 = Arch(
    "convnext",
    f"Liu et al. 2022, arXiv:2201.03545, Fig. 4 and appendix A; {_TIMM}",
    depths=(3, 3, 9, 3),
    widths=(96, 192, 384, 768),
    convs="7(w, groups=w), 1(4*w), 1(w)",
    order="convnext",
    merge="layerscale(1e-6) add",
    transition="norm conv2",
    norm="layer",
    norm_eps=1e-6,
    act="gelu",
    bias=True,
    stem_bias=True,
    stem="conv4/4(96) norm",
    head="avgpool norm flatten fc",
    init="convnext",
)
_V2 = replace(
    _V1,
    reference=f"Woo et al. 2023, arXiv:2301.00808, Fig. 5 and appendix A; {_TIMM}",
    order="convnextv2",
    merge="add",
)
_TINY, _NANO, _ATTO, _SMALL = (3, 3, 9, 3), (2, 2, 8, 2), (2, 2, 6, 2), (3, 3, 27, 3)


def _convnext(base: Arch, depths: tuple[int, ...], width: int) -> Arch:
    """Return a network whose stages have widths w, 2w, 4w, 8w, with patches of 4x4 as its stem."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return replace(base, depths=depths, widths=widths, stem=f"conv4/4({width}) norm")


def _overlapping(base: Arch, depths: tuple[int, ...], width: int, middle: str) -> Arch:
    """Return the same with two strided 3x3 convolutions as its stem."""
    return replace(_convnext(base, depths, width), stem=f"conv3/2({middle} conv3/2({width}) norm")


CONVNEXT: dict[str, Arch] = {
    "convnext_zepto_rms": replace(_convnext(_V1, (2, 2, 4, 2), 32), norm="simple"),
    "convnext_zepto_rms_ols": replace(_overlapping(_V1, (2, 2, 4, 2), 32, "32) act"), norm="simple"),
    "convnext_atto": _convnext(_V1, _ATTO, 40),
    "convnext_atto_ols": _overlapping(_V1, _ATTO, 40, "24)"),
    "convnext_atto_rms": replace(_convnext(_V1, _ATTO, 40), norm="rms"),
    "convnext_femto": _convnext(_V1, _ATTO, 48),
    "convnext_femto_ols": _overlapping(_V1, _ATTO, 48, "24)"),
    "convnext_pico": _convnext(_V1, _ATTO, 64),
    "convnext_pico_ols": _overlapping(_V1, _ATTO, 64, "32)"),
    "convnext_nano": _convnext(_V1, _NANO, 80),
    "convnext_nano_ols": _overlapping(_V1, _NANO, 80, "80)"),
    "convnext_tiny": _convnext(_V1, _TINY, 96),
    "convnext_tiny_hnf": replace(_convnext(_V1, _TINY, 96), head="norm avgpool flatten fc"),
    "convnext_small": _convnext(_V1, _SMALL, 96),
    "convnext_base": _convnext(_V1, _SMALL, 128),
    "convnext_large": _convnext(_V1, _SMALL, 192),
    "convnext_large_mlp": replace(_convnext(_V1, _SMALL, 192), head="avgpool norm flatten fc(1536) act fc"),
    "convnext_xlarge": _convnext(_V1, _SMALL, 256),
    "convnext_xxlarge": replace(_convnext(_V1, (3, 4, 30, 3), 384), norm_eps=1e-5),
    "convnextv2_atto": _convnext(_V2, _ATTO, 40),
    "convnextv2_femto": _convnext(_V2, _ATTO, 48),
    "convnextv2_pico": _convnext(_V2, _ATTO, 64),
    "convnextv2_nano": _convnext(_V2, _NANO, 80),
    "convnextv2_tiny": _convnext(_V2, _TINY, 96),
    "convnextv2_small": _convnext(_V2, _SMALL, 96),
    "convnextv2_base": _convnext(_V2, _SMALL, 128),
    "convnextv2_large": _convnext(_V2, _SMALL, 192),
    "convnextv2_huge": _convnext(_V2, _SMALL, 352),
}


_DEPTHS_26 = (2, 2, 2, 2)
_TIMM_NF = "timm models/nfnet.py"
_NF = replace(
    BOTTLENECK,
    reference=f"Brock et al. 2021, arXiv:2101.08692, Sec. 4; {_TIMM_NF}",
    order="act mul(1/std) conv | act conv | act conv +",
    merge="scale(1,0.2)",
    norm="none",
    conv="scaled-standardized(eps=1e-5)",
    bias=True,
    stem_bias=True,
    shortcut="avg-project",
    stem="conv7/2(64) maxpool3/2",
    final="act",
)
_NF_SE = replace(_NF, order="act mul(1/std) conv | act conv | act conv se mul(2) +")
_NF_ECA = replace(_NF, order="act mul(1/std) conv | act conv | act conv eca mul(2) +")
_F = replace(
    _NF,
    reference=f"Brock et al. 2021, arXiv:2102.06171, Sec. 4 and Table 1; {_TIMM_NF}",
    depths=(1, 2, 6, 3),
    widths=(256, 512, 1536, 1536),
    expansion=1,
    convs="1(w//2), 3(w//2), 3(w//2), 1(w)",
    group_width=128,
    order="act mul(1/std) conv | act conv | act conv se(0.5) mul(2) +",
    act="gelu",
    stem="conv3/2(16) act conv3(32) act conv3(64) act conv3/2(128)",
    final="",
    head="conv1(3072) act avgpool flatten fc",
)
# The authors' own: the activation, not the weight, carries the gain; TensorFlow's padding; SkipInit.
_GAIN = f"act mul({ACT_GAINS['gelu']!r})"
_DM_F = replace(
    _F,
    reference="Brock et al. 2021, arXiv:2102.06171; github.com/google-deepmind/deepmind-research/tree/master/nfnets",
    order=f"{_GAIN} mul(1/std) conv | {_GAIN} conv | {_GAIN} conv se(0.5) mul(2) +",
    merge="skipinit scale(1,0.2)",
    conv="scaled-standardized(none,eps=1e-5)",
    padding="same",
    stem=_F.stem.replace("act", _GAIN),
    head=_F.head.replace("act", _GAIN),
)
_L = replace(
    _F,
    reference=_TIMM_NF,
    convs="1(w//4), 3(w//4), 3(w//4), 1(w)",
    group_width=64,
    order="act mul(1/std) conv | act conv | act conv se(0.25) mul(2) +",
    act="silu",
)
_ECA_L = replace(_L, order="act mul(1/std) conv | act conv | act conv eca mul(2) +")
_SMALL_HEAD = "conv1(2304) act avgpool flatten fc"
_REG = replace(
    _NF,
    reference=f"Brock et al. 2021, arXiv:2101.08692, Sec. 4.3; {_TIMM_NF}",
    strides=(2, 2, 2, 2),
    expansion=1,
    convs="1(divisible(in*(2.25-1.25*first))), 3(divisible(in*(2.25-1.25*first))), 1(w)",
    group_width=8,
    order="act mul(1/std) conv | act conv se(0.5) mul(2) | act conv +",
    act="silu",
    final="",
)


def _nf(depths: tuple[int, ...], widths: tuple[int, ...], num_features: int) -> Arch:
    stem, head = f"conv3/2({widths[0]})", f"conv1({num_features}) act avgpool flatten fc"
    return replace(_REG, depths=depths, widths=widths, stem=stem, head=head)


NFNET: dict[str, Arch] = {
    "nf_resnet26": replace(_NF, depths=_DEPTHS_26),
    "nf_resnet50": replace(_NF, depths=DEPTHS_34),
    "nf_resnet101": replace(_NF, depths=DEPTHS_101),
    "nf_seresnet26": replace(_NF_SE, depths=_DEPTHS_26),
    "nf_seresnet50": replace(_NF_SE, depths=DEPTHS_34),
    "nf_seresnet101": replace(_NF_SE, depths=DEPTHS_101),
    "nf_ecaresnet26": replace(_NF_ECA, depths=_DEPTHS_26),
    "nf_ecaresnet50": replace(_NF_ECA, depths=DEPTHS_34),
    "nf_ecaresnet101": replace(_NF_ECA, depths=DEPTHS_101),
    "nfnet_l0": replace(_L, head=_SMALL_HEAD),
    "eca_nfnet_l0": replace(_ECA_L, head=_SMALL_HEAD),
    "eca_nfnet_l1": replace(_ECA_L, depths=(2, 4, 12, 6)),
    "eca_nfnet_l2": replace(_ECA_L, depths=(3, 6, 18, 9)),
    "eca_nfnet_l3": replace(_ECA_L, depths=(4, 8, 24, 12)),
    "nf_regnet_b0": _nf((1, 3, 6, 6), (40, 80, 160, 328), 960),
    "nf_regnet_b1": _nf((2, 4, 7, 7), (40, 80, 160, 328), 960),
    "nf_regnet_b2": _nf((2, 4, 8, 8), (40, 88, 176, 368), 1064),
    "nf_regnet_b3": _nf((2, 5, 9, 9), (40, 96, 184, 400), 1152),
    "nf_regnet_b4": _nf((2, 6, 11, 11), (48, 112, 216, 464), 1344),
    "nf_regnet_b5": _nf((3, 7, 14, 14), (64, 128, 256, 528), 1536),
}
# F_n has n + 1 times the blocks of F_0.
for _n in range(8):
    NFNET[f"nfnet_f{_n}"] = replace(_F, depths=tuple(depth * (_n + 1) for depth in _F.depths))
for _n in range(7):
    NFNET[f"dm_nfnet_f{_n}"] = replace(_DM_F, depths=tuple(depth * (_n + 1) for depth in _F.depths))
