"""RegNet X, Y, Z and V: widths and depths quantized from a line (Radosavovic et al. 2020, Eqs. 2 to 4)."""

from dataclasses import replace

from reslab.spec.arch import Arch

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


def _sized(base: Arch, group_width: int | tuple[int, ...], depths: tuple[int, ...], widths: tuple[int, ...]) -> Arch:
    return replace(base, group_width=group_width, depths=depths, widths=widths)


REGNET: dict[str, Arch] = {
    "regnetx_002": _sized(_X, 8, (1, 1, 4, 7), (24, 56, 152, 368)),
    "regnetx_004": _sized(_X, 16, (1, 2, 7, 12), (32, 64, 160, 384)),
    "regnetx_004_tv": _sized(_X, 16, (1, 2, 7, 12), (32, 64, 160, 400)),
    "regnetx_006": _sized(_X, 24, (1, 3, 5, 7), (48, 96, 240, 528)),
    "regnetx_008": _sized(_X, 16, (1, 3, 7, 5), (64, 128, 288, 672)),
    "regnetx_016": _sized(_X, 24, (2, 4, 10, 2), (72, 168, 408, 912)),
    "regnetx_032": _sized(_X, 48, (2, 6, 15, 2), (96, 192, 432, 1008)),
    "regnetx_040": _sized(_X, 40, (2, 5, 14, 2), (80, 240, 560, 1360)),
    "regnetx_064": _sized(_X, 56, (2, 4, 10, 1), (168, 392, 784, 1624)),
    "regnetx_080": _sized(_X, (80, 120, 120, 120), (2, 5, 15, 1), (80, 240, 720, 1920)),
    "regnetx_120": _sized(_X, 112, (2, 5, 11, 1), (224, 448, 896, 2240)),
    "regnetx_160": _sized(_X, 128, (2, 6, 13, 1), (256, 512, 896, 2048)),
    "regnetx_320": _sized(_X, 168, (2, 7, 13, 1), (336, 672, 1344, 2520)),
    "regnety_002": _sized(_Y, 8, (1, 1, 4, 7), (24, 56, 152, 368)),
    "regnety_004": _sized(_Y, 8, (1, 3, 6, 6), (48, 104, 208, 440)),
    "regnety_006": _sized(_Y, 16, (1, 3, 7, 4), (48, 112, 256, 608)),
    "regnety_008": _sized(_Y, 16, (1, 3, 8, 2), (64, 128, 320, 768)),
    "regnety_008_tv": _sized(_Y, 16, (1, 3, 8, 2), (64, 144, 320, 784)),
    "regnety_016": _sized(_Y, 24, (2, 6, 17, 2), (48, 120, 336, 888)),
    "regnety_032": _sized(_Y, 24, (2, 5, 13, 1), (72, 216, 576, 1512)),
    "regnety_040": _sized(_Y, 64, (2, 6, 12, 2), (128, 192, 512, 1088)),
    "regnety_064": _sized(_Y, 72, (2, 7, 14, 2), (144, 288, 576, 1296)),
    "regnety_080": _sized(_Y, 56, (2, 4, 10, 1), (168, 448, 896, 2016)),
    "regnety_080_tv": _sized(_Y, 56, (2, 4, 10, 1), (224, 448, 896, 2016)),
    "regnety_120": _sized(_Y, 112, (2, 5, 11, 1), (224, 448, 896, 2240)),
    "regnety_160": _sized(_Y, 112, (2, 4, 11, 1), (224, 448, 1232, 3024)),
    "regnety_320": _sized(_Y, 232, (2, 5, 12, 1), (232, 696, 1392, 3712)),
    "regnety_640": _sized(_Y, 328, (2, 5, 12, 1), (328, 984, 1968, 4920)),
    "regnety_1280": _sized(_Y, 264, (2, 7, 17, 1), (528, 1056, 2904, 7392)),
    "regnety_2560": _sized(_Y, 373, (2, 7, 17, 1), (746, 1492, 4103, 10444)),
    "regnety_040_sgn": replace(
        _sized(_Y, 64, (2, 6, 12, 2), (128, 192, 512, 1088)), act="silu", norm="group(size=16)", order=_Z.order + " act"
    ),
    "regnetv_040": _sized(_V, 64, (2, 6, 12, 2), (128, 192, 512, 1088)),
    "regnetv_064": replace(_sized(_V, 72, (2, 7, 14, 2), (144, 288, 576, 1296)), shortcut="avg-project"),
    "regnetz_005": replace(
        _sized(_Z, 4, (1, 4, 9, 7), (16, 40, 104, 256)), head="conv1(1024) norm act avgpool flatten fc"
    ),
    "regnetz_040": replace(_sized(_Z, 8, (2, 6, 14, 6), (48, 104, 240, 528)), final="act"),
    "regnetz_040_h": replace(
        _sized(_Z, 8, (2, 6, 14, 6), (48, 104, 240, 528)), head="conv1(1536) norm act avgpool flatten fc"
    ),
}
