"""One or two networks of each family against timm's: keys, outputs and gradients, and that the comparison can fail."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import timm
import torch
from agreement import gradients, images, randomise

from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES
from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.factory import create_model

LAYERS, DEPTHS = {"layers": (1, 1, 2, 1)}, {"depths": (1, 1, 2, 1)}


@dataclass(frozen=True)
class Family:
    """A network of timm, what makes it small there, the key scheme of its weights, and an axis that is then wrong."""

    name: str
    options: dict
    scheme: str
    wrong: dict
    size: int = 48


FAMILIES = [
    Family("resnet10t", {}, "torchvision", {"stride_conv": 2}),
    Family("seresnext26d_32x4d", LAYERS, "torchvision", {"order": "conv norm act | conv norm se(act=silu) + act"}),
    Family("resnet50_gn", LAYERS, "torchvision", {"norm": "group(16)"}),
    Family("senet154", LAYERS, "torchvision", {"stem": "conv3/2(64) norm act conv3(64) norm act conv3(128) norm"}),
    Family("resnetblur18", {}, "torchvision", {"stem": "conv7/2(64) norm act maxpool3/2"}, size=64),
    Family("resnetaa50", LAYERS, "torchvision", {"order": "original"}, size=64),
    Family("ecaresnet26t", LAYERS, "timm eca", {"stride_conv": 1}),
    Family("resnetrs50", LAYERS, "timm rs", {"stride_conv": 1}),
    Family("res2net50_26w_4s", LAYERS, "timm res2net", {"act": "silu"}),
    Family("res2next50", LAYERS, "timm res2net", {"stride_conv": 1}),
    Family("skresnet18", {}, "timm sknet basic", {"act": "silu"}),
    Family("skresnext50_32x4d", LAYERS, "timm sknet", {"act": "silu"}),
    Family("resnest14d", {}, "timm resnest", {"order": "conv norm act | conv(split(2)) | conv norm + act"}),
    Family("resnest50d_1s4x24d", LAYERS, "timm resnest", {"order": "conv norm act | conv(split(1)) | conv norm + act"}),
    Family("legacy_seresnet18", {}, "timm legacy senet", {"stem": "conv7/2(64) norm act maxpool3/2"}),
    Family("legacy_senet154", LAYERS, "timm legacy senet154", {"shortcut": "project3", "stride_conv": 1}),
    Family("resnetv2_18", {}, "timm v2", {"order": "full-preact"}),
    Family("resnetv2_50x1_bit", {}, "timm v2", {"conv": "standardized(1e-2)"}),
    Family("resnetv2_50d_gn", LAYERS, "timm v2 d", {"norm": "group(16)"}),
    Family("resnetv2_50d_evos", LAYERS, "timm v2 norm-act", {"norm": "evonorm-s0(16)"}),
    Family("resnetv2_50d_frn", LAYERS, "timm v2 norm-act", {"norm_eps": 1e-2}),
    Family("regnetx_002", {}, "timm regnet", {"stride_conv": 1}),
    Family("regnety_004", {}, "timm regnet", {"act": "silu"}),
    Family("regnetz_005", {}, "timm regnet", {"act": "relu"}),
    Family("regnetv_040", {}, "timm regnetv", {"act": "relu"}),
    Family("nf_seresnet26", DEPTHS, "timm nfnet", {"merge": "scale(1,0.3)"}),
    Family("nf_regnet_b0", {}, "timm nfnet", {"order": "act conv | act conv se(0.5) mul(2) | act conv +"}),
    Family("eca_nfnet_l0", {}, "timm nfnet deep", {"conv": "scaled-standardized(none,eps=1e-5)"}),
    Family("dm_nfnet_f0", DEPTHS, "timm dm nfnet", {"padding": "zeros"}),
    Family("convnext_atto", {}, "timm convnext", {"act": "gelu-tanh"}),
    Family("convnext_atto_rms", {}, "timm convnext", {"norm": "simple"}),
    Family("convnext_tiny_hnf", DEPTHS, "timm convnext head norm first", {"head": "avgpool norm flatten fc"}, size=64),
    Family("convnext_pico_ols", {}, "timm convnext overlap", {"norm_eps": 1e-3}),
    Family("convnext_zepto_rms_ols", {}, "timm convnext overlap act", {"norm": "rms"}),
    Family("convnext_large_mlp", DEPTHS, "timm convnext mlp", {"act": "relu"}),
    Family("convnextv2_atto", {}, "timm convnext", {"norm_eps": 1e-2}),
]


@contextmanager
def float64_throughout():
    """Keep timm's norms that compute in float32 in the precision of their input."""
    original = torch.Tensor.float
    torch.Tensor.float = lambda tensor: tensor
    try:
        yield
    finally:
        torch.Tensor.float = original


def build_theirs(family):
    """Return timm's network with every weight and statistic drawn at random."""
    theirs = timm.create_model(family.name, num_classes=5, **family.options).double().eval()
    randomise(theirs)
    return theirs


def load_ours(family, theirs, **overrides):
    """Return our network with timm's weights, through our loader; without `overrides` it gives no warning."""
    depths = family.options.get("layers") or family.options.get("depths")
    axes = {"num_classes": 5, **({"depths": depths} if depths else {}), **overrides}
    with torch.device("meta"):
        ours = create_model(family.name, **axes)
    ours = ours.double().to_empty(device="cpu").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if overrides else "error")
        load_checkpoint(ours, unwrap_checkpoint(family.name, theirs.state_dict()))
    return ours


def difference(ours, theirs):
    scale = theirs.abs().max()
    assert torch.isfinite(scale)
    assert scale > 0
    return float((ours - theirs).abs().max() / scale)


LARGE = {"senet154", "legacy_senet154", "regnetv_040", "dm_nfnet_f0", "convnext_large_mlp", "resnetv2_50x1_bit"}
CASES = [pytest.param(family, id=family.name, marks=[pytest.mark.soak] * (family.name in LARGE)) for family in FAMILIES]


@pytest.mark.parametrize("family", CASES)
def test_a_network_of_each_family_is_timms(family):
    """Outputs agree within 1e-9, gradients within 1e-8 of the largest; one wrong operation changes the outputs."""
    theirs = build_theirs(family)
    ours = load_ours(family, theirs)
    assert ours.load_report.key_scheme == family.scheme
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = images(1, 3, family.size, family.size)
    with float64_throughout():
        y, ours_grads = gradients(ours, dict(ours.named_parameters()), x, None)
        expected, their_grads = gradients(theirs, dict(theirs.named_parameters()), x, None)
    assert difference(y, expected) <= 1e-9
    assert difference(ours_grads["input"], their_grads["input"]) <= 1e-8
    norms = sorted(float(grad.norm()) for grad in ours_grads.values())
    assert norms == pytest.approx(sorted(float(grad.norm()) for grad in their_grads.values()), rel=1e-8, abs=1e-12)
    wrong = load_ours(family, theirs, **family.wrong)
    with torch.no_grad(), float64_throughout():
        assert difference(wrong(x), expected) > 1e-6


def test_every_key_scheme_of_timm_is_tested_here():
    assert {family.scheme for family in FAMILIES} - {"torchvision"} == {
        scheme.name for scheme in KEY_SCHEMES if scheme.name.startswith("timm")
    }
