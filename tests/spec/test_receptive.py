"""The receptive field, held against published figures and against the gradient of one output."""

from dataclasses import replace

import pytest
import torch

from reslab.nn.factory import create_model
from reslab.nn.network import Network
from reslab.spec.receptive import receptive_field
from reslab.spec.zoo import ARCHS


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
    ],
)
def test_it_is_the_reach_of_the_gradient(name: str, axes: dict[str, object]) -> None:
    """With weights and inputs above 0 nothing cancels: the columns of non-zero gradient are the field."""
    arch = replace(ARCHS[name], norm="none", mix="add", match="project", **axes)  # type: ignore[arg-type]
    field = receptive_field(arch)
    side = 32 * (field // 32 + 2)
    model = create_model(replace(arch, image_size=(side, side)))
    assert isinstance(model, Network)
    model = model.double()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1e-2)
    # Random pixels: a max-pool passes the gradient to one pixel of a window, but over all rows to every column.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, arch.in_channels, side, side, dtype=torch.float64, generator=generator).add(1).requires_grad_()
    maps = model.run_stem(x)
    for _, unit in model.units():
        maps = unit(maps)
    middle = maps.shape[-1] // 2
    (gradient,) = torch.autograd.grad(maps[..., middle, middle].sum(), x)
    columns = (gradient.abs().sum(dim=(0, 1, 2)) > 0).nonzero()
    assert int(columns[-1] - columns[0]) + 1 == field
