"""Blocks switched off and reordered: exact, and restored."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from reslab.analysis.surgery import (
    block_shape,
    block_slots,
    disabled_blocks,
    reordered_blocks,
    scaled_branches,
    swapped_blocks,
)
from reslab.nn.block import ResidualBlock
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork

MERGES = ("add", "scale(0.5,0.5)", "gate(-1)", "shortcut-gate(-1)", "stochastic-depth(0.5) add", "layerscale(0.1) add")


def network(**axes: object) -> ResidualNetwork:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2, 2), widths=(16, 32), strides=(1, 2), num_classes=4, **axes)
    assert isinstance(model, ResidualNetwork)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images(number: int = 3) -> Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def zero_branch(unit: nn.Module) -> None:
    """Make the branch's last norm return zeros."""
    last = (
        unit.last_norms()[-1] if isinstance(unit, ResidualBlock) else getattr(unit, "bn3", getattr(unit, "bn2", None))
    )
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


@pytest.mark.parametrize("mix", MERGES)
def test_deleting_a_block_whose_branch_is_zero_changes_no_bit(mix: str) -> None:
    model, x = network(merge=mix), images()
    for name in ("layer1.1", "layer2.0"):
        zero_branch(model.get_submodule(name))
        whole = model(x)
        with disabled_blocks(model, [name]):
            assert torch.equal(model(x), whole)


@pytest.mark.parametrize("order", ["original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact"])
def test_the_shortcut_and_what_follows_the_merge_stay(order: str) -> None:
    model, x = network(order=order, shortcut="project"), images()
    unit = model.get_submodule("layer2.0")
    assert isinstance(unit, ResidualBlock)
    with torch.no_grad():
        ahead = model.layer1(model.forward_stem(x))
        p = unit.pre(ahead)
        expected = model.forward_tail(model.layer2[1](unit.post(unit.downsample(p) + 0)))
        with disabled_blocks(model, ["layer2.0"]):
            result = model(x)
    assert torch.equal(result, expected)
    assert not torch.equal(result, model(x))


def test_a_gate_still_scales_the_shortcut() -> None:
    model, x = network(merge="gate(-1)"), images()
    unit = model.get_submodule("layer1.0")
    with torch.no_grad():
        stem = model.forward_stem(x)
        expected = unit.post((1 - torch.sigmoid(unit.merge.gate(stem))) * stem)
        with disabled_blocks(model, ["layer1.0"]):
            assert torch.equal(unit(stem), expected)


def test_several_blocks_keep_their_hooks() -> None:
    model, x, seen = network(), images(), []
    model.get_submodule("layer1.0").register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    with disabled_blocks(model, ["layer1.0", "layer1.1", "layer1.0"]):
        model(x)
    assert torch.equal(seen[0][0].relu(), seen[0][1])


def test_a_plain_block_becomes_the_identity_where_shapes_agree() -> None:
    model, x = network(merge="none"), images()
    with torch.no_grad(), disabled_blocks(model, ["layer1.1"]):
        assert torch.equal(model(x), model.forward_tail(model.layer2(model.layer1[0](model.forward_stem(x)))))


def test_a_plain_block_that_changes_the_shape_cannot_be_deleted() -> None:
    text = r"layer2\.0: it has no shortcut and changes the shape \(16 to 32 channels"
    with pytest.raises(ValueError, match=text), disabled_blocks(network(merge="none"), ["layer2.0"]):
        pass


def test_an_unknown_block_names_the_nearest() -> None:
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
def test_one_call_of_a_shared_block(mix: str) -> None:
    model, x = _shared(merge=mix), images()
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
def test_everything_is_restored_also_after_an_exception(make: object) -> None:
    model, x = make(), images()  # type: ignore[operator]
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


def test_swapped_blocks_run_in_each_others_position() -> None:
    model, x = network(), images()
    with torch.no_grad():
        expected = model.forward_tail(model.layer2(model.layer1[0](model.layer1[1](model.forward_stem(x)))))
        with swapped_blocks(model, "layer1.0", "layer1.1"):
            assert torch.equal(model(x), expected)
        with swapped_blocks(model, "layer1.0", "layer1.1"), disabled_blocks(model, ["layer1.0"]):
            deleted = model(x)
        assert torch.equal(deleted, model.forward_tail(model.layer2(model.layer1[0](model.forward_stem(x).relu()))))


def test_invalid_swaps() -> None:
    with (
        pytest.raises(ValueError, match=r"equal channels and stride; got: layer1\.1 \(16 to 16 channels, stride 1\)"),
        swapped_blocks(network(), "layer1.1", "layer2.0"),
    ):
        pass
    with pytest.raises(ValueError, match="each once"), reordered_blocks(network(), {"layer1.0": "layer1.1"}):
        pass
    model, x = _shared(), images()
    whole = model(x)
    with swapped_blocks(model, "layer1.0", "layer1.2"):
        assert torch.equal(model(x), whole)


