"""Shapes by arithmetic, compared with those of the built networks."""

from dataclasses import replace

import pytest
import torch

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.spec.arch import Arch
from reslab.spec.shapes import Layer, network_layers
from reslab.spec.shortcut import SHORTCUTS
from reslab.spec.zoo import ARCHS

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
