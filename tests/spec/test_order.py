"""Orders as sentences: how they are spelt out, named, and refused; the facts that travel with them."""

import pytest

from reslab.spec.grammar import parse_ops
from reslab.spec.order import BLOCK_OPS, ORDERS, PREACT_CONDITIONS, get_order, parse_layout


def spelt(sentence, num_convs=2):
    parts = parse_layout(sentence, num_convs)
    return [" ".join(word.name for word in part) for part in (parts.pre, parts.branch, parts.post)]


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
def test_how_the_orders_are_spelt_and_named(order, num_convs, leading, branch, after):
    assert spelt(ORDERS[order].layout, num_convs) == [leading, branch, after]


def test_channels_of_a_word_follow_the_convolutions_before_it():
    parts = parse_layout(ORDERS["full-preact"].layout, 3)
    assert [word.num_convs for word in parts.pre] == [0, 0]
    assert [(word.name, word.num_convs) for word in parts.branch if word.name[:2] == "bn"] == [("bn2", 1), ("bn3", 2)]


@pytest.mark.parametrize(
    ("sentence", "said"),
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
        ("conv(8) | conv +", "without arguments"),
        ("conv norm(2) | conv +", "without arguments"),
        ("conv drop(1) | conv +", "rate"),
        ("conv drop(nan) | conv +", "rate"),
        ("conv drop(often) | conv +", "drop"),
        ("conv drop(0.1,0.2) | conv +", "drop"),
        ("conv act(3) | conv +", "act"),
        ("conv (norm | conv +", "brackets"),
    ],
)
def test_malformed_sentences_are_refused_with_the_reason(sentence, said):
    with pytest.raises(ValueError, match=said):
        parse_layout(sentence, 2)


@pytest.mark.parametrize("name", ["", "norm act", "+", "conv-norm-act", "myconv +", "deconv act +"])
def test_what_is_neither_a_name_nor_a_sentence(name):
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
        assert {word.name for word in parse_ops(sentence)} <= set(BLOCK_OPS) - {"conv"}
    parse_layout(order.layout, 1 if name.startswith("book") else 2)


def test_facts_of_a_sentence_follow_from_where_its_first_convolution_stands():
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
