"""Networks without norms whose weights are standardized: NF-ResNet, NF-RegNet, NFNet."""

from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.operations import ACT_GAINS
from reslab.spec.zoo.imagenet import BOTTLENECK, DEPTHS_34, DEPTHS_101

_DEPTHS_26 = (2, 2, 2, 2)
_TIMM = "timm models/nfnet.py"
_NF = replace(
    BOTTLENECK,
    reference=f"Brock et al. 2021, arXiv:2101.08692, Sec. 4; {_TIMM}",
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
    reference=f"Brock et al. 2021, arXiv:2102.06171, Sec. 4 and Table 1; {_TIMM}",
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
    reference=_TIMM,
    convs="1(w//4), 3(w//4), 3(w//4), 1(w)",
    group_width=64,
    order="act mul(1/std) conv | act conv | act conv se(0.25) mul(2) +",
    act="silu",
)
_ECA_L = replace(_L, order="act mul(1/std) conv | act conv | act conv eca mul(2) +")
_SMALL_HEAD = "conv1(2304) act avgpool flatten fc"
_REG = replace(
    _NF,
    reference=f"Brock et al. 2021, arXiv:2101.08692, Sec. 4.3; {_TIMM}",
    strides=(2, 2, 2, 2),
    expansion=1,
    convs="1(divisible(in*(2.25-1.25*first))), 3(divisible(in*(2.25-1.25*first))), 1(w)",
    group_width=8,
    order="act mul(1/std) conv | act conv se(0.5) mul(2) | act conv +",
    act="silu",
    final="",
)


def _sized(depths: tuple[int, ...], widths: tuple[int, ...], num_features: int) -> Arch:
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
    "nf_regnet_b0": _sized((1, 3, 6, 6), (40, 80, 160, 328), 960),
    "nf_regnet_b1": _sized((2, 4, 7, 7), (40, 80, 160, 328), 960),
    "nf_regnet_b2": _sized((2, 4, 8, 8), (40, 88, 176, 368), 1064),
    "nf_regnet_b3": _sized((2, 5, 9, 9), (40, 96, 184, 400), 1152),
    "nf_regnet_b4": _sized((2, 6, 11, 11), (48, 112, 216, 464), 1344),
    "nf_regnet_b5": _sized((3, 7, 14, 14), (64, 128, 256, 528), 1536),
}
# F_n has n + 1 times the blocks of F_0.
for _n in range(8):
    NFNET[f"nfnet_f{_n}"] = replace(_F, depths=tuple(depth * (_n + 1) for depth in _F.depths))
for _n in range(7):
    NFNET[f"dm_nfnet_f{_n}"] = replace(_DM_F, depths=tuple(depth * (_n + 1) for depth in _F.depths))
