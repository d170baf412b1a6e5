"""Operations that timm's networks do not cover, against short transcriptions of their papers and authors' code."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from agreement import assert_same, images, randomise
from torch import Tensor, nn

from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.factory import create_model
from reslab.nn.init import fit_input_layers, unfitted_layers
from reslab.nn.registry import Site, make_conv, make_layer
from reslab.spec.arch import ConvSpec
from reslab.spec.grammar import Op
from reslab.spec.zoo.resolve import get_arch


class IBN(nn.Module):
    """github.com/XingangPan/IBN-Net, ibnnet/modules.py, with its names."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.half = int(planes * 0.5)
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x: Tensor) -> Tensor:
        split = torch.split(x, self.half, 1)
        return torch.cat((self.IN(split[0].contiguous()), self.BN(split[1].contiguous())), 1)


def test_resnet50_ibn_a_is_torchvisions_with_the_authors_norm():
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5)
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3):
        for block in layer:
            block.bn1 = IBN(block.conv1.out_channels)
    theirs = theirs.double()
    randomise(theirs)
    ours = create_model("resnet50_ibn_a", depths=(1, 1, 1, 1), num_classes=5).double()
    load_checkpoint(ours, unwrap_checkpoint("ibn", theirs.state_dict()))
    assert_same(ours, theirs, images(2, 3, 48, 48))


def test_the_convolution_of_diracnet():
    """y = conv(x, diag(a) I + diag(b) W / |W|) (Zagoruyko and Komodakis 2017, Eqs. 3 and 4)."""
    site = Site(get_arch("resnet20_cifar"), 4, None)
    conv = make_conv(site, ConvSpec(3, 4, 6, 2), False, "dirac").double()
    randomise(conv)
    x = images(2, 4, 7, 8)
    identity = torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    for k in range(4):
        identity[k, k, 1, 1] = 1
    norms = conv.weight.flatten(1).square().sum(1).sqrt()
    kernel = conv.a.view(-1, 1, 1, 1) * identity + (conv.b / norms).view(-1, 1, 1, 1) * conv.weight
    assert torch.allclose(conv(x), F.conv2d(x, kernel, stride=2, padding=1), rtol=1e-12)


def test_a_new_dirac_convolution_is_nearly_the_identity():
    torch.manual_seed(0)
    conv = make_conv(Site(get_arch("resnet20_cifar"), 4, None), ConvSpec(3, 4, 4), False, "dirac")
    x = torch.randn(2, 4, 8, 8)
    assert torch.corrcoef(torch.stack((conv(x).flatten(), x.flatten())))[0, 1] > 0.9


def test_the_attention_of_cbam():
    """M_c = sigmoid(mlp(mean) + mlp(max)), M_s = sigmoid(conv7([mean; max])) (Woo et al. 2018, Eqs. 2 and 3)."""
    module = make_layer(Op("cbam", (0.25,)), Site(get_arch("resnet50"), 16, None)).double()
    randomise(module)
    x = images(2, 16, 9, 8)
    first, second = module.mlp[0], module.mlp[2]

    def mlp(vector: Tensor) -> Tensor:
        hidden = (vector @ first.weight[:, :, 0, 0].T + first.bias).clamp_min(0)
        return hidden @ second.weight[:, :, 0, 0].T + second.bias

    channel = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
    y = x * channel[:, :, None, None]
    pooled = torch.stack((y.mean(1), y.amax(1)), 1)
    spatial = torch.sigmoid(F.conv2d(pooled, module.spatial.conv.weight, padding=3))
    assert torch.allclose(module(x), y * spatial, rtol=1e-12)


