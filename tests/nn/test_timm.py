"""timm's networks: their keys, outputs and gradients with the same weights, and their feature maps."""

import re

import pytest
import timm
import torch
from agreement import assert_close, assert_same, images, randomise
from timm.layers import DropPath as TimmDropPath
from timm.layers import SqueezeExcite as TimmSqueezeExcite
from timm.models.resnet import BasicBlock, ResNet

from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.factory import create_model
from reslab.nn.merge import DropPath
from reslab.nn.registry import Site, make_layer
from reslab.spec.grammar import Op
from reslab.spec.shortcut import drop_path_rate
from reslab.spec.zoo.resolve import get_arch

SAME_KEYS = [
    *("resnet26", "resnet200", "resnet18d", "resnet26d", "resnet34d", "resnet50d", "resnet101d", "resnet152d"),
    *("resnet200d", "resnet50c", "seresnet50", "resnext101_32x4d"),
]
SHALLOW = (1, 2, 1, 1)


def rename_v2(name):
    """Our name of a weight of `resnetv2` as timm's."""
    name = re.sub(r"^conv1\.", "stem.conv.", name)
    name = re.sub(r"^layer(\d)\.(\d+)", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}", name)
    name = name.replace(".bn", ".norm").replace("downsample.0", "downsample.conv")
    return re.sub(r"^fc\.", "head.fc.", name)


def same(name):
    return name


def shapes(module, rename=same):
    return [(rename(name), tuple(tensor.shape)) for name, tensor in module.state_dict().items()]


def pair(name, rename=same, layers=None, **axes):
    ours = create_model(name, num_classes=5, **({"depths": layers} if layers else {}), **axes).double()
    theirs = timm.create_model(name, num_classes=5, **({"layers": layers} if layers else {})).double()
    randomise(ours)
    expected = theirs.state_dict()
    renamed = {rename(key): tensor for key, tensor in ours.state_dict().items()}
    theirs.load_state_dict({key: tensor.reshape(expected[key].shape) for key, tensor in renamed.items()}, strict=True)
    return ours, theirs


@pytest.mark.parametrize("name", SAME_KEYS)
def test_keys_shapes_and_order_are_timms(name):
    with torch.device("meta"):
        assert shapes(create_model(name)) == shapes(timm.create_model(name))


@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_101", "resnetv2_152"])
def test_resnetv2_is_timms_by_renaming_alone(name):
    with torch.device("meta"):
        ours, theirs = dict(shapes(create_model(name), rename_v2)), dict(shapes(timm.create_model(name)))
    head = ours.pop("head.fc.weight")
    assert (*head, 1, 1) == theirs.pop("head.fc.weight")
    assert ours == theirs


