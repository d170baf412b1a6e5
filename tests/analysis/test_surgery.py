"""Units taken out and put into another order: exact, and undone."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from reslab.analysis.surgery import block_shape, block_slots, disabled_blocks, reordered_blocks, swapped_blocks
from reslab.nn.block import ResidualBlock
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork

MIXES = ("add", "scale(0.5,0.5)", "gate(-1)", "shortcut-gate(-1)", "stochastic-depth(0.5) add", "layerscale(0.1) add")


def network(**axes: object) -> ResidualNetwork:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2, 2), widths=(16, 32), strides=(1, 2), num_classes=4, **axes)
    assert isinstance(model, ResidualNetwork)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def pictures(number: int = 3) -> Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def silence(unit: nn.Module) -> None:
    """Make the branch's last norm hand out zeros."""
    last = unit.last_norm() if isinstance(unit, ResidualBlock) else getattr(unit, "bn3", getattr(unit, "bn2", None))
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


@pytest.mark.parametrize("mix", MIXES)
def test_deleting_a_unit_whose_branch_is_zero_changes_nothing_to_the_bit(mix: str) -> None:
    model, x = network(merge=mix), pictures()
    for name in ("layer1.1", "layer2.0"):
        silence(model.get_submodule(name))
        whole = model(x)
        with disabled_blocks(model, [name]):
            assert torch.equal(model(x), whole)


@pytest.mark.parametrize("order", ["original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact"])
def test_match_and_after_stay(order: str) -> None:
    model, x = network(order=order, shortcut="project"), pictures()
    unit = model.get_submodule("layer2.0")
    assert isinstance(unit, ResidualBlock)
    with torch.no_grad():
        ahead = model.layer1(model.forward_stem(x))
        p = unit.pre(ahead)
        expected = model.forward_tail(model.layer2[1](unit.post(unit.downsample(p) + 0)))
        with disabled_blocks(model, ["layer2.0"]):
            found = model(x)
    assert torch.equal(found, expected)
    assert not torch.equal(found, model(x))


def test_a_gate_keeps_its_share_of_the_shortcut() -> None:
    model, x = network(merge="gate(-1)"), pictures()
    unit = model.get_submodule("layer1.0")
    with torch.no_grad():
        stem = model.forward_stem(x)
        expected = unit.post((1 - torch.sigmoid(unit.merge.gate(stem))) * stem)
        with disabled_blocks(model, ["layer1.0"]):
            assert torch.equal(unit(stem), expected)


def test_several_units_with_their_places_and_hooks() -> None:
    model, x, seen = network(), pictures(), []
    model.get_submodule("layer1.0").register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    with disabled_blocks(model, ["layer1.0", "layer1.1", "layer1.0"]):
        model(x)
    assert torch.equal(seen[0][0].relu(), seen[0][1])


def test_a_plain_unit_becomes_the_identity_where_shapes_agree() -> None:
    model, x = network(merge="none"), pictures()
    with torch.no_grad(), disabled_blocks(model, ["layer1.1"]):
        assert torch.equal(model(x), model.forward_tail(model.layer2(model.layer1[0](model.forward_stem(x)))))


def test_a_plain_unit_that_changes_the_shape_is_refused_with_the_reason() -> None:
    words = r"layer2\.0: it has no shortcut and changes the shape \(16 to 32 channels"
    with pytest.raises(ValueError, match=words), disabled_blocks(network(merge="none"), ["layer2.0"]):
        pass


def test_an_unknown_unit_names_the_nearest() -> None:
    with (
        pytest.raises(ValueError, match=r"unknown block 'layer1\.7'; nearest: 'layer1\.1'"),
        disabled_blocks(network(), ["layer1.7"]),
    ):
        pass


def _shared(**axes: object) -> ResidualNetwork:
    torch.manual_seed(0)
    model = create_model(
        "resnet20_cifar", depths=(3,), widths=(16,), strides=(1,), num_classes=4, share_weights=True, **axes
    )
    assert isinstance(model, ResidualNetwork)
    return model.eval()


