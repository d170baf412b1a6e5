"""Pre-activated ResNets beyond the paper's: basic blocks, deep stems, BiT, and norms that need no batch."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.zoo.imagenet import BASIC, BOTTLENECK, DEPTHS_34, DEPTHS_101, DEPTHS_152

_TIMM = "timm models/resnetv2.py"
_DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) maxpool3/2"
_V2 = replace(BOTTLENECK, reference=f"He et al. 2016, arXiv:1603.05027; {_TIMM}", order="full-preact")
_V2_BASIC = replace(BASIC, reference=_V2.reference, order="full-preact-identity")
_V2_D = replace(_V2, stem=_DEEP_STEM, shortcut="avg-project")
# The norm holds the activation too.
_V2_NORM_ACT = replace(_V2_D, order="norm conv | norm conv +", stem=_DEEP_STEM.replace(" act", ""))
_BIT = replace(
    _V2,
    reference=f"Kolesnikov et al. 2020, arXiv:1912.11370, Sec. 3; {_TIMM}",
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
