"""Layouts: every channel, stride and dilation; invalid architectures are an error with the reason."""

import dataclasses

import pytest

from reslab.spec.config import override
from reslab.spec.layout import layout_stages, parse_width_law, stem_channels, stem_ops
from reslab.spec.order import check_head, check_stem
from reslab.spec.shapes import total_stride
from reslab.spec.zoo import ARCHS
from tests.tiny_arch import TINY

ONE_STAGE = {"depths": (3,), "widths": (4,), "strides": (1,)}


def blocks(**axes):
    return [block for stage in layout_stages(dataclasses.replace(TINY, **axes)) for block in stage]


def test_channels_run_through():
    for arch in ARCHS.values():
        channels = stem_channels(arch)
        for stage in layout_stages(arch):
            if arch.transition and stage[0].index:
                channels = stage[0].in_channels
            for block in stage:
                assert block.in_channels == channels
                for before, after in zip(block.convs, block.convs[1:], strict=False):
                    assert before.out_channels == after.in_channels
                channels = block.out_channels


def test_the_basic_block():
    first, second, third, fourth = blocks()
    assert [block.name for block in blocks()] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert [block.shortcut and block.shortcut.builder for block in (first, second, third, fourth)] == [
        "identity",
        "identity",
        "project",
        "identity",
    ]
    assert [conv.stride for conv in third.convs] == [2, 1]
    assert [block.index for block in blocks()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("stride_conv", "strides"), [(0, [1, 2, 1]), (1, [2, 1, 1]), (2, [1, 2, 1]), (3, [1, 1, 2])])
def test_the_strided_convolution(stride_conv, strides):
    block = blocks(convs=(1, 3, 1), expansion=4, stride_conv=stride_conv)[2]
    assert [conv.stride for conv in block.convs] == strides
    assert [conv.out_channels for conv in block.convs] == [8, 8, 32]


def test_cardinality_and_base_width():
    """int(width * base / 64) * groups, as torchvision; 1x1 convolutions are not grouped."""
    convs = layout_stages(ARCHS["resnext50_32x4d"])[1][0].convs
    assert [(conv.kernel, conv.in_channels, conv.out_channels, conv.groups) for conv in convs] == [
        *((1, 256, 256, 1), (3, 256, 256, 32), (1, 256, 512, 1))
    ]


def test_a_base_width_that_does_not_divide_is_cut_off_before_the_groups_multiply():
    """int(4 * 24 / 64) * 2 is 2, not int(4 * 24 / 64 * 2)."""
    assert blocks(groups=2, width_per_group=24)[0].convs[0].out_channels == 2


def test_dilation_replaces_strides():
    arch = override(ARCHS["resnet50"], {"replace_stride_with_dilation": "false,true,true"})
    stages = layout_stages(arch)
    assert [[block.dilation for block in stage][:2] for stage in stages] == [[1, 1], [1, 1], [1, 2], [2, 4]]
    assert [block.stride for stage in stages for block in stage if block.stride != 1] == [2]
    assert total_stride(arch, layout_stages(arch)) == 8


def test_the_order_decides_what_follows_the_last_convolution_of_the_stem():
    def stem(**axes):
        return " ".join(map(str, stem_ops(dataclasses.replace(ARCHS["resnet50d"], **axes))))

    deep = "conv3/2(32) norm act conv3(32) norm act conv3(64)"
    assert stem() == f"{deep} norm act maxpool3/2"
    assert stem(order="full-preact") == f"{deep} maxpool3/2"
    assert stem(order="relu-preact") == f"{deep} norm maxpool3/2"


