"""Expressions of operations: parsed, written, rejected."""

import itertools
import random

import pytest

from reslab.spec.grammar import Op, parse_ops
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import MERGE_OPS
from reslab.spec.zoo import ARCHS


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("conv7/2(64)", Op("conv", (64,), 7, 2)),
        ("conv3(16)", Op("conv", (16,), 3)),
        ("maxpool2", Op("maxpool", (), 2)),
        ("maxpool3/1", Op("maxpool", (), 3, 1)),
        ("drop2d(0.4)", Op("drop2d", (0.4,))),
        ("shortcut-gate(-6)", Op("shortcut-gate", (-6,))),
        ("scale(0.5, 2)", Op("scale", (0.5, 2))),
        ("layerscale(1e-5)", Op("layerscale", (1e-5,))),
        ("act(leaky-relu)", Op("act", ("leaky-relu",))),
        ("random-resized-crop(32)", Op("random-resized-crop", (32,))),
        ("flip()", Op("flip")),
        ("norm(group(32))", Op("norm", ("group(32)",))),
        ("norm( group( size = 16 ) )", Op("norm", ("group(size=16)",))),
        ("se(0.25, of=in)", Op("se", (0.25,), kwargs=(("of", "in"),))),
        ("conv(select(2, split))", Op("conv", ("select(2,split)",))),
        ("mul(1/sqrt(L))", Op("mul", ("1/sqrt(L)",))),
        ("mul((1 + L)/2)", Op("mul", ("(1 + L)/2",))),
        ("+", Op("+")),
        ("|", Op("|")),
    ],
)
def test_an_operation_is_parsed(sentence, word):
    assert parse_ops(sentence) == (word,)


def test_operations_are_separated_by_spaces():
    words = parse_ops("  conv7/2(64)  norm act\tmaxpool3/2 ")
    assert [word.name for word in words] == ["conv", "norm", "act", "maxpool"]
    assert parse_ops("") == parse_ops("  ") == ()


@pytest.mark.parametrize(
    "broken",
    [
        "pad(4",
        "pad 4)",
        "pad((4))",
        "3conv",
        "pad(4))",
        "conv3//2",
        "conv/",
        "pad(,)",
        "pad(4,)",
        "pad(a=1,a=2)",
        "pad(a=1,2)",
        "a,b",
        "é",
    ],
)
def test_invalid_text_is_an_error_that_names_it(broken):
    with pytest.raises(ValueError) as error:
        parse_ops(f"flip {broken}")
    assert any(repr(part)[1:-1] in str(error.value) for part in broken.split())


def test_every_expression_of_the_tables_survives_a_round_trip():
    sentences = [order.layout for order in ORDERS.values()]
    sentences += [sentence for arch in ARCHS.values() for sentence in (arch.stem, arch.head, arch.merge, arch.norm)]
    for sentence in sentences:
        words = parse_ops(sentence)
        assert parse_ops(" ".join(map(str, words))) == words
        assert " ".join(map(str, words)) == " ".join(sentence.split())


def test_any_operation_survives_a_round_trip():
    drawn = random.Random(0)
    numbers = [0, 1, -6, 32, 1234567, 10**12, 0.5, -0.25, 1e-5, 1 / 3, 0.1234567891, 1e300, 123456.789]
    names = ["conv", "drop2d", "shortcut-gate", "random-resized-crop", "a_b", "x1y"]
    sizes, strides = (None, 1, 3, 17), (None, 1, 2)
    for name, size, stride in itertools.product(names, sizes, strides):
        args = tuple(drawn.choice([*numbers, "tanh", "leaky-relu"]) for _ in range(drawn.randrange(4)))
        word = Op(name, args, size, stride)
        assert parse_ops(str(word)) == (word,)
        assert [type(arg) for arg in parse_ops(str(word))[0].args if isinstance(arg, int)] == [
            int for arg in args if isinstance(arg, int) or (isinstance(arg, float) and arg.is_integer() and arg < 1e6)
        ]


def test_merge_operations_have_a_description_and_a_reference():
    for name, word in MERGE_OPS.items():
        assert word.description, name
        assert word.reference, name
