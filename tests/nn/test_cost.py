import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.ops import Conv2dNormActivation

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.spec.zoo import ARCHS


def on_meta(name: str, **axes: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **axes)


def test_a_third_party_network_has_its_published_cost() -> None:
    with torch.device("meta"):
        model = resnet50()
    layers = layer_table(model, (3, 224, 224))
    assert round(sum(layer.macs for layer in layers) / 1e9, 3) == ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    assert sum(layer.params for layer in layers) == ResNet50_Weights.IMAGENET1K_V1.meta["num_params"]


@pytest.mark.parametrize("name", ["resnet20_cifar", "rezero56_cifar", "fixup110_cifar", "seresnet50", "book_resdeep"])
def test_every_parameter_is_counted_once(name: str) -> None:
    model = on_meta(name)
    counted = sum(layer.params for layer in layer_table(model, ARCHS[name].input_size))
    assert counted == sum(parameter.numel() for parameter in model.parameters())


def test_gates_and_gammas_are_counted() -> None:
    model = on_meta("resnet20_cifar", merge="gate(-6)")
    gates = [layer for layer in layer_table(model, (3, 32, 32)) if layer.name.endswith("merge.gate")]
    assert len(gates) == 9
    assert gates[0].macs == 16 * 16 * 32 * 32
    assert gates[0].params == 16 * 16 + 16


def test_grouped_and_strided_convolutions_follow_the_formula() -> None:
    block = nn.Sequential(Conv2dNormActivation(8, 16, 3, stride=2, groups=4), nn.Flatten(), nn.Linear(16 * 25, 7))
    rows = {layer.name: layer for layer in layer_table(block, (8, 9, 10))}
    assert rows["0.0"].output_shape == (16, 5, 5)
    assert rows["0.0"].macs == 16 * 5 * 5 * 9 * 2
    assert rows["2"].macs == 16 * 25 * 7


def test_a_shared_block_runs_often_and_is_counted_once() -> None:
    rows = [layer for layer in layer_table(on_meta("book_resdeep"), (3, 32, 32)) if layer.name == "layer1.0.conv1"]
    assert len(rows) == 100
    assert [row.params for row in rows] == [9216] + [0] * 99
    assert {row.macs for row in rows} == {32 * 32 * 9 * 256}


def test_counting_leaves_weights_modes_and_hooks_alone() -> None:
    model = create_model("resnet20_cifar").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer_table(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())


class Repeated(nn.Module):
    """`n * [block]`: one block under several names, with a BatchNorm, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(*(5 * [block]))
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.other.weight = block[0].weight
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.other(self.blocks(self.stem(x))).mean((2, 3)))


def test_a_network_with_tied_weights_is_left_as_it_was() -> None:
    model = Repeated()
    before = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    layers = layer_table(model, (3, 8, 8))
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert model.training
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 2)
    convs = [layer for layer in layers if layer.kind == "Conv2d"]
    assert [layer.macs for layer in convs] == [8 * 8 * 4 * 3, *[8 * 8 * 4 * 4 * 9] * 6]


def test_a_batch_norm_in_training_mode_returns_the_mean_of_each_channel() -> None:
    class Centered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            mean = torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[1]
            return x - mean.view(-1, 1, 1)

    (row,) = layer_table(Centered(), (3, 8, 8))
    assert row.output_shape == (4, 6, 6)
