"""Each key scheme: a transcribed network of its repository has the same outputs as ours with its weights."""

import warnings

import foreign
import pytest
import timm
import torch
import torchvision
from agreement import assert_close, images, randomise
from timm.models.resnetv2 import ResNetV2
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from reslab.nn.checkpoints.foreign_schemes import FOREIGN_SCHEMES
from reslab.nn.checkpoints.key_schemes import KEY_SCHEMES
from reslab.nn.checkpoints.load_report import CheckpointWarning
from reslab.nn.checkpoints.timm_schemes import TIMM_SCHEMES
from reslab.nn.factory import create_model

# timm's and some other modules do not tell whether blocks have pools.
pytestmark = pytest.mark.filterwarnings("ignore:nothing in the state dict distinguishes")
CIFAR = ((8, 16, 32), "conv3(8) norm act")
SMALL = {"depths": (2, 2, 2), "widths": CIFAR[0], "stem": CIFAR[1]}
PLAIN_STEM = {"depths": (2, 2), "widths": (8, 16), "strides": (1, 2), "stem": "conv3(8) norm act"}
DEEP_STEM = "conv3/2(32) norm act conv3(32) norm act conv3(64) norm act maxpool3/2"


def akamaster():
    return foreign.CifarNet(foreign.CifarUnit, "A", CIFAR[0])


def kuangliu():
    return foreign.CifarNet(foreign.CifarUnit, "B", CIFAR[0])


def kuangliu_bottleneck():
    return foreign.CifarNet(foreign.KuangliuBottleneck, "B", CIFAR[0])


def timm_v2(**options):
    options = {"preact": True, "conv_layer": timm.layers.create_conv2d, "stem_type": "", **options}
    norm = timm.layers.BatchNormAct2d
    return ResNetV2(layers=(1, 2, 1, 1), num_classes=10, norm_layer=norm, **options)


def torchvision_convnext():
    sizes = ((8, 16, 1), (16, 24, 2), (24, 32, 1), (32, None, 1))
    return ConvNeXt([CNBlockConfig(*size) for size in sizes], layer_scale=0.5, num_classes=10)


BOOK = {"num_blocks": 4, "shared": True}
SAME_OUTPUTS = {
    "akamaster": (akamaster, "resnet20_cifar", SMALL | {"shortcut": "pad-split"}),
    "kuangliu": (kuangliu, "resnet20_cifar", SMALL | {"shortcut": "project"}),
    "kuangliu bottleneck": (kuangliu_bottleneck, "resnet164_cifar", SMALL),
    "weiaicunzai": (foreign.Weiaicunzai, "resnet164_cifar", PLAIN_STEM),
    "xternalz": (foreign.Xternalz, "wrn16_8_cifar", {"depths": (2, 2, 2), "widths": (16, 32, 64)}),
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=10), "resnet18", {"num_classes": 10}),
    "timm v2": (timm_v2, "resnetv2_50", {"depths": (1, 2, 1, 1), "num_classes": 10}),
    "timm v2 d": (
        lambda: timm_v2(stem_type="deep", avg_down=True),
        "resnetv2_50",
        {"depths": (1, 2, 1, 1), "num_classes": 10, "stem": DEEP_STEM, "shortcut": "avg-project"},
    ),
    "torchvision convnext": (
        torchvision_convnext,
        "convnext_tiny",
        {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "stem": "conv4/4(8) norm", "num_classes": 10},
    ),
    "torchvision regnet": (
        lambda: torchvision.models.regnet_y_400mf(num_classes=10),
        "regnety_004",
        {"num_classes": 10},
    ),
    "torchvision regnet x": (
        lambda: torchvision.models.regnet_x_400mf(num_classes=10),
        "regnetx_004_tv",
        {"num_classes": 10},
    ),
    "d2l sequential": (foreign.d2l_sequential, "resnet18_d2l", {}),
    "d2l class": (foreign.D2lClass, "resnet18_d2l", {}),
    "d2l blocks": (foreign.d2l_named_blocks, "resnet18_d2l", {}),
    "book": (foreign.BookNet, "book_width", {}),
    "book dropout": (foreign.BookNet, "book_dropout", {}),
    "book batchnorm": (lambda: foreign.BookNet(norm=True), "book_batchnorm", {}),
    "book res": (lambda: foreign.BookNet(res=True), "book_res", {}),
    "book resdeep": (lambda: foreign.BookResDeep(4, shared=False), "book_resdeep_separate", {"depths": (4,)}),
    "book resdeep shared": (lambda: foreign.BookResDeep(4, shared=True), "book_resdeep", {"depths": (4,)}),
}


