"""Torchvision's family: its keys, its outputs, its gradients, its options, with the same weights in both directions."""

import functools
import itertools

import pytest
import torch
import torchvision
from agreement import assert_same, images, randomise
from torch import nn
from torchvision.models import resnet as reference
from torchvision.ops import FrozenBatchNorm2d

from reslab.nn.factory import create_model

FAMILY = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
]
GROUPED = {"groups": 4, "width_per_group": 24}


def shapes(module):
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in module.state_dict().items()]


def pair(name, layers=None, dtype=torch.float64, seed=0, theirs_too=None, **options):
    """Ours and torchvision's network with the same random weights, loaded from ours strictly."""
    block = reference.BasicBlock if name in ("resnet18", "resnet34") else reference.Bottleneck
    if layers is None:
        theirs = getattr(torchvision.models, name)(num_classes=5, **{**options, **(theirs_too or {})})
        ours = create_model(name, num_classes=5, **options)
    else:
        theirs = reference.ResNet(block, layers, num_classes=5, **{**options, **(theirs_too or {})})
        ours = create_model(name, depths=layers, num_classes=5, **options)
    randomise(ours.to(dtype), seed)
    theirs.to(dtype).load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("name", FAMILY)
def test_keys_shapes_and_order_are_torchvisions(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), getattr(torchvision.models, name)()
    assert shapes(ours) == shapes(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_whole_networks_give_torchvisions_outputs_and_gradients(name, dtype):
    ours, theirs = pair(name, dtype=dtype)
    assert_same(ours, theirs, images(2, 3, 64, 64, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("resnet34", torch.float64),
        ("resnext50_32x4d", torch.float64),
        ("resnext50_32x4d", torch.float32),
        ("wide_resnet50_2", torch.float64),
    ],
    ids=str,
)
def test_the_other_blocks_give_torchvisions_outputs_and_gradients(name, dtype):
    options = {"resnext50_32x4d": {"groups": 32, "width_per_group": 4}, "wide_resnet50_2": {"width_per_group": 128}}
    ours, theirs = pair(name, (1, 2, 1, 1), dtype, **options.get(name, {}))
    assert_same(ours, theirs, images(2, 3, 32, 56, dtype=dtype))


def test_weights_load_strictly_in_both_directions():
    theirs = torchvision.models.resnet18()
    ours = create_model("resnet18")
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(1, 3, 64, 64, dtype=torch.float32)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dilated", list(itertools.product((False, True), repeat=3)))
def test_every_triple_of_dilations(dilated):
    ours, theirs = pair("resnet50", (1, 2, 1, 2), replace_stride_with_dilation=dilated, width_per_group=16)
    assert_same(ours, theirs, images(2, 3, 32, 48))


def test_dilation_together_with_groups_and_base_width():
    ours, theirs = pair("resnet50", (1, 2, 2, 1), replace_stride_with_dilation=(True, False, True), **GROUPED)
    assert_same(ours, theirs, images(2, 3, 32, 48))


@pytest.mark.parametrize(("dilated", "side"), [((False, False, True), 14), ((False, True, True), 28)])
def test_a_dilated_resnet50_ends_at_14_or_28(dilated, side):
    with torch.device("meta"):
        model = create_model("resnet50", replace_stride_with_dilation=dilated)
        last = model.features(torch.empty(1, 3, 224, 224))["layer4"]
    assert last.shape == (1, 2048, side, side)


@pytest.mark.parametrize("dilated", [(True,), (False, True), (True, False, True, False)])
def test_another_number_of_dilations_is_an_error_that_names_the_stages(dilated):
    with pytest.raises(ValueError, match="layer2, layer3, layer4"):
        create_model("resnet50", replace_stride_with_dilation=dilated)


def test_torchvisions_spelling_of_no_dilations_is_accepted():
    with torch.device("meta"):
        model = create_model("resnet50", replace_stride_with_dilation=None)
    assert model.arch.replace_stride_with_dilation == ()


@pytest.mark.parametrize("given", ["maybe", (1.5, 2.5, 3.5), ("a", "b", "c"), 7])
def test_dilations_that_are_no_truth_values_are_an_error(given):
    with pytest.raises(ValueError, match=r"replace_stride_with_dilation .* one each for layer2, layer3, layer4"):
        create_model("resnet50", replace_stride_with_dilation=given)


@pytest.mark.parametrize(
    ("norm", "layer"),
    [
        ("group(8)", functools.partial(nn.GroupNorm, 8)),
        ("frozen", FrozenBatchNorm2d),
        ("none", lambda channels: nn.Identity()),
    ],
    ids=["group", "frozen", "none"],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_other_norms(name, norm, layer):
    theirs = (reference.BasicBlock if name == "resnet18" else reference.Bottleneck, [1, 2, 1, 1])
    theirs = reference.ResNet(*theirs, num_classes=5, norm_layer=layer).double()
    ours = create_model(name, depths=(1, 2, 1, 1), num_classes=5, norm=norm).double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same(ours, theirs, images(2, 3, 40, 40))


@pytest.mark.parametrize(
    "layer",
    [functools.partial(nn.GroupNorm, 4), nn.InstanceNorm2d, functools.partial(nn.BatchNorm2d, eps=0.1, momentum=0.5)],
    ids=["group", "instance", "batch"],
)
def test_a_norm_given_as_a_callable(layer):
    ours, theirs = pair("resnet18", (1, 1, 1, 1), norm_layer=layer)
    assert shapes(ours) == shapes(theirs)
    assert_same(ours, theirs, images(2, 3, 64, 64))
    assert ours.arch.norm == "custom"


def test_zero_init_residual_zeroes_the_same_norms_as_torchvision():
    for name, layers in [("resnet18", (2, 1, 1, 1)), ("resnet50", (2, 1, 1, 1))]:
        theirs = getattr(reference, "BasicBlock" if name == "resnet18" else "Bottleneck")
        theirs = reference.ResNet(theirs, layers, zero_init_residual=True).state_dict()
        ours = create_model(name, depths=layers, zero_init_residual=True).state_dict()
        zero = {key for key, tensor in theirs.items() if key.endswith("weight") and not tensor.any()}
        assert zero
        assert zero == {key for key, tensor in ours.items() if key.endswith("weight") and not tensor.any()}


def test_zero_init_residual_with_norms_that_have_no_weight_or_with_none():
    create_model("resnet18", depths=(1, 1, 1, 1), norm_layer=nn.InstanceNorm2d, zero_init_residual=True)
    create_model("resnet18", depths=(1, 1, 1, 1), norm_layer=lambda channels: nn.Identity(), zero_init_residual=True)
    with pytest.raises(ValueError, match="norm=none"):
        create_model("resnet18", norm="none", zero_init_residual=True)


def test_other_classes_and_channels():
    ours = create_model("resnet18", num_classes=7, in_channels=5, depths=(1, 1, 1, 1))
    assert ours(images(2, 5, 32, 32, dtype=torch.float32)).shape == (2, 7)
    assert create_model("resnet18", in_chans=1, depths=(1, 1, 1, 1)).arch.in_channels == 1


def test_no_activation_is_in_place_and_each_use_has_its_own():
    model = create_model("resnet50")
    acts = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    assert len(acts) == 1 + 16 * 3
    assert not any(act.inplace for act in acts)


def test_two_names_of_one_axis_must_agree():
    with pytest.raises(ValueError, match="two names of one axis"):
        create_model("resnet20_cifar", in_chans=1, in_channels=3)