@pytest.mark.parametrize("mix", ["add", "none"])
def test_one_run_of_a_shared_unit(mix: str) -> None:
    model, x = _shared(merge=mix), pictures()
    unit = model.layer1[0]
    with torch.no_grad():
        out = unit(model.forward_stem(x))
        out = out.relu() if mix == "add" else out
        expected = model.forward_tail(unit(out))
        with disabled_blocks(model, ["layer1.1"]):
            assert torch.equal(model(x), expected)
            assert torch.equal(model(x), expected)
            assert torch.equal(model.features(x, "blocks")["layer1.2"], unit(out))
    assert [slot.name for slot in block_slots(model)] == ["layer1.0", "layer1.1", "layer1.2"]


@pytest.mark.parametrize("make", [network, _shared])
def test_everything_is_put_back_also_after_an_exception(make: object) -> None:
    model, x = make(), pictures()  # type: ignore[operator]
    whole, before = model(x), {name: id(module) for name, module in model.named_modules()}
    with disabled_blocks(model, ["layer1.0", "layer1.1"]):
        assert not torch.equal(model(x), whole)
        with pytest.raises(RuntimeError, match="stop"), disabled_blocks(model, ["layer1.1"]):
            raise RuntimeError("stop")
        assert not torch.equal(model(x), whole)
    with pytest.raises(RuntimeError, match="stop"), swapped_blocks(model, "layer1.0", "layer1.1"):
        raise RuntimeError("stop")
    assert torch.equal(model(x), whole)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_swapped_units_run_in_each_others_place() -> None:
    model, x = network(), pictures()
    with torch.no_grad():
        expected = model.forward_tail(model.layer2(model.layer1[0](model.layer1[1](model.forward_stem(x)))))
        with swapped_blocks(model, "layer1.0", "layer1.1"):
            assert torch.equal(model(x), expected)
        with swapped_blocks(model, "layer1.0", "layer1.1"), disabled_blocks(model, ["layer1.0"]):
            deleted = model(x)
        assert torch.equal(deleted, model.forward_tail(model.layer2(model.layer1[0](model.forward_stem(x).relu()))))


def test_swaps_that_mean_nothing() -> None:
    with (
        pytest.raises(ValueError, match=r"equal channels and stride; got: layer1\.1 \(16 to 16 channels, stride 1\)"),
        swapped_blocks(network(), "layer1.1", "layer2.0"),
    ):
        pass
    with pytest.raises(ValueError, match="each once"), reordered_blocks(network(), {"layer1.0": "layer1.1"}):
        pass
    model, x = _shared(), pictures()
    whole = model(x)
    with swapped_blocks(model, "layer1.0", "layer1.2"):
        assert torch.equal(model(x), whole)


FOREIGN = {
    "torchvision basic": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision bottleneck": lambda: torchvision.models.resnet50(num_classes=4),
    "timm": lambda: timm.create_model("resnet18", num_classes=4),
    "timm with squeeze and excitation": lambda: timm.create_model("seresnet50", num_classes=4),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_networks(name: str) -> None:
    torch.manual_seed(0)
    model, x = FOREIGN[name]().eval(), torch.randn(2, 3, 48, 48)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    units = [slot.name for slot in block_slots(model)]
    assert "layer2.0" in units
    with torch.no_grad():
        whole = model(x)
        with disabled_blocks(model, ["layer2.0"]):
            without = model(x)
        assert not torch.equal(model(x), without)
        assert torch.equal(model(x), whole)
        silence(model.layer2[0])
        assert torch.equal(model(x), without)
    assert block_shape(model.layer2[0]) != block_shape(model.layer2[-1]) or len(model.layer2) == 1


def test_a_foreign_unit_without_a_shortcut_is_refused() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    with (
        pytest.raises(ValueError, match="no known shortcut"),
        disabled_blocks(nn.Sequential(block, nn.Sequential(nn.Conv2d(3, 3, 1))), ["0"]),
    ):
        pass


def test_a_bare_convolution_of_a_plain_network_becomes_the_identity_where_shapes_agree() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)).eval()
    x = pictures()
    with torch.no_grad(), disabled_blocks(model, ["1"]):
        assert torch.equal(model(x), model[2](model[0](x)))
    with pytest.raises(ValueError, match=r"changes the shape \(3 to 4 channels\)"), disabled_blocks(model, ["0"]):
        pass
    with pytest.raises(ValueError, match="equal channels"), swapped_blocks(model, "0", "1"):
        pass