def loaded(theirs, name, axes):
    """Our network with their weights; a warning would be an error."""
    return create_model(name, pretrained=theirs.state_dict(), **axes)


@pytest.mark.parametrize("case", SAME_OUTPUTS)
def test_a_key_scheme_loads_to_the_same_outputs(case):
    make, name, axes = SAME_OUTPUTS[case]
    theirs = make()
    randomise(theirs)
    ours = loaded(theirs, name, axes)
    assert ours.load_report.is_complete
    assert not ours.load_report.by_order
    assert case.startswith(ours.load_report.key_scheme)
    side = 64 if ours.total_stride > 8 else 32
    x = images(2, ours.arch.in_channels, side, side, dtype=torch.float32)
    with torch.inference_mode():
        assert_close(ours.eval()(x), theirs.eval()(x), case)


def test_torchvisions_weights_go_both_ways():
    theirs = torchvision.models.resnet18()
    randomise(theirs)
    ours = loaded(theirs, "resnet18", {})
    back = torchvision.models.resnet18()
    back.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in theirs.state_dict().items())


# Keys of repositories that are not transcribed here, of one block and of stem and head: theirs and ours.
NAMES = {
    "prlz77": (
        ("resnext29_8x64d_cifar", {"depths": (1, 1, 1), "widths": (8, 16, 32), "stem": "conv3(8) norm act"}),
        {
            "conv_1_3x3.": "conv1.",
            "bn_1.": "bn1.",
            "classifier.": "fc.",
            "stage_2.stage_2_bottleneck_0.conv_reduce.": "layer2.0.conv1.",
            "stage_2.stage_2_bottleneck_0.bn_reduce.": "layer2.0.bn1.",
            "stage_2.stage_2_bottleneck_0.conv_conv.": "layer2.0.conv2.",
            "stage_2.stage_2_bottleneck_0.bn.": "layer2.0.bn2.",
            "stage_2.stage_2_bottleneck_0.conv_expand.": "layer2.0.conv3.",
            "stage_2.stage_2_bottleneck_0.bn_expand.": "layer2.0.bn3.",
            "stage_2.stage_2_bottleneck_0.shortcut.shortcut_conv.": "layer2.0.downsample.0.",
            "stage_2.stage_2_bottleneck_0.shortcut.shortcut_bn.": "layer2.0.downsample.1.",
        },
    ),
    "transformers": (
        ("resnet50", {"depths": (1, 1, 1, 1), "num_classes": 10}),
        {
            "resnet.embedder.embedder.convolution.": "conv1.",
            "resnet.embedder.embedder.normalization.": "bn1.",
            "resnet.encoder.stages.1.layers.0.shortcut.convolution.": "layer2.0.downsample.0.",
            "resnet.encoder.stages.1.layers.0.shortcut.normalization.": "layer2.0.downsample.1.",
            "resnet.encoder.stages.1.layers.0.layer.0.convolution.": "layer2.0.conv1.",
            "resnet.encoder.stages.1.layers.0.layer.0.normalization.": "layer2.0.bn1.",
            "resnet.encoder.stages.1.layers.0.layer.1.convolution.": "layer2.0.conv2.",
            "resnet.encoder.stages.1.layers.0.layer.1.normalization.": "layer2.0.bn2.",
            "resnet.encoder.stages.1.layers.0.layer.2.convolution.": "layer2.0.conv3.",
            "resnet.encoder.stages.1.layers.0.layer.2.normalization.": "layer2.0.bn3.",
            "classifier.1.": "fc.",
        },
    ),
    "mmpretrain": (
        ("resnet18", {"depths": (1, 1, 1, 1), "num_classes": 10}),
        {
            "backbone.conv1.": "conv1.",
            "backbone.bn1.": "bn1.",
            "head.fc.": "fc.",
            **{f"backbone.layer2.0.{part}.": f"layer2.0.{part}." for part in ("conv1", "bn1", "conv2", "bn2")},
            **{f"backbone.layer2.0.downsample.{i}.": f"layer2.0.downsample.{i}." for i in (0, 1)},
        },
    ),
    "fixup": (
        ("fixup110_cifar", {"depths": (1, 1, 1), "widths": (8, 16, 32), "stem": "conv3(8) bias act"}),
        {
            "conv1.": "conv1.",
            "bias1": "bias1.bias",
            "bias2": "bias.bias",
            "fc.": "fc.",
            "layer2.0.conv1.": "layer2.0.conv1.",
            "layer2.0.conv2.": "layer2.0.conv2.",
            "layer2.0.bias1a": "layer2.0.bias1.bias",
            "layer2.0.bias1b": "layer2.0.bias2.bias",
            "layer2.0.bias2a": "layer2.0.bias3.bias",
            "layer2.0.bias2b": "layer2.0.bias4.bias",
            "layer2.0.scale": "layer2.0.scale1.scale",
        },
    ),
    "dyhan0920": (
        ("pyramidnet110_cifar", {"depths": (1, 1, 1)}),
        {
            "conv1.": "conv1.",
            "bn1.": "bn1.",
            "bn_final.": "norm.",
            "fc.": "fc.",
            **{f"layer2.0.{part}.": f"layer2.0.{part}." for part in ("bn1", "conv1", "bn2", "conv2", "bn3")},
        },
    ),
}