THIRD_PARTY = {
    "torchvision basic": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision bottleneck": lambda: torchvision.models.resnet50(num_classes=4),
    "timm": lambda: timm.create_model("resnet18", num_classes=4),
    "timm with squeeze and excitation": lambda: timm.create_model("seresnet50", num_classes=4),
}


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_third_party_networks(name: str) -> None:
    torch.manual_seed(0)
    model, x = THIRD_PARTY[name]().eval(), torch.randn(2, 3, 48, 48)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    blocks = [slot.name for slot in block_slots(model)]
    assert "layer2.0" in blocks
    with torch.no_grad():
        whole = model(x)
        with disabled_blocks(model, ["layer2.0"]):
            without = model(x)
        assert not torch.equal(model(x), without)
        assert torch.equal(model(x), whole)
        zero_branch(model.layer2[0])
        assert torch.equal(model(x), without)
    assert block_shape(model.layer2[0]) != block_shape(model.layer2[-1]) or len(model.layer2) == 1


def test_a_third_party_block_without_a_shortcut_cannot_be_deleted() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    with (
        pytest.raises(ValueError, match="no known shortcut"),
        disabled_blocks(nn.Sequential(block, nn.Sequential(nn.Conv2d(3, 3, 1))), ["0"]),
    ):
        pass


def test_a_bare_convolution_of_a_plain_network_becomes_the_identity_where_shapes_agree() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)).eval()
    x = images()
    with torch.no_grad(), disabled_blocks(model, ["1"]):
        assert torch.equal(model(x), model[2](model[0](x)))
    with pytest.raises(ValueError, match=r"changes the shape \(3 to 4 channels\)"), disabled_blocks(model, ["0"]):
        pass
    with pytest.raises(ValueError, match="equal channels"), swapped_blocks(model, "0", "1"):
        pass


@pytest.mark.parametrize("mix", ["add", "scale(0.5,0.5)", "gate(-1)"])
@pytest.mark.parametrize("order", ["original", "full-preact"])
def test_a_scaled_branch_is_multiplied_ahead_of_the_merge(mix: str, order: str) -> None:
    model, x = network(merge=mix, order=order, shortcut="project"), images()
    block = model.get_submodule("layer2.0")
    assert isinstance(block, ResidualBlock)
    with torch.no_grad():
        p = block.pre(model.layer1(model.forward_stem(x)))
        merged = block.merge(p, block.downsample(p), 0.3 * block.branch(p))  # type: ignore[misc]
        expected = model.forward_tail(model.layer2[1](block.post(merged)))
        whole = model(x)
        with scaled_branches(model, {"layer2.0": 0.3}):
            assert torch.equal(model(x), expected)
        with scaled_branches(model, {"layer2.0": 1.0}):
            assert torch.equal(model(x), whole)
        with scaled_branches(model, {"layer2.0": 0.0}):
            zero = model(x)
        with disabled_blocks(model, ["layer2.0"]):
            assert torch.equal(zero, model(x))
        assert torch.equal(model(x), whole)


def test_one_call_of_a_shared_block_is_scaled() -> None:
    torch.manual_seed(0)
    model, x = create_model("book_resdeep", depths=(3,)).eval(), torch.rand(2, 3, 32, 32)
    assert isinstance(model, ResidualNetwork)
    slots = [slot.name for slot in block_slots(model)]
    [block] = {slot.block for slot in block_slots(model)}
    outputs: list[Tensor] = []
    with torch.no_grad():
        with scaled_branches(model, {slots[1]: 2.0}):
            for _ in range(2):  # the calls restart in each forward pass
                handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
                model(x)
                handle.remove()
        assert isinstance(block, ResidualBlock)
        first, second, third = outputs[:3]
        assert torch.equal(second, block.merge(first, block.downsample(first), 2 * block.branch(first)))  # type: ignore[misc]
        assert torch.equal(third, block(second))
        assert all(torch.equal(one, other) for one, other in zip(outputs[:3], outputs[3:], strict=True))


def test_a_block_without_a_shortcut_has_no_branch_to_scale() -> None:
    with (
        pytest.raises(ValueError, match=r"layer1\.0: it has no shortcut"),
        scaled_branches(network(merge="none"), {"layer1.0": 0.5}),
    ):
        pass
    with (
        pytest.raises(ValueError, match="BasicBlock"),
        scaled_branches(torchvision.models.resnet18(), {"layer1.0": 0.5}),
    ):
        pass
    with pytest.raises(ValueError, match=r"layer1\.2"), scaled_branches(network(), {"layer1.2": 0.5}):
        pass
