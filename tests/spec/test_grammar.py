"""Sentences of words: read, written, refused."""

import itertools
import random

import pytest

from reslab.spec.grammar import Word, parse_words
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import JOINS, ON_BRANCH, ON_SHORTCUT
from reslab.spec.zoo import ARCHS


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("conv7/2(64)", Word("conv", (64,), 7, 2)),
        ("conv3(16)", Word("conv", (16,), 3)),
        ("maxpool2", Word("maxpool", (), 2)),
        ("maxpool3/1", Word("maxpool", (), 3, 1)),
        ("drop2d(0.4)", Word("drop2d", (0.4,))),
        ("shortcut-gate(-6)", Word("shortcut-gate", (-6,))),
        ("scale(0.5, 2)", Word("scale", (0.5, 2))),
        ("layerscale(1e-5)", Word("layerscale", (1e-5,))),
        ("act(leaky-relu)", Word("act", ("leaky-relu",))),
        ("random-resized-crop(32)", Word("random-resized-crop", (32,))),
        ("flip()", Word("flip")),
        ("+", Word("+")),
        ("|", Word("|")),
    ],
)
def test_a_word_is_read(sentence, word):
    assert parse_words(sentence) == (word,)


def test_a_sentence_is_words_parted_by_spaces():
    words = parse_words("  conv7/2(64)  norm act\tmaxpool3/2 ")
    assert [word.name for word in words] == ["conv", "norm", "act", "maxpool"]
    assert parse_words("") == parse_words("  ") == ()


@pytest.mark.parametrize(
    "broken",
    ["pad(4", "pad 4)", "pad((4))", "3conv", "pad(4))", "conv3//2", "conv/", "pad(,)", "pad(4,)", "a,b", "é"],
)
def test_what_cannot_be_read_is_refused_and_named(broken):
    with pytest.raises(ValueError) as error:
        parse_words(f"flip {broken}")
    assert any(repr(part)[1:-1] in str(error.value) for part in broken.split())


def test_every_sentence_of_the_tables_is_read_back_as_it_was_written():
    sentences = [order.sentence for order in ORDERS.values()]
    sentences += [sentence for arch in ARCHS.values() for sentence in (arch.stem, arch.head, arch.mix, arch.norm)]
    for sentence in sentences:
        words = parse_words(sentence)
        assert parse_words(" ".join(map(str, words))) == words
        assert " ".join(map(str, words)) == " ".join(sentence.split())


def test_any_word_is_read_back_as_it_was_written():
    drawn = random.Random(0)
    numbers = [0, 1, -6, 32, 1234567, 10**12, 0.5, -0.25, 1e-5, 1 / 3, 0.1234567891, 1e300, 123456.789]
    names = ["conv", "drop2d", "shortcut-gate", "random-resized-crop", "a_b", "x1y"]
    sizes, strides = (None, 1, 3, 17), (None, 1, 2)
    for name, size, stride in itertools.product(names, sizes, strides):
        args = tuple(drawn.choice([*numbers, "tanh", "leaky-relu"]) for _ in range(drawn.randrange(4)))
        word = Word(name, args, size, stride)
        assert parse_words(str(word)) == (word,)
        assert [type(arg) for arg in parse_words(str(word))[0].args if isinstance(arg, int)] == [
            int for arg in args if isinstance(arg, int) or (isinstance(arg, float) and arg.is_integer() and arg < 1e6)
        ]


def test_mix_words_say_what_they_do_and_where_they_are_from():
    for name, word in (JOINS | ON_SHORTCUT | ON_BRANCH).items():
        assert word.does, name
        assert word.source, name