def inverted(names, key, stages=4):
    """Our key in their names; a block of any stage is named as the one of stage 2."""
    for stage in range(1, stages + 1):
        for theirs, ours in names.items():
            ours_here = ours.replace("layer2.", f"layer{stage}.")
            if key.startswith(ours_here):
                for old, new in (("stages.1", f"stages.{stage - 1}"), ("stage_2", f"stage_{stage}")):
                    theirs = theirs.replace(old, new)
                return theirs.replace("layer2.", f"layer{stage}.") + key.removeprefix(ours_here)
    raise AssertionError(key)


@pytest.mark.parametrize("scheme", NAMES)
def test_keys_of_a_repository_are_translated(scheme):
    (name, axes), names = NAMES[scheme]
    ours = create_model(name, **axes)
    randomise(ours)
    theirs = {inverted(names, key): tensor for key, tensor in ours.state_dict().items()}
    again = create_model(name, pretrained=theirs, **axes)
    assert again.load_report.key_scheme == scheme
    assert again.load_report.is_complete
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in ours.state_dict().items())


def test_names_without_a_leaf_are_those_of_the_wide_networks_first_code():
    ours = create_model("wrn16_8_cifar", depths=(1, 1, 1), widths=(16, 32, 64))
    randomise(ours)
    state = {key: tensor for key, tensor in ours.state_dict().items() if not key.endswith("tracked")}
    theirs = {}
    for key, tensor in state.items():
        for stage in range(3):
            key = key.replace(f"layer{stage + 1}.0.", f"group{stage}.block0.")
        key = {"conv1.weight": "conv0"}.get(key, key).replace("norm.", "bn.")
        for new, old in (("conv1.weight", "conv0"), ("conv2.weight", "conv1"), ("downsample.0.weight", "convdim")):
            key = key.replace(f"block0.{new}", f"block0.{old}")
        theirs[key.replace("block0.bn1.", "block0.bn0.").replace("block0.bn2.", "block0.bn1.")] = tensor
    assert "group1.block0.convdim" in theirs
    again = create_model("wrn16_8_cifar", depths=(1, 1, 1), widths=(16, 32, 64), pretrained=theirs)
    assert again.load_report.key_scheme == "szagoruyko"
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in state.items())


PREACT = {
    "kuangliu preact": (
        "preresnet110_cifar",
        {"downsample.0": "shortcut.0", "fc.": "linear."},
        {"shortcut": "project"},
    ),
    "bearpaw preresnet": ("preresnet110_cifar", {"norm.": "bn."}, {"shortcut": "project"}),
    "meliketoy": (
        "wrn16_8_cifar",
        {"norm.": "bn1.", "downsample.0": "shortcut.0", "fc.": "linear."},
        {"bias": True, "stem_bias": True},
    ),
}