def test_the_global_context_block():
    """x + W2 relu(LN(W1 sum_j softmax_j(w x) x_j)) (Cao et al. 2019, Fig. 4(d))."""
    module = make_layer(Op("gc", (0.25,)), Site(get_arch("resnet50"), 16, None)).double()
    randomise(module)
    x = images(2, 16, 5, 6)
    flat = x.flatten(2)
    weights = torch.einsum("c,ncp->np", module.score.weight.flatten(), flat).softmax(1)
    context = torch.einsum("np,ncp->nc", weights, flat)
    hidden = context @ module.transform[0].weight[:, :, 0, 0].T + module.transform[0].bias
    hidden = F.layer_norm(hidden, (4,), module.transform[1].weight, module.transform[1].bias).clamp_min(0)
    added = hidden @ module.transform[3].weight[:, :, 0, 0].T + module.transform[3].bias
    assert torch.allclose(module(x), x + added[:, :, None, None], rtol=1e-12)


@pytest.mark.parametrize(("factor", "law"), [(1 / math.sqrt(9), "1/sqrt(L)"), (0.5, "l/(2*l)")])
def test_stable_resnet_scales_branches_by_a_law_of_depth(factor, law):
    """y = x + F(x) / sqrt(L) for L blocks (Hayou et al. 2021, arXiv:2010.12859)."""
    ours = create_model("resnet20_cifar", merge=f"scale(1,{law})").double()
    randomise(ours)
    plain = create_model("resnet20_cifar", merge=f"scale(1,{factor!r})").double()
    plain.load_state_dict(ours.state_dict())
    assert_same(ours, plain, images(2, 3, 16, 16))


