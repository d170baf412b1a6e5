"""ConvNeXt and ConvNeXt V2: a depthwise 7x7 convolution, one norm, an inverted bottleneck."""

from dataclasses import replace

from reslab.spec.arch import Arch

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


def _sized(base: Arch, depths: tuple[int, ...], width: int) -> Arch:
    """Return a network whose stages have widths w, 2w, 4w, 8w, with patches of 4x4 as its stem."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return replace(base, depths=depths, widths=widths, stem=f"conv4/4({width}) norm")


def _overlapping(base: Arch, depths: tuple[int, ...], width: int, middle: str) -> Arch:
    """Return the same with two strided 3x3 convolutions as its stem."""
    return replace(_sized(base, depths, width), stem=f"conv3/2({middle} conv3/2({width}) norm")


CONVNEXT: dict[str, Arch] = {
    "convnext_zepto_rms": replace(_sized(_V1, (2, 2, 4, 2), 32), norm="simple"),
    "convnext_zepto_rms_ols": replace(_overlapping(_V1, (2, 2, 4, 2), 32, "32) act"), norm="simple"),
    "convnext_atto": _sized(_V1, _ATTO, 40),
    "convnext_atto_ols": _overlapping(_V1, _ATTO, 40, "24)"),
    "convnext_atto_rms": replace(_sized(_V1, _ATTO, 40), norm="rms"),
    "convnext_femto": _sized(_V1, _ATTO, 48),
    "convnext_femto_ols": _overlapping(_V1, _ATTO, 48, "24)"),
    "convnext_pico": _sized(_V1, _ATTO, 64),
    "convnext_pico_ols": _overlapping(_V1, _ATTO, 64, "32)"),
    "convnext_nano": _sized(_V1, _NANO, 80),
    "convnext_nano_ols": _overlapping(_V1, _NANO, 80, "80)"),
    "convnext_tiny": _sized(_V1, _TINY, 96),
    "convnext_tiny_hnf": replace(_sized(_V1, _TINY, 96), head="norm avgpool flatten fc"),
    "convnext_small": _sized(_V1, _SMALL, 96),
    "convnext_base": _sized(_V1, _SMALL, 128),
    "convnext_large": _sized(_V1, _SMALL, 192),
    "convnext_large_mlp": replace(_sized(_V1, _SMALL, 192), head="avgpool norm flatten fc(1536) act fc"),
    "convnext_xlarge": _sized(_V1, _SMALL, 256),
    "convnext_xxlarge": replace(_sized(_V1, (3, 4, 30, 3), 384), norm_eps=1e-5),
    "convnextv2_atto": _sized(_V2, _ATTO, 40),
    "convnextv2_femto": _sized(_V2, _ATTO, 48),
    "convnextv2_pico": _sized(_V2, _ATTO, 64),
    "convnextv2_nano": _sized(_V2, _NANO, 80),
    "convnextv2_tiny": _sized(_V2, _TINY, 96),
    "convnextv2_small": _sized(_V2, _SMALL, 96),
    "convnextv2_base": _sized(_V2, _SMALL, 128),
    "convnextv2_large": _sized(_V2, _SMALL, 192),
    "convnextv2_huge": _sized(_V2, _SMALL, 352),
}