@pytest.mark.parametrize("name", ["resnet26", "resnet18d"])
def test_whole_networks_give_timms_outputs_and_gradients(name):
    ours, theirs = pair(name)
    assert_same(ours, theirs, images(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["resnet34d", "resnet50d", "resnet50c", "seresnet50"])
def test_the_other_blocks_give_timms_outputs_and_gradients(name):
    ours, theirs = pair(name, layers=SHALLOW)
    assert_same(ours, theirs, images(2, 3, 40, 56))


def test_resnetv2_gives_timms_outputs_and_gradients():
    ours, theirs = pair("resnetv2_50", rename_v2, layers=SHALLOW)
    assert_same(ours, theirs, images(2, 3, 40, 56), rename_v2)


def test_the_whole_resnetv2_50_at_test():
    ours, theirs = pair("resnetv2_50", rename_v2)
    with torch.no_grad():
        assert_close(ours.eval()(images(2, 3, 64, 64)), theirs.eval()(images(2, 3, 64, 64)), "resnetv2_50")


def test_the_dilation_begins_after_the_convolution_that_would_be_strided():
    ours = create_model("resnet18", depths=(1, 1, 1, 1), replace_stride_with_dilation=(False, False, True))
    theirs = ResNet(BasicBlock, [1, 1, 1, 1], output_stride=16).layer4[0]
    for block in (dict(ours.blocks())["layer4.0"], theirs):
        assert (block.conv1.stride, block.conv1.dilation, block.conv2.dilation) == ((1, 1), (1, 1), (2, 2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "resnetv2_50"])
def test_features_are_timms(name):
    rename = rename_v2 if name.startswith("resnetv2") else same
    theirs = timm.create_model(name, features_only=True, layers=SHALLOW).double().eval()
    ours = create_model(name, features_only=True, depths=SHALLOW).double().eval()
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    randomise(ours)
    flat = {key.replace(".", "_"): tensor for key, tensor in theirs.state_dict().items()}
    for key, tensor in ours.state_dict().items():
        flat.pop(rename(key.removeprefix("network.")).replace(".", "_")).copy_(tensor)
    assert not {key for key in flat if not key.startswith("norm")}, "a weight of timm's is left as it was"
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        for number, (our, their) in enumerate(zip(ours(x), theirs(x), strict=True)):
            assert_close(our, their, f"feature {number} of {name}")


def se(channels, ratio):
    return make_layer(Op("se", (ratio,)), Site(get_arch("seresnet50"), channels, None))


@pytest.mark.parametrize("channels", [16, 48, 72, 200, 328, 1000])
@pytest.mark.parametrize("ratio", [1 / 16, 1 / 4])
def test_squeeze_and_excitation_is_timms(channels, ratio):
    ours, theirs = se(channels, ratio).double(), TimmSqueezeExcite(channels, rd_ratio=ratio).double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_same(ours, theirs, images(2, channels, 3, 4))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_drop_path_draws_as_timms_does(rate):
    """The same values for the same draws, and the same frequency: a sample is dropped whole or divided by 1 - p."""
    ours, theirs = DropPath(rate), TimmDropPath(rate)
    x = images(4000, 2, 1, 1)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    torch.manual_seed(0)
    y, expected = ours.train()(x), theirs.train()(x)
    factors = {round(value, 6) for value in (y / x).flatten().tolist()}
    assert factors == {round(value, 6) for value in (expected / x).flatten().tolist()}
    kept = (y != 0).double().mean().item()
    assert abs(kept - (1 - rate)) <= 5 * (rate * (1 - rate) / len(x)) ** 0.5
    assert torch.equal((y[:, 0] != 0), (y[:, 1] != 0))


def test_drop_path_rates_rise_as_timms_do():
    theirs = timm.create_model("resnet18", drop_path_rate=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for k in range(1, 5) for block in getattr(theirs, f"layer{k}")]
    ours = create_model("resnet18", merge="drop-path(0.2) add")
    assert [block.merge.branch_modifiers[0].rate for _, block in ours.blocks()] == pytest.approx(rates)
    assert [drop_path_rate(0.2, i, 8) for i in range(8)] == pytest.approx(rates)


@pytest.mark.filterwarnings("ignore:nothing in the state dict distinguishes resnet18 from")
@pytest.mark.parametrize("name", ["resnet18", "regnetx_002", "convnext_atto"])
def test_features_and_head_are_timms(name):
    theirs = timm.create_model(name, num_classes=7).eval()
    ours = create_model(name, num_classes=7, pretrained=theirs.state_dict()).eval()
    x = images(2, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        features, expected = ours.forward_features(x), theirs.forward_features(x)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
        for pre_logits in (True, False):
            result = ours.forward_head(features, pre_logits=pre_logits)
            torch.testing.assert_close(
                result, theirs.forward_head(expected, pre_logits=pre_logits), rtol=1e-4, atol=1e-4
            )
        assert torch.equal(ours.forward_head(features), ours(x))
    assert (ours.num_features, ours.head_hidden_size) == (theirs.num_features, theirs.head_hidden_size)
    assert ours.get_classifier().weight.equal(theirs.get_classifier().weight)


def test_weights_and_checkpoint_path_are_names_of_pretrained(tmp_path):
    first = create_model("resnet18", num_classes=3)
    torch.save(first.state_dict(), tmp_path / "resnet18.pth")
    for alias in ("weights", "checkpoint_path"):
        ours = create_model("resnet18", num_classes=3, **{alias: tmp_path / "resnet18.pth"})
        assert torch.equal(ours.fc.weight, first.fc.weight)
    with pytest.raises(ValueError, match="pretrained or weights, two names of one argument"):
        create_model("resnet18", pretrained=True, weights="IMAGENET1K_V1")


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet26d", "resnetblur18", "seresnet18", "resnetv2_18d", "regnetx_002", "regnetz_005"),
        *("convnext_atto", "convnextv2_atto", "resnest14d"),
    ],
)
def test_a_dilated_network_gives_timms_outputs(name, output_stride):
    """The first block of a dilated stage: the dilation after the stride's place, pools of shortcuts and blurs."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=5, output_stride=output_stride).double()
    randomise(theirs)
    ours = create_model(name, num_classes=5, output_stride=output_stride).double()
    load_checkpoint(ours, unwrap_checkpoint(name, theirs.state_dict()))
    x = images(1, 3, 64, 64).requires_grad_()
    outputs, gradients = [], []
    for network in (ours, theirs):
        outputs.append(network.eval()(x))
        gradients += torch.autograd.grad(outputs[-1].square().sum(), x)
    assert_close(*outputs, f"outputs of {name}")
    assert_close(*gradients, f"gradients of {name}")
