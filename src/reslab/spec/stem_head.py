"""The sentences at the two ends of a network, stem and head, and what each of their words may say."""

from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words
from reslab.spec.order import check_plain

POOLS = ("maxpool", "avgpool")
STEM_WORDS = ("conv", *POOLS, "norm", "act", "drop", "drop2d", "se", "bias", "scale")
HEAD_WORDS = (*POOLS, "flatten", "fc", "act", "drop", "drop2d", "bias", "scale")


def conv_width(word: Word) -> int:
    """The output width of a stem's `conv3/2(32)`; ValueError where it has none, or an even kernel."""
    if len(word.args) != 1 or not isinstance(word.args[0], int) or word.args[0] < 1:
        raise refuse("a stem's convolution as convK/S(WIDTH)", repr(str(word)), "'conv3(16)'")
    if word.size is not None and word.size % 2 == 0:
        near = f"'conv{word.size + 1}({word.args[0]})'"
        raise refuse("an odd kernel, so that only the stride changes the size", repr(str(word)), near)
    return word.args[0]


def check_stem(sentence: str) -> None:
    """Raises ValueError for a word that has no place in a stem, or says what it cannot mean there."""
    for word in parse_words(sentence):
        if word.name not in STEM_WORDS:
            raise unknown("word in a stem", word.name, STEM_WORDS)
        _check_stride(word)
        if word.name == "conv":
            conv_width(word)
        elif word.name not in POOLS:
            check_plain(word)
        elif not word.size or word.args:
            raise refuse("a stem's pool as maxpoolK/S", repr(str(word)), "'maxpool3/2'")


def check_head(sentence: str) -> None:
    """Raises ValueError for a word that has no place in a head, for linear layers that read maps, or a last one that
    has a width of its own in place of num_classes."""
    words = parse_words(sentence)
    flat = False
    for word in words:
        if word.name not in HEAD_WORDS:
            raise unknown("word in a head", word.name, HEAD_WORDS)
        _check_stride(word)
        if flat if word.name in (*POOLS, "flatten", "drop2d") else not flat and word.name == "fc":
            raise refuse("maps pooled, then flattened once, then linear layers", repr(sentence), "'avgpool flatten fc'")
        flat = flat or word.name == "flatten"
        if word.name not in (*POOLS, "flatten", "fc"):
            check_plain(word)
        elif word.name == "fc" and word.args:
            _check_hidden(word)
    linear = [word for word in words if word.name == "fc"]
    if linear and linear[-1].args:
        raise refuse("a last 'fc' without a width (num_classes is its width)", repr(sentence), "'avgpool flatten fc'")


def _check_stride(word: Word) -> None:
    if word.stride == 0 or word.size == 0:
        raise refuse("sizes and strides from 1", repr(str(word)), repr(f"{word.name}3/2"))


def _check_hidden(word: Word) -> None:
    width = word.args[0]
    if len(word.args) != 1 or not isinstance(width, int) or width < 1:
        raise refuse("a hidden linear layer as fc(WIDTH)", repr(str(word)), "'fc(32)'")
