"""Orders: how layouts are expanded, named and rejected, and the properties that belong to them."""

import pytest

from reslab.spec.grammar import parse_ops
from reslab.spec.operations import Place, layer_names
from reslab.spec.order import ORDERS, PREACT_CONDITIONS, get_order, parse_layout


def expanded(layout, num_convs=2):
    parts = parse_layout(layout, num_convs)
    return [" ".join(op.name for op in part) for part in (parts.pre, parts.branch, parts.post)]


@pytest.mark.parametrize(
    ("order", "num_convs", "leading", "branch", "after"),
    [
        ("original", 1, "", "conv1 bn1", "act1"),
        ("original", 2, "", "conv1 bn1 act1 conv2 bn2", "act2"),
        ("original", 3, "", "conv1 bn1 act1 conv2 bn2 act2 conv3 bn3", "act3"),
        ("bn-after-add", 2, "", "conv1 bn1 act1 conv2", "bn2 act2"),
        ("relu-before-add", 2, "", "conv1 bn1 act1 conv2 bn2 act2", ""),
        ("relu-preact", 2, "act1", "conv1 bn1 act2 conv2 bn2", ""),
        ("full-preact", 2, "bn1 act1", "conv1 bn2 act2 conv2", ""),
        ("full-preact", 1, "bn1 act1", "conv1", ""),
        ("wide", 2, "bn1 act1", "conv1 bn2 act2 drop1 conv2", ""),
        ("wide", 3, "bn1 act1", "conv1 bn2 act2 conv2 bn3 act3 drop1 conv3", ""),
        ("pyramid", 2, "bn1", "conv1 bn2 act1 conv2 bn3", ""),
        ("pyramid", 3, "bn1", "conv1 bn2 act1 conv2 bn3 act2 conv3 bn4", ""),
        ("se", 3, "", "conv1 bn1 act1 conv2 bn2 act2 conv3 bn3 se", "act3"),
        ("fixup", 2, "bias1", "conv1 bias2 act1 bias3 conv2 scale1 bias4", "act2"),
        ("fixup", 3, "bias1", "conv1 bias2 act1 bias3 conv2 bias4 act2 bias5 conv3 scale1 bias6", "act3"),
        ("norm-free-preact", 2, "act1", "conv1 act2 conv2", ""),
        ("book", 1, "", "conv1 bn1 act1", ""),
        ("book-bare", 1, "", "conv1 act1", ""),
    ],
)
def test_the_orders_are_expanded_and_named(order, num_convs, leading, branch, after):
    assert expanded(ORDERS[order].layout, num_convs) == [leading, branch, after]


def test_channels_of_an_operation_follow_the_convolutions_before_it():
    parts = parse_layout(ORDERS["full-preact"].layout, 3)
    assert [op.num_convs for op in parts.pre] == [0, 0]
    assert [(op.name, op.num_convs) for op in parts.branch if op.name[:2] == "bn"] == [("bn2", 1), ("bn3", 2)]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("conv norm act | conv norm act", "one '\\+'"),
        ("conv + norm | conv + act", "one '\\+'"),
        ("conv norm + conv", "before '\\+'"),
        ("conv norm + | conv", "before '\\+'"),
        ("conv norm aktivation | conv +", "aktivation"),
        ("conv | conv | conv | conv +", "two or three segments"),
        ("conv conv | conv +", "one convolution each"),
        ("norm | conv +", "one convolution each"),
        ("conv |  | conv +", "one convolution each"),
        ("conv +", "2 convolutions"),
        ("conv conv conv +", "3 in"),
        ("conv3 norm | conv +", "without a size"),
        ("conv/2 norm | conv +", "without a size"),
        ("conv(8) | conv +", "kind as a name"),
        ("conv norm(2) | conv +", "kind as a name"),
        ("conv(wide) | conv +", "unknown conv 'wide'"),
        ("conv norm(group(0)) | conv +", "groups as a whole number from 1"),
        ("conv se(0.25, off=in) | conv +", "unknown argument of se 'off'; nearest: 'of'"),
        ("conv se(0.25, of=out) | conv +", "unknown of of se 'out'"),
        ("conv mul(1/x) | conv +", "unknown name in an expression 'x'"),
        ("conv drop(1) | conv +", "rate"),
        ("conv drop(nan) | conv +", "rate"),
        ("conv drop(often) | conv +", "drop"),
        ("conv drop(0.1,0.2) | conv +", "drop"),
        ("conv act(3) | conv +", "act"),
        ("conv (norm | conv +", "brackets"),
    ],
)
def test_malformed_layouts_are_an_error_with_the_reason(layout, message):
    with pytest.raises(ValueError, match=message):
        parse_layout(layout, 2)


@pytest.mark.parametrize("name", ["", "norm act", "+", "conv-norm-act", "myconv +", "deconv act +"])
def test_what_is_neither_a_name_nor_a_layout(name):
    with pytest.raises(ValueError, match=r"or a layout such as 'conv norm act \| conv norm \+ act'"):
        get_order(name)


def test_an_unknown_order_names_the_nearest():
    with pytest.raises(ValueError, match="'full-preact'"):
        get_order("full-pre-act")


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_is_sound(name):
    order = ORDERS[name]
    assert order.reference
    assert set(order.shared_preact) <= set(PREACT_CONDITIONS)
    for sentence in (order.stem_ops, order.final_ops):
        assert {op.name for op in parse_ops(sentence)} <= set(layer_names(Place.BLOCK)) - {"conv"}
    parse_layout(order.layout, 1 if name.startswith("book") else 2)


def test_properties_of_a_layout_follow_from_the_operations_ahead_of_its_first_convolution():
    pre = get_order("norm act conv | norm act conv +")
    assert (pre.shared_preact, pre.stem_ops, pre.final_ops, pre.projection_norm) == (
        ("projects", "first"),
        "",
        "norm act",
        False,
    )
    post = get_order("conv norm act | conv norm + act")
    assert (post.shared_preact, post.stem_ops, post.final_ops, post.projection_norm) == ((), "norm act", "", True)
    bare = get_order("conv act | conv + act(tanh)")
    assert (bare.stem_ops, bare.projection_norm) == ("act", False)
    assert get_order("act(gelu) conv | act conv +").final_ops == "act(gelu)"
