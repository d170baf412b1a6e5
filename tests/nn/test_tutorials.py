"""The networks of the tutorials against their code: Dive into Deep Learning, Sec. 8.6, and the book's chapter 8."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_same, images, randomise
from torch import nn

import reslab.nn
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model

# --- Dive into Deep Learning, as its text gives it -------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, input_channels, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        self.conv1 = nn.Conv2d(input_channels, num_channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(input_channels, num_channels, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.bn2 = nn.BatchNorm2d(num_channels)

    def forward(self, X):
        Y = F.relu(self.bn1(self.conv1(X)))
        Y = self.bn2(self.conv2(Y))
        if self.conv3:
            X = self.conv3(X)
        Y += X
        return F.relu(Y)


def resnet_block(input_channels, num_channels, num_residuals, first_block=False):
    blk = []
    for i in range(num_residuals):
        if i == 0 and not first_block:
            blk.append(Residual(input_channels, num_channels, use_1x1conv=True, strides=2))
        else:
            blk.append(Residual(num_channels, num_channels))
    return blk


def tutorial_net():
    b1 = nn.Sequential(
        nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    b2 = nn.Sequential(*resnet_block(64, 64, 2, first_block=True))
    b3 = nn.Sequential(*resnet_block(64, 128, 2))
    b4 = nn.Sequential(*resnet_block(128, 256, 2))
    b5 = nn.Sequential(*resnet_block(256, 512, 2))
    return nn.Sequential(b1, b2, b3, b4, b5, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(512, 10))


def rename_d2l(name):
    name = name.replace("downsample.0", "conv3")
    for ours, theirs in {"conv1.": "0.0.", "bn1.": "0.1.", "fc.": "7.", "layer": ""}.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def pair_up(ours, theirs, rename):
    """Random weights of ours copied to theirs by name, none left."""
    randomise(ours)
    theirs.load_state_dict({rename(name): tensor for name, tensor in ours.state_dict().items()}, strict=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_resnet18_d2l_is_the_tutorials_net(dtype):
    ours, theirs = create_model("resnet18_d2l").to(dtype), tutorial_net().to(dtype)
    pair_up(ours, theirs, rename_d2l)
    assert_same(ours, theirs, images(2, 1, 48, 48, dtype=dtype), rename_d2l)


@pytest.mark.parametrize("arguments", [(3, 3), (3, 6, True, 2), (4, 4, True), (4, 6, True, 1), (3, 3, False, 1)])
def test_residual_is_the_tutorials_block(arguments):
    ours, theirs = reslab.nn.Residual(*arguments).double(), Residual(*arguments).double()
    pair_up(ours, theirs, lambda name: name.replace("downsample.0", "conv3"))
    assert_same(ours, theirs, images(4, arguments[0], 6, 6), lambda name: name.replace("downsample.0", "conv3"))


def test_shapes_of_the_block_alone():
    x = images(4, 3, 6, 6, dtype=torch.float32)
    assert reslab.nn.Residual(3, 3)(x).shape == (4, 3, 6, 6)
    assert reslab.nn.Residual(3, 6, use_1x1conv=True, strides=2)(x).shape == (4, 6, 3, 3)


@pytest.mark.parametrize("arguments", [(3, 6), (3, 3, False, 2), (6, 3)])
def test_residual_refuses_a_sum_of_two_shapes(arguments):
    with pytest.raises(ValueError, match="use_1x1conv=True"):
        reslab.nn.Residual(*arguments)


def test_reslab_nn_suggests_nearest_attribute():
    with pytest.raises(AttributeError, match="Resdiual"):
        _ = reslab.nn.Resdiual


def test_the_shape_table_of_resnet18_d2l():
    """The outputs of the tutorial's parts for 1x1x224x224."""
    with torch.device("meta"):
        model = create_model("resnet18_d2l")
        x = torch.empty(1, 1, 224, 224)
        shapes = [tuple((x := model.forward_stem(x)).shape[1:])]
        for _, stage in model.stages():
            shapes.append(tuple((x := stage(x)).shape[1:]))
        for name in model.head_names:
            shapes.append(tuple((x := getattr(model, name)(x)).shape[1:]))
    expected = [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (512, 1, 1), (512,), (10,)]
    assert shapes == expected


def test_counts_of_resnet18_d2l():
    model = create_model("resnet18_d2l")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tutorial_net().parameters())
    assert sum(p.numel() for p in model.parameters()) == 11_178_378
    assert model.arch.depth == 18
    assert all(conv.bias is not None for conv in model.modules() if isinstance(conv, nn.Conv2d))


def test_xavier_of_resnet18_d2l():
    """train_ch6: xavier_uniform_ on linear and convolution weights: U(-a, a) with a = sqrt(6 / (fan_in + fan_out))."""
    torch.manual_seed(0)
    for module in create_model("resnet18_d2l").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            places = module.weight[0, 0].numel()
            bound = math.sqrt(6 / ((module.weight.shape[0] + module.weight.shape[1]) * places))
            n = module.weight.numel()
            assert bound * (1 - 20 / n) < module.weight.abs().max() <= bound
            assert abs(module.weight.std() - bound / 3**0.5) < 5 * bound / 3**0.5 * math.sqrt(0.2 / n)


