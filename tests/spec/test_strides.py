"""Strides, positions and receptive fields: published values, and the extent of the gradient of one output."""

from dataclasses import replace

import pytest
import torch

from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.config import override
from reslab.spec.grammar import parse_ops
from reslab.spec.layout import layout_stages
from reslab.spec.strides import num_positions, receptive_field, total_stride
from reslab.spec.zoo import ARCHS
from tests.tiny_arch import TINY


@pytest.mark.parametrize(
    ("name", "stride"),
    [("resnet50", 32), ("resnet20_cifar", 4), ("resnet18_cifar", 8), ("resnet50d", 32)],
)
def test_total_stride(name, stride):
    assert total_stride(ARCHS[name], layout_stages(ARCHS[name])) == stride


def test_positions_that_a_head_reads():
    def positions(arch, head):
        return num_positions(arch, layout_stages(arch), parse_ops(head))

    assert positions(ARCHS["book_net"], "flatten") == 64
    assert positions(ARCHS["book_res"], "maxpool2 flatten") == 16
    assert positions(ARCHS["resnet50"], "avgpool flatten") == 1
    with pytest.raises(ValueError, match="images large enough for book_res"):
        positions(override(ARCHS["book_res"], {"image_size": "6,6"}), "maxpool2 flatten")


def test_pools_stride_by_their_size_by_default():
    for stem, stride in [("conv3(4) maxpool3", 3), ("conv3(4) maxpool3/1", 1), ("conv3(4) avgpool2/2", 2)]:
        arch = replace(TINY, stem=stem, strides=(1, 1))
        assert total_stride(arch, layout_stages(arch)) == stride


@pytest.mark.parametrize(("name", "field"), [("resnet18", 435), ("resnet34", 899), ("resnet50", 427)])
def test_known_figures(name: str, field: int) -> None:
    """resnet18 by hand: 1 + 6 + 4 + 5*8 + 4*16 + 4*32 + 3*64 = 435."""
    assert receptive_field(ARCHS[name]) == field


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("resnet20_cifar", {}),
        ("resnet164_cifar", {"depths": (1, 1, 1)}),
        ("resnet20_cifar", {"replace_stride_with_dilation": (False, True)}),
        ("resnet18", {"depths": (1, 1, 1, 1)}),
        ("resnet50_v1", {"depths": (1, 1, 1, 1)}),
        ("resnet11_fast", {"act": "relu", "head": "avgpool flatten fc"}),
    ],
)
def test_it_is_the_reach_of_the_gradient(name: str, axes: dict[str, object]) -> None:
    """With weights and inputs above 0 nothing cancels: the columns of non-zero gradient are the field."""
    arch = replace(ARCHS[name], norm="none", merge="add", shortcut="project", **axes)  # type: ignore[arg-type]
    field = receptive_field(arch)
    side = 32 * (field // 32 + 2)
    model = create_model(replace(arch, image_size=(side, side)))
    assert isinstance(model, ResidualNetwork)
    model = model.double()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1e-2)
    # Random pixels: a max-pool passes the gradient to one pixel of a window, but over all rows to every column.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, arch.in_channels, side, side, dtype=torch.float64, generator=generator).add(1).requires_grad_()
    maps = model.forward_features(x)
    middle = maps.shape[-1] // 2
    (gradient,) = torch.autograd.grad(maps[..., middle, middle].sum(), x)
    columns = (gradient.abs().sum(dim=(0, 1, 2)) > 0).nonzero()
    assert int(columns[-1] - columns[0]) + 1 == field
