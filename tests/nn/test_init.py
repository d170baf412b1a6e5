"""Fresh weights have the distribution their source gives them, layer by layer.

Two samples of n numbers with standard deviation s: their means differ by s sqrt(2 / n), their standard deviations by
s sqrt((k - 1) / 2n), k the kurtosis (3 for a normal, 1.8 for a uniform distribution), their kurtosis by sqrt(48 / n)
for normal numbers, less for uniform ones; five of these are allowed, and seeds are fixed.
"""

import math

import pytest
import torch
import torchvision
from torch import nn

from reslab.nn.factory import create_model
from reslab.spec.arch import Arch

TINY = Arch("tiny", "made for the test", depths=(2, 2), widths=(8, 16), strides=(1, 2), stem="conv3(8) norm act")


def kurtosis(sample):
    centred = sample - sample.mean()
    return (centred.pow(4).mean() / centred.pow(2).mean() ** 2).item()


def assert_same_distribution(ours, theirs, name):
    n = ours.numel()
    assert ours.shape == theirs.shape, name
    ours, theirs = ours.detach().double().flatten(), theirs.detach().double().flatten()
    if (theirs == theirs[0]).all():
        assert torch.equal(ours, theirs), f"{name}: a constant of {theirs[0]} in torchvision"
        return
    s = theirs.std().item()
    assert abs(ours.mean() - theirs.mean()).item() <= 5 * s * math.sqrt(2 / n), f"mean of {name}"
    assert abs(ours.std() - theirs.std()).item() <= 5 * s / math.sqrt(n), f"standard deviation of {name}"
    if n >= 500:
        assert abs(kurtosis(ours) - kurtosis(theirs)) <= 5 * math.sqrt(48 / n), f"kurtosis of {name}"


@pytest.mark.parametrize(
    ("name", "layers", "options"),
    [
        ("resnet18", None, {}),
        ("resnet50", (1, 2, 1, 1), {}),
        ("resnet50", (1, 1, 2, 1), {"groups": 32, "width_per_group": 4, "zero_init_residual": True}),
        ("resnet18", None, {"num_classes": 10, "zero_init_residual": True}),
    ],
)
def test_torchvisions_family_layer_by_layer(name, layers, options):
    torch.manual_seed(0)
    if layers is None:
        ours, theirs = create_model(name, **options), getattr(torchvision.models, name)(**options)
    else:
        theirs = torchvision.models.resnet.ResNet(torchvision.models.resnet.Bottleneck, layers, **options)
        ours = create_model(name, depths=layers, **options)
    their_tensors = theirs.state_dict()
    for key, tensor in ours.state_dict().items():
        assert_same_distribution(tensor, their_tensors[key], key)
    bound = 1 / math.sqrt(ours.fc.in_features)
    assert bound * 0.999 < ours.fc.weight.abs().max() <= bound
    assert ours.fc.bias.abs().max() <= bound


def assert_std(weight, std):
    n = weight.numel()
    assert abs(weight.detach().double().std().item() - std) <= 5 * std / math.sqrt(2 * n)


def test_fixup_draws():
    """Zhang, Dauphin and Ma 2019, Sec. 3: branches by L^(-1 / (2m - 2)), their last layer and the classifier at 0."""
    torch.manual_seed(0)
    for branch, layers, expansion in [((3, 3), 2, 1), ((1, 3, 1), 3, 2)]:
        model = create_model(
            TINY,
            order="fixup",
            norm="none",
            init="fixup",
            convs=branch,
            expansion=expansion,
            shortcut="project",
            depths=(3, 2),
            widths=(32, 64),
            stem="conv3(64)",
        )
        scale = 5 ** (-1 / (2 * layers - 2))
        for name, block in model.blocks():
            for k in range(1, layers):
                weight = block.get_submodule(f"conv{k}").weight
                assert_std(weight, scale * math.sqrt(2 / (weight.shape[0] * weight.shape[2] ** 2)))
            assert not block.get_submodule(f"conv{layers}").weight.any()
            if name == "layer2.0":
                assert_std(block.downsample[0].weight, math.sqrt(2 / model.layer2[0].spec.out_channels))
            assert block.scale1.scale.item() == 1
            assert not any(p.any() for key, p in block.named_parameters() if "bias" in key)
        assert_std(model.conv1.weight, math.sqrt(2 / (64 * 9)))
        assert not model.fc.weight.any()
        assert not model.fc.bias.any()


def test_a_fresh_fixup_network_is_its_stem_and_blocks_are_identities():
    model = create_model("fixup110_cifar", depths=(2, 2, 2))
    x = torch.randn(2, 16, 8, 8)
    block = dict(model.blocks())["layer1.1"]
    assert torch.equal(block(x), x.clamp(min=0))
    assert not model(torch.randn(2, 3, 32, 32)).any()


@pytest.mark.parametrize(("init", "fan"), [("torchvision", "out"), ("he-in", "in")])
def test_kaiming_normal(init, fan):
    torch.manual_seed(0)
    model = create_model(TINY, init=init, widths=(16, 64))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            places = module.weight.shape[2] ** 2
            assert_std(module.weight, math.sqrt(2 / (module.weight.shape[0 if fan == "out" else 1] * places)))


def test_torchs_own():
    torch.manual_seed(0)
    model = create_model(TINY, init="torch")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * bound < module.weight.abs().max() <= bound


def test_goyals_last_layer_is_small():
    torch.manual_seed(0)
    model = create_model(TINY, init="goyal", widths=(16, 64), last_norm_weight=0)
    other = create_model(TINY, init="torchvision", widths=(16, 64))
    n = model.fc.weight.numel()
    assert abs(model.fc.weight.std().item() / 0.01 - 1) <= 5 / math.sqrt(2 * n)
    assert abs(model.fc.weight.mean().item()) <= 5 * 0.01 / math.sqrt(n)
    assert not model.fc.bias.any()
    assert_same_distribution(model.layer2[1].conv2.weight, other.layer2[1].conv2.weight, "conv2")
    assert not model.layer2[1].bn2.weight.any()


def test_gates_start_closed_whatever_the_init():
    for init in ("torchvision", "xavier", "torch"):
        model = create_model(TINY, merge="gate(-6)", init=init)
        assert all((block.merge.gate.bias == -6).all() for _, block in model.blocks())


def test_an_unknown_init():
    with pytest.raises(ValueError, match="xavier"):
        create_model(TINY, init="xaver")


def test_dirac_begins_with_the_identity():
    """The first filters of a convolution copy its input channels; the others are drawn as torch.nn does."""
    torch.manual_seed(0)
    model = create_model(TINY, init="dirac")
    torch.manual_seed(0)
    drawn = create_model(TINY, init="torch")
    x = torch.randn(2, 8, 9, 9)
    conv, same = model.layer2[0].conv1, drawn.layer2[0].conv1
    conv.stride = (1, 1)
    assert torch.equal(conv(x)[:, :8], x)
    assert torch.equal(conv.weight[8:], same.weight[8:])
    assert torch.equal(model.layer1[0].conv2(x), x)
    assert 0.005 < model.fc.weight.std() < 0.02
