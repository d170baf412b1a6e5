"""Shapes, strides and receptive fields by arithmetic equal those of the built networks."""

from dataclasses import replace

import pytest
import torch

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.grammar import parse_ops
from reslab.spec.layout import layout_stages
from reslab.spec.shapes import Layer, network_layers, num_positions, receptive_field, total_stride
from reslab.spec.shortcut import SHORTCUTS
from reslab.spec.zoo import ARCHS
from tests.tiny_arch import TINY

# Each has a stem, pool, shortcut, kind of convolution or head that the others lack.
REPRESENTATIVES = (
    "resnet18", "resnet18_a", "resnet34_c", "resnet50_caffe", "resnet50v2_keras", "resnetv2_18d", "resnetblur18",
    "resnetaa34d", "pyramidnet110_cifar", "res2net50d", "skresnet18", "resnest14d", "resnest50d_1s4x24d",
    "convnext_atto", "nf_regnet_b0", "nfnet_l0", "regnetz_005", "regnetv_040", "senet154", "fixup110_cifar",
    "book_resdeep", "r3d_18", "resnet50_ibn_a", "resnet110_sd_cifar", "shake26_2x32d_cifar", "sepreresnet20_cifar",
    "resnet11_fast",
)  # fmt: skip


def part_shapes(layer: Layer) -> list[tuple[int, ...]]:
    """The outputs of the modules of a layer: two side by side, whose channels add up, or its own."""
    if layer.op.name != "shift-project":
        return [layer.out_shape]
    first = int(layer.op.args[0])
    return [(first, *layer.out_shape[1:]), (layer.out_shape[0] - first, *layer.out_shape[1:])]


def assert_same_shapes(arch: Arch) -> None:
    network = network_layers(arch)
    with torch.device("meta"):
        model = create_model(arch)
    built: dict[str, list[tuple[int, ...]]] = {}
    for row in layer_table(model, arch.input_size):
        built.setdefault(row.name, []).append(row.output_shape)
    stages = {name for name in built if name.startswith("layer")}
    for block in network.blocks:
        name = block.spec.name if not arch.share_weights else f"{block.spec.name.partition('.')[0]}.0"
        num_branches = block.spec.branches
        prefixes = [f"{name}.branch{k}" for k in range(1, num_branches + 1)] if num_branches > 1 else [name]
        modules = [(f"{prefix}.{layer.name}", layer) for prefix in prefixes for layer in block.branch]
        modules += [(f"{name}.{layer.name}", layer) for layer in (*block.pre, *block.post)]
        for module, layer in modules:
            inner = {row for row in stages if row == module or row.startswith(f"{module}.")}
            assert inner, module
            if module in built:
                assert built[module][0] == layer.out_shape, module
            stages -= inner
        shortcut = [row for row in built if row.startswith(f"{name}.downsample")]
        assert [built[row][0] for row in shortcut] == [
            shape for layer in block.shortcut or () for shape in part_shapes(layer)
        ], name
        stages -= {*shortcut, *(row for row in stages if row.startswith((f"{name}.merge", f"{name}.combination")))}
        if arch.share_weights:
            return
    assert not stages
    assert [*built.values()][-1][-1] == network.head[-1].out_shape


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_layers_are_those_of_the_built_network(name: str) -> None:
    arch = ARCHS[name]
    assert_same_shapes(replace(arch, depths=tuple(min(depth, 2) for depth in arch.depths)))


@pytest.mark.parametrize("name", ["convnext_atto", "resnest14d", "resnetblur18"])
def test_layers_of_a_dilated_network_are_those_of_the_built_network(name: str) -> None:
    arch = replace(ARCHS[name], depths=(1, 2, 1, 2), replace_stride_with_dilation=(False, True, True))
    assert_same_shapes(arch)


@pytest.mark.parametrize(
    "axes",
    [
        {"padding": "same", "image_size": (223, 97)},
        {"stem": "conv7/2(64) norm act maxpool3/2(ceil)", "image_size": (101, 64)},
        {"replace_stride_with_dilation": (False, True, True)},
        {"replace_stride_with_dilation": (False, True, True), "shortcut": "avg-project"},
        {"order": "full-preact", "shortcut": "conv1x1-all", "merge": "gate(-6)"},
        {"shortcut": "avg-project", "image_size": (75, 225)},
        {"dims": 1, "image_size": (1000,)},
    ],
    ids=str,
)
def test_axes(axes: dict[str, object]) -> None:
    assert_same_shapes(replace(ARCHS["resnet18"], **axes))  # type: ignore[arg-type]


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_has_the_layers_of_its_module(shortcut: str) -> None:
    assert_same_shapes(replace(ARCHS["resnet18"], depths=(2, 2), widths=(64, 96), strides=(1, 2), shortcut=shortcut))


@pytest.mark.soak
@pytest.mark.parametrize("name", ARCHS)
def test_layers_of_every_network(name: str) -> None:
    assert_same_shapes(ARCHS[name])


def test_shapes_of_stem_and_head() -> None:
    network = network_layers(ARCHS["resnet50"])
    assert [layer.out_shape for layer in network.stem] == [(64, 112, 112)] * 3 + [(64, 56, 56)]
    assert [stage.out_shape for stage in network.stages] == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    assert [layer.out_shape for layer in network.head] == [(2048, 1, 1), (2048,), (1000,)]


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"layer9\.0.*layer"):
        network_layers(ARCHS["resnet18"]).block("layer9.0")
    with pytest.raises(ValueError, match="images large enough"):
        network_layers(replace(ARCHS["convnext_tiny"], image_size=(16, 16)))


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
def test_published_receptive_fields(name: str, field: int) -> None:
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
def test_receptive_field_is_the_reach_of_the_gradient(name: str, axes: dict[str, object]) -> None:
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
