"""Axes combine freely: every order with every branch, shortcut and merge trains, or is an error with a reason."""

import itertools
import re

import pytest
import torch
from agreement import images
from torch import nn

from reslab.nn.factory import create_model
from reslab.nn.registry import make_activation
from reslab.spec.arch import Arch
from reslab.spec.operations import OPERATIONS, Family
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import SHORTCUTS
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import resolve_arch

TINY = Arch(
    "tiny",
    "made for the test",
    depths=(1, 2),
    widths=(4, 8),
    strides=(1, 2),
    stem="conv3(4) norm act",
    num_classes=3,
    image_size=(8, 8),
)
BRANCHES = {"basic": {}, "bottleneck": {"convs": (1, 3, 1), "expansion": 2}, "one": {"convs": (3,)}} | {
    "grouped": {"groups": 2, "width_per_group": 32},
    "dilated": {"replace_stride_with_dilation": (True,)},
    "pyramid": {"widths": "additive(4,4)"},
    "five": {"convs": (5, 1, 3, 1)},
}
MERGES = [
    *(
        "add",
        "none",
        "scale(0.5,2)",
        "gate(-6)",
        "shortcut-gate(0)",
        "dropout(0.5)",
        "stochastic-depth(0.5) add",
        "rezero",
    ),
    *(
        "drop-path(0.3) skipinit add",
        "layerscale(0.1) gate(-1)",
        "dropout(0.2) stochastic-depth(0.8) layerscale(1) scale(1,0.5)",
    ),
]
X = images(4, 3, 8, 8, dtype=torch.float32)
TARGETS = torch.tensor([0, 1, 2, 0])


def can_be_combined(order, branch):
    """The book's blocks have one convolution."""
    return not order.startswith("book") or branch == "one"


def assert_learns(model):
    """One training step's gradients and one evaluation: all finite, every parameter with a gradient of its own."""
    loss = nn.functional.cross_entropy(model.train()(X), TARGETS)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        assert model.eval()(X).isfinite().all()


def assert_shapes(model):
    """Modules have the shapes of the layout."""
    for name, block in model.blocks():
        assert block.spec.name == name
        for k, conv in enumerate(block.spec.convs, 1):
            module = block.get_submodule(f"conv{k}")
            assert (module.in_channels, module.out_channels) == (conv.in_channels, conv.out_channels)
            assert (module.kernel_size[0], module.stride[0]) == (conv.kernel, conv.stride)
            assert (module.groups, module.dilation[0]) == (conv.groups, conv.dilation)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_with_every_branch_and_shortcut(order):
    torch.manual_seed(0)
    for branch, shortcut in itertools.product(BRANCHES, SHORTCUTS):
        if can_be_combined(order, branch):
            model = create_model(TINY, order=order, shortcut=shortcut, **BRANCHES[branch])
            assert_shapes(model)
            assert_learns(model)
        else:
            with pytest.raises(ValueError, match=f"an order with {2 if branch != 'bottleneck' else 3}|4 convolutions"):
                create_model(TINY, order=order, shortcut=shortcut, **BRANCHES[branch])


@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_with_every_order_and_a_shortcut_of_each_kind(merge):
    torch.manual_seed(0)
    for order, shortcut in itertools.product(ORDERS, ("pad", "project-all", "avg-project")):
        branch = BRANCHES["one" if order.startswith("book") else "basic"]
        model = create_model(TINY, order=order, shortcut=shortcut, merge=merge, **branch)
        assert_learns(model)
        if merge == "none":
            assert not [key for key in model.state_dict() if "downsample" in key or "merge" in key]


@pytest.mark.parametrize("norm", ["group(2)", "frozen", "none"])
def test_every_order_with_every_norm(norm):
    torch.manual_seed(0)
    for order in ORDERS:
        branch = BRANCHES["one" if order.startswith("book") else "basic"]
        assert_learns(create_model(TINY, order=order, norm=norm, shortcut="avg-project", bias=True, **branch))


@pytest.mark.parametrize("act", OPERATIONS[Family.ACT])
def test_every_activation(act):
    torch.manual_seed(0)
    model = create_model(TINY, act=act, order="full-preact")
    assert_learns(model)
    assert all(isinstance(block.act1, type(make_activation(act))) for _, block in model.blocks())


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate", "circular"])
def test_every_padding(padding):
    assert_learns(create_model(TINY, padding=padding, image_size=(8, 8)))