def test_width_laws():
    assert parse_width_law("additive(16,48)") == (16.0, 48.0)
    assert [block.out_channels for block in blocks(widths="additive(4,4)", shortcut="pad")] == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"depths": (2, 0)}, "depths of whole numbers from 1"),
        ({"depths": (2,)}, "widths with one number for each of the 1 stages.*set widths too"),
        ({"widths": (4,)}, "widths with one number for each of the 2 stages"),
        ({"strides": (1,)}, "strides with one number"),
        ({"widths": (4, -8)}, "widths of whole numbers"),
        ({"widths": "additive(4)"}, "additive\\(START,GROWTH\\)"),
        ({"widths": "steep"}, "additive\\(START,GROWTH\\)"),
        ({"widths": "additive(4,-8)"}, "stays at 1 or above"),
        ({"convs": ()}, "at least one convolution"),
        ({"convs": (2, 3)}, "odd kernels.*nearest valid: 3"),
        ({"convs": (3,), "order": "conv norm act conv norm +"}, "1 convolutions"),
        ({"stride_conv": 3}, "stride_conv between 0 and 2"),
        ({"stride_conv": -1}, "stride_conv between 0 and 2"),
        ({"groups": 3}, "divisible by groups=3"),
        ({"width_per_group": 8}, "width_per_group of at least"),
        ({"expansion": 0}, "expansion of whole numbers"),
        ({"in_channels": 0}, "in_channels of whole numbers"),
        ({"num_classes": 0}, "num_classes of whole numbers"),
        ({"image_size": (8,)}, "image_size with 2 sides"),
        ({"image_size": (8, 0)}, "image_size of whole numbers"),
        ({"drop_rate": 1.0}, "drop_rate in"),
        ({"drop_rate": float("nan")}, "drop_rate in"),
        ({"norm_eps": 0.0}, "norm_eps above 0"),
        ({"norm_momentum": -0.1}, "norm_momentum in"),
        ({"se_ratio": 0.0, "order": "se"}, "se_ratio in"),
        ({"last_norm_weight": float("inf")}, "last_norm_weight"),
        ({"last_norm_weight": 0.0, "norm": "none"}, "there is no norm with a weight"),
        ({"replace_stride_with_dilation": (True, True)}, "1 truth values, one each for layer2"),
        ({"widths": (8, 4), "shortcut": "pad"}, "zeros can be added, not taken away.*layer2.0.*shortcut=project"),
        ({"widths": (8, 4), "shortcut": "avg-pad"}, "zeros can be added"),
        ({"shortcut": "projct"}, "'project'"),
        ({"merge": "none dropout(0.5)"}, "no shortcut to modify"),
        ({"order": "ful-preact"}, "'full-preact'"),
        ({"order": "book"}, "2 convolutions, as the branch has"),
        ({"share_weights": True}, "layer2.0 changes the shape"),
        ({"share_weights": True, "shortcut": "pad", **ONE_STAGE, "widths": (8,)}, "changes the shape"),
        ({"share_weights": True, "order": "full-preact", **ONE_STAGE}, "operations ahead of the fork"),
        ({"share_weights": True, "order": "full-preact-stem", **ONE_STAGE}, "operations ahead of the fork"),
        ({"share_weights": True, "merge": "stochastic-depth(0.5)", **ONE_STAGE}, "one rate"),
        ({"share_weights": True, "merge": "drop-path(0.5) add", **ONE_STAGE}, "one rate"),
    ],
)
def test_invalid_axes_are_an_error_with_the_reason(axes, message):
    with pytest.raises(ValueError, match=message):
        blocks(**axes)


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("conv3", "WIDTH"),
        ("conv3(0)", "WIDTH"),
        ("conv3(8.5)", "WIDTH"),
        ("conv4(8)", "odd kernel.*conv5"),
        ("conv3/0(8)", "from 1"),
        ("conv0(8)", "from 1"),
        ("conv3(8) maxpool", "maxpoolK/S"),
        ("conv3(8) maxpool3/0", "from 1"),
        ("conv3(8) maxpol2", "'maxpool'"),
        ("conv3(8) flatten", "unknown operation in a stem 'flatten'"),
        ("conv3(8) fc", "unknown operation in a stem"),
        ("conv3(8) + act", "unknown operation in a stem"),
        ("conv3(8) norm3", "without a size"),
        ("conv3(8) act(1)", "act\\(tanh\\)"),
        ("conv3(8) drop(2)", "rate"),
    ],
)
def test_invalid_stems(stem, message):
    with pytest.raises(ValueError, match=message):
        check_stem(stem)
    with pytest.raises(ValueError, match=message):
        blocks(stem=stem)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("fc", "flattened once"),
        ("avgpool fc", "flattened once"),
        ("avgpool flatten flatten fc", "flattened once"),
        ("flatten avgpool fc", "flattened once"),
        ("flatten drop2d fc", "flattened once"),
        ("avgpool flatten fc(8)", "without a width"),
        ("avgpool flatten fc(0) fc", "fc\\(WIDTH\\)"),
        ("avgpool flatten fc(many) fc", "fc\\(WIDTH\\)"),
        ("avgpool flatten norm fc", "maps pooled"),
        ("avgpool flatten conv3(4)", "maps pooled"),
        ("avgpool0 flatten fc", "from 1"),
        ("avgpool flatten act(2) fc", "act\\(tanh\\)"),
    ],
)
def test_invalid_heads(head, message):
    with pytest.raises(ValueError, match=message):
        check_head(head)
    with pytest.raises(ValueError, match=message):
        blocks(head=head)


@pytest.mark.parametrize(
    ("head", "depth"),
    [
        ("", 9),
        ("avgpool flatten", 9),
        ("maxpool2 flatten fc(32) act fc", 11),
        ("avgpool flatten drop(0.2) bias fc", 10),
        ("flatten fc", 10),
    ],
)
def test_valid_heads(head, depth):
    check_head(head)
    assert dataclasses.replace(TINY, head=head).depth == depth


@pytest.mark.parametrize(
    ("stem", "channels"),
    [
        ("", 3),
        ("conv3(16)", 16),
        ("conv7/2(64) norm act maxpool3/2", 64),
        ("conv3(4) act(tanh) drop2d(0.1) avgpool2", 4),
        ("norm act", 3),
    ],
)
def test_valid_stems(stem, channels):
    check_stem(stem)
    assert stem_channels(dataclasses.replace(TINY, stem=stem)) == channels


def test_depth_counts_the_weighted_layers_on_the_way():
    assert TINY.depth == 1 + 4 * 2 + 1
    assert dataclasses.replace(TINY, convs=(1, 3, 1)).depth == 14
    assert dataclasses.replace(TINY, shortcut="project-all").depth == TINY.depth


def test_the_plain_twin_of_an_arch():
    assert TINY.without_shortcuts() == dataclasses.replace(TINY, merge="none")
    assert TINY.num_blocks == 4
    assert TINY.input_size == (3, 8, 8)