# --- Deep Learning with PyTorch, chapter 8 ---------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, one=16, two=8, dropout=False, norm=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, one, kernel_size=3, padding=1)
        self.conv1_batchnorm = nn.BatchNorm2d(one) if norm else nn.Identity()
        self.conv1_dropout = nn.Dropout2d(p=0.4) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(one, two, kernel_size=3, padding=1)
        self.conv2_batchnorm = nn.BatchNorm2d(two) if norm else nn.Identity()
        self.conv2_dropout = nn.Dropout2d(p=0.4) if dropout else nn.Identity()
        self.fc1 = nn.Linear(two * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = F.max_pool2d(torch.tanh(self.conv1_batchnorm(self.conv1(x))), 2)
        out = self.conv1_dropout(out)
        out = F.max_pool2d(torch.tanh(self.conv2_batchnorm(self.conv2(out))), 2)
        out = self.conv2_dropout(out)
        out = torch.tanh(self.fc1(out.flatten(1)))
        return self.fc2(out)


class NetRes(nn.Module):
    def __init__(self, residual):
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 16, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(4 * 4 * 16, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = F.max_pool2d(torch.relu(self.conv2(out)), 2)
        out1 = out if self.residual else 0
        out = F.max_pool2d(torch.relu(self.conv3(out)) + out1, 2)
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


class ResBlock(nn.Module):
    def __init__(self, n_chans):
        super().__init__()
        self.conv = nn.Conv2d(n_chans, n_chans, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(num_features=n_chans)
        torch.nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        torch.nn.init.constant_(self.batch_norm.weight, 0.5)
        torch.nn.init.zeros_(self.batch_norm.bias)

    def forward(self, x):
        out = torch.relu(self.batch_norm(self.conv(x)))
        return out + x


class NetResDeep(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.resblocks = nn.Sequential(*(100 * [ResBlock(32)] if shared else [ResBlock(32) for _ in range(100)]))
        self.fc1 = nn.Linear(8 * 8 * 32, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = self.resblocks(out)
        out = F.max_pool2d(out, 2)
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


BOOK = {
    "book_net": lambda: Net(),
    "book_width": lambda: Net(32, 16),
    "book_dropout": lambda: Net(32, 16, dropout=True),
    "book_batchnorm": lambda: Net(32, 16, norm=True),
    "book_depth": lambda: NetRes(residual=False),
    "book_res": lambda: NetRes(residual=True),
    "book_resdeep": lambda: NetResDeep(shared=True),
    "book_resdeep_separate": lambda: NetResDeep(shared=False),
}


def tensors(module):
    """Weights and statistics in the order they are written down, each once."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: named[name] for name in module.state_dict() if name in named}


@pytest.mark.parametrize("name", BOOK)
def test_the_books_networks_give_the_books_outputs_and_gradients(name):
    """In training as well, where dropout draws in the same sequence."""
    ours, theirs = create_model(name).double(), BOOK[name]().double()
    randomise(ours)
    for key, tensor in ours.state_dict().items():
        if "deep" in name and key.endswith(("layer1.0.bn1.weight", ".bn1.weight")):
            tensor.mul_(0.05)
    names = dict(zip(tensors(ours), tensors(theirs), strict=True))
    their_tensors = tensors(theirs)
    for key, tensor in tensors(ours).items():
        their_tensors[names[key]].data.copy_(tensor)
    assert_same(ours, theirs, images(2, 3, 32, 32), lambda key: names[key], rng=2)


def test_the_counts_the_book_prints():
    counts = [parameter.numel() for parameter in create_model("book_net").parameters()]
    assert counts == [432, 16, 1152, 8, 16384, 32, 64, 2]


@pytest.mark.parametrize("name", ["book_resdeep", "book_resdeep_separate"])
def test_fresh_weights_of_the_books_deep_net(name):
    """Kaiming-normal convolutions (std sqrt(2 / fan_in)), norm weight 0.5, bias 0; stem and head as in torch.nn."""
    torch.manual_seed(0)
    model = create_model(name)
    weights = torch.cat([block.conv1.weight.flatten() for _, block in model.blocks()])
    std = math.sqrt(2 / (32 * 9))
    assert abs(weights.std() - std) < 5 * std / math.sqrt(2 * weights.numel())
    assert weights.abs().max() > 3 * std
    for _, block in model.blocks():
        assert torch.equal(block.bn1.weight, torch.full((32,), 0.5))
        assert not block.bn1.bias.any()
    assert model.conv1.weight.abs().max() <= 1 / math.sqrt(27)
    assert model.fc[0].weight.abs().max() <= 1 / math.sqrt(2048)


def test_the_books_nets_refuse_another_size_of_image():
    with pytest.raises(ValueError, match="32x32"):
        create_model("book_net")(torch.zeros(1, 3, 64, 64))
    model = create_model("book_net", image_size=(48, 40))
    assert model(torch.zeros(1, 3, 48, 40)).shape == (1, 2)


def test_layers_of_a_shared_block_are_counted_once_and_run_a_hundred_times():
    with torch.device("meta"):
        model = create_model("book_resdeep")
    rows = [row for row in layer_table(model, (3, 32, 32)) if row.name == "layer1.0.conv1"]
    assert len(rows) == 100
    assert [row.params for row in rows] == [9216] + [0] * 99


def test_a_block_needs_no_other_import() -> None:
    code = "import reslab.nn; print(sum(p.numel() for p in reslab.nn.Residual(3, 6, True, 2).parameters()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == sum(p.numel() for p in Residual(3, 6, True, 2).parameters())