@pytest.mark.parametrize("bias", [False, True])
def test_biases_of_branches_projections_and_stem(bias):
    model = create_model(TINY, bias=bias, stem_bias=not bias)
    assert (model.conv1.bias is None) == bias
    convs = [conv for _, block in model.blocks() for conv in block.modules() if isinstance(conv, nn.Conv2d)]
    assert {conv.bias is not None for conv in convs} == {bias}


@pytest.mark.parametrize(
    ("axes", "settings"),
    [
        ({"norm": "group(3)"}, "dividing 4 channels.*group\\(2\\)"),
        ({"norm": "group"}, "group\\(32\\)"),
        ({"norm": "batch(2)"}, "'batch'"),
        ({"norm": "batch frozen"}, "unknown norm"),
        ({"norm": ""}, "unknown norm"),
        ({"norm": "layr"}, "unknown norm 'layr'; nearest: 'layer'"),
        ({"norm": "custom"}, "norm_layer"),
        ({"act": "rellu"}, "'relu'"),
        ({"order": "conv act(rellu) | conv +"}, "'relu'"),
        ({"padding": "zero"}, "'zeros'"),
        ({"init": "kaiming"}, "unknown init"),
        ({"dephts": (1,)}, "unknown axis 'dephts'; nearest: 'depths'"),
        ({"groups": True}, "groups as a whole number"),
        ({"num_classes": "ten"}, "num_classes as a whole number"),
        ({"zero_init_residual": "perhaps"}, "zero_init_residual as true or false"),
        ({"head": "fc"}, "flatten"),
        ({"stem": "conv3(8) flatten"}, "unknown operation in a stem"),
    ],
)
def test_invalid_axes_are_an_error_when_the_network_is_built(axes, settings):
    with pytest.raises(ValueError, match=settings):
        create_model(TINY, **axes)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "resnet50"),
        ("resnt20_cifar", "resnet20"),
        ("ResNet81", "resnet18"),
        ("unet_resnt18", "unet_resnet18"),
    ],
)
def test_unknown_models_name_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"unknown model '{name}'.*{near}.*reslab models"):
        create_model(name)


def test_axes_as_strings_are_those_of_the_command_line():
    settings = {
        "depths": "1,1,1",
        "widths": "16,16,24",
        "merge": "shortcut-gate(-6)",
        "shortcut": "pad-split",
        "num_classes": "7",
    }
    arch = create_model("resnet20_cifar", **settings, order="bn-after-add").arch
    assert (arch.depths, arch.widths, arch.num_classes) == ((1, 1, 1), (16, 16, 24), 7)
    assert arch == resolve_arch("resnet20_cifar", {**settings, "order": "bn-after-add"})


def test_other_spellings_of_axes():
    assert resolve_arch("resnet18", {"in_chans": 1, "drop_rate": 0.2}).in_channels == 1
    assert resolve_arch("resnet18", {"zero_init_residual": "yes"}).last_norm_weight == 0
    assert resolve_arch("book_resdeep", {"zero_init_residual": False}).last_norm_weight == 0.5


def test_a_zoo_network_made_small_trains_in_every_family():
    """Each entry of the zoo, with one block per stage."""
    torch.manual_seed(0)
    for name in ("resnet50_v1", "resnet18d", "resnetv2_50", "preresnet152", "seresnet50", "resnext50_32x4d"):
        depths = (1,) * len(ARCHS[name].depths)
        model = create_model(name, depths=depths, num_classes=3)
        y = model(images(2, 3, 64, 64, dtype=torch.float32))
        y.sum().backward()
        assert y.shape == (2, 3)
        assert all(parameter.grad is not None for parameter in model.parameters()), name


def test_messages_are_one_line_and_name_what_came():
    for axes in ({"groups": 3}, {"order": "conv conv"}, {"merge": "gate"}, {"stride_conv": 9}, {"widths": "x"}):
        with pytest.raises(ValueError) as error:
            create_model(TINY, **axes)
        text = str(error.value)
        assert "\n" not in text
        assert re.search(r"required: .+; got: .+", text)
        assert str(next(iter(axes.values()))) in text