@pytest.mark.parametrize("scheme", PREACT)
def test_a_network_that_no_axis_covers_gives_a_warning(scheme):
    name, changes, axes = PREACT[scheme]
    axes = {"depths": (1, 1, 1), "widths": (16, 32, 64), **axes}
    theirs = {}
    for key, tensor in create_model(name, **axes).state_dict().items():
        for ours, other in changes.items():
            is_head = ours in ("norm.", "fc.")
            key = other + key.removeprefix(ours) if is_head and key.startswith(ours) else key
            key = key if is_head else key.replace(ours, other)
        theirs[key] = tensor
    if scheme == "kuangliu preact":
        theirs = {key: tensor for key, tensor in theirs.items() if not key.startswith("norm.")}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ours = create_model(name, pretrained=theirs, strict=False, **axes)
    assert ours.load_report.key_scheme == scheme
    assert ours.load_report.is_complete == (scheme != "kuangliu preact")
    assert any("differ in a way that no axis covers" in str(one.message) for one in seen)
    assert all(one.category is CheckpointWarning for one in seen)


def timm_families():
    """Return the schemes that tests/nn/test_families.py and test_dims.py cover."""
    return {scheme.name for scheme in TIMM_SCHEMES} | {"torchvision video"}


def other_frameworks():
    """Return the schemes that tests/nn/checkpoints/test_foreign_formats.py covers."""
    return {scheme.name for scheme in FOREIGN_SCHEMES if not scheme.name.startswith("torchvision")}


def test_every_key_scheme_is_tested_here():
    tried = {case for case in SAME_OUTPUTS if not case.endswith((" shared", "bottleneck", " regnet x"))}
    assert tried | set(NAMES) | set(PREACT) | {"szagoruyko"} | timm_families() | other_frameworks() == {
        scheme.name for scheme in KEY_SCHEMES
    }
    assert len({scheme.name for scheme in KEY_SCHEMES}) == len(KEY_SCHEMES)


IMPLIED = {
    "option A of akamaster": (
        akamaster,
        "resnet20_cifar",
        SMALL,
        "shortcut='pad-split'",
        "--set model.shortcut=pad-split",
    ),
    "the plain twin": (
        akamaster,
        "resnet20_cifar",
        SMALL | {"shortcut": "pad-split", "merge": "none"},
        "merge='add'",
        "",
    ),
    "another order": (
        kuangliu,
        "resnet20_cifar",
        SMALL | {"shortcut": "project", "order": "relu-before-add"},
        "order=",
        "",
    ),
    "the stride in the first 1x1": (
        kuangliu_bottleneck,
        "resnet164_cifar",
        SMALL | {"stride_conv": 1},
        "stride_conv=0",
        "",
    ),
}


@pytest.mark.parametrize("case", IMPLIED)
def test_a_key_scheme_that_implies_another_network_warns_and_names_the_override(case):
    make, name, axes, override, flag = IMPLIED[case]
    with pytest.warns(CheckpointWarning) as seen:
        create_model(name, pretrained=make().state_dict(), **axes)
    assert override in str(seen[0].message)
    assert flag in str(seen[0].message)
    assert seen[0].filename == __file__


def test_weights_load_into_a_network_with_drop_path():
    ours = loaded(akamaster(), "resnet20_cifar", SMALL | {"shortcut": "pad-split", "merge": "drop-path(0.2) add"})
    assert ours.load_report.is_complete


def test_shared_weights_in_a_network_of_separate_ones_are_warned_of():
    theirs = foreign.BookResDeep(4, shared=True).state_dict()
    with pytest.warns(CheckpointWarning, match="share_weights=True"):
        create_model("book_resdeep_separate", depths=(4,), pretrained=theirs)


def test_separate_weights_do_not_go_into_a_network_that_shares():
    theirs = foreign.BookResDeep(4, shared=False).state_dict()
    with pytest.raises(ValueError, match="unexpected in the file"):
        create_model("book_resdeep", depths=(4,), pretrained=theirs)