class SEPreActBlock(nn.Module):
    """github.com/kuangliu/pytorch-cifar, models/senet.py, PreActBlock, by our names; also as a bottleneck."""

    def __init__(self, inputs: int, widths: tuple[int, ...], kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.num_convs, outputs = len(kernels), widths[-1]
        reads = inputs
        for number, (width, kernel) in enumerate(zip(widths, kernels, strict=True), 1):
            strided = stride if kernel == 3 and 3 not in kernels[: number - 1] else 1
            self.add_module(f"bn{number}", nn.BatchNorm2d(reads))
            self.add_module(f"conv{number}", nn.Conv2d(reads, width, kernel, strided, kernel // 2, bias=False))
            reads = width
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if inputs != outputs else None
        )
        self.se = nn.Module()
        self.se.fc1, self.se.fc2 = nn.Conv2d(outputs, outputs // 16, 1), nn.Conv2d(outputs // 16, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        for number in range(2, self.num_convs + 1):
            y = getattr(self, f"conv{number}")(F.relu(getattr(self, f"bn{number}")(y)))
        gate = torch.sigmoid(self.se.fc2(F.relu(self.se.fc1(F.avg_pool2d(y, y.size(2))))))
        return y * gate + shortcut


@pytest.mark.parametrize(
    ("name", "kernels", "widths"),
    [
        ("sepreresnet18_cifar", (3, 3), [(16, 16), (32, 32)]),
        ("sepreresnet164_cifar", (1, 3, 1), [(16, 16, 64), (32, 32, 128)]),
    ],
)
def test_squeeze_and_excitation_in_pre_activated_blocks(name, kernels, widths):
    theirs, inputs = nn.Module(), 16
    theirs.conv1, theirs.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    for stage, block_widths in enumerate(widths, 1):
        first = SEPreActBlock(inputs, block_widths, kernels, stage)
        inputs = block_widths[-1]
        theirs.add_module(f"layer{stage}", nn.Sequential(first, SEPreActBlock(inputs, block_widths, kernels, 1)))
    theirs.fc = nn.Linear(inputs, 10)

    def forward(x: Tensor) -> Tensor:
        x = theirs.layer2(theirs.layer1(F.relu(theirs.bn1(theirs.conv1(x)))))
        return theirs.fc(x.mean((2, 3)))

    theirs.forward = forward
    theirs = theirs.double()
    randomise(theirs)
    stem_and_sizes = {"stem": "conv3(16) norm act", "depths": (2, 2), "widths": (16, 32), "strides": (1, 2)}
    ours = create_model(name, **stem_and_sizes).double()
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, images(2, 3, 16, 16))


def airbench_filters(images: Tensor, kernel: int, eps: float) -> Tensor:
    """github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py: get_patches, get_whitening_parameters."""
    channels = images.shape[1]
    patches = images.unfold(2, kernel, 1).unfold(3, kernel, 1).transpose(1, 3)
    patches = patches.reshape(-1, channels, kernel, kernel).float()
    n, c, h, w = patches.shape
    flat = patches.view(n, -1)
    eigenvalues, eigenvectors = torch.linalg.eigh((flat.T @ flat) / n, UPLO="U")
    values, vectors = eigenvalues.flip(0).view(-1, 1, 1, 1), eigenvectors.T.reshape(c * h * w, c, h, w).flip(0)
    scaled = vectors / torch.sqrt(values + eps)
    return torch.cat((scaled, -scaled))


def test_whitened_filters_are_airbenchs_and_whiten_patches():
    x = F.avg_pool2d(torch.randn(60, 3, 34, 34, generator=torch.Generator().manual_seed(0)), 3, 1)
    model = create_model("resnet11_fast", stem="conv3(54, whitened(1e-6)) act conv3(16) norm act maxpool2")
    torch.manual_seed(0)
    fit_input_layers(model, model, lambda: x.split(7))
    conv = model.conv1[0]
    theirs = airbench_filters(x, 3, 1e-6)
    cosines = (conv.weight[:27].flatten(1) * theirs[:27].flatten(1)).sum(1)
    # Equal up to the sign, which no eigenvector has of its own.
    torch.testing.assert_close(
        conv.weight[:27], theirs[:27] * cosines.sign()[:, None, None, None], rtol=2e-3, atol=2e-3
    )
    assert torch.equal(conv.weight[27:], -conv.weight[:27])
    outputs = F.conv2d(x, conv.weight[:27]).movedim(1, 0).flatten(1)
    torch.testing.assert_close(outputs @ outputs.T / outputs.shape[1], torch.eye(27), rtol=0, atol=5e-3)
    assert not conv.weight.requires_grad
    assert conv.bias.requires_grad
    assert torch.equal(conv.bias, torch.zeros(54))
    assert model.training
    assert unfitted_layers(model) == []


def test_fewer_whitened_filters_are_those_of_the_greatest_eigenvalues():
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    weights = []
    for count in (24, 54):
        model = create_model("resnet11_fast", stem=f"conv3({count}, whitened) act conv3(16) norm act maxpool2")
        fit_input_layers(model, model, lambda: x.split(1))
        weights.append(model.conv1[0].weight)
    assert torch.equal(weights[0][:12], weights[1][:12])


@pytest.mark.parametrize("count", [25, 56])
def test_whitened_filters_come_in_pairs_and_are_not_more_than_twice_the_patch(count: int):
    with pytest.raises(ValueError, match="even number of at most 54"):
        create_model("resnet11_fast", stem=f"conv3({count}, whitened) act conv3(16) norm act maxpool2")


@pytest.mark.parametrize("stem", ["conv3(24, whitend)", "conv3(whitened)", "conv3(24, whitened, 2)"])
def test_wrong_kinds_of_a_stems_convolution_are_errors(stem: str):
    with pytest.raises(ValueError, match=r"whitened|WIDTH"):
        create_model("resnet11_fast", stem=f"{stem} norm act maxpool2")


def test_a_whitened_convolution_has_no_groups_and_no_dilation():
    conv = create_model("resnet11_fast").conv1[0]
    for options in ({"groups": 3}, {"dilation": 2}):
        with pytest.raises(ValueError, match="one group and no dilation"):
            type(conv)(3, 24, 3, **options)


def test_loaded_filters_count_as_fitted():
    model, other = create_model("resnet11_fast"), create_model("resnet11_fast")
    assert unfitted_layers(model) == [model.conv1[0]]
    model.load_state_dict(other.state_dict())
    assert unfitted_layers(model) == []
