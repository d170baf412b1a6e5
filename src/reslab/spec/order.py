"""Orders: in which order convolution, norm and activation stand in a unit.

An order is a sentence. `+` is the place where shortcut and branch meet; `|` parts the sentence into segments, one a
convolution: of two segments the first is repeated for all convolutions but the last, of three the middle one is
repeated; without `|` the sentence is spelt out in full.

    conv norm act | conv norm + act          He et al. 2015
    norm act conv | norm act conv +          He et al. 2016, Fig. 4(e)
"""

from collections import Counter
from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words

UNIT_WORDS = ("conv", "norm", "act", "drop", "drop2d", "se", "bias", "scale")
AHEAD = ("projects", "changes", "first")


@dataclass(frozen=True)
class Order:
    """A sentence and the facts that belong to it.

    `ahead`: where the words before the first convolution stand ahead of the fork, so that the shortcut reads them too:
    in units whose shortcut `projects`, in every unit whose shape `changes`, in the `first` unit of the network; empty
    for never. `first_bare`: the first unit goes without its leading words. `stem`: the words after the stem's last
    convolution. `last`: the words after the last unit. `projection_norm`: whether a projection carries a norm.
    """

    sentence: str
    source: str = ""
    ahead: tuple[str, ...] = ()
    first_bare: bool = False
    stem: str = "norm act"
    last: str = ""
    projection_norm: bool = True


_PREACT = Order(
    "norm act conv | norm act conv +",
    "He et al. 2016, arXiv:1603.05027, Fig. 4(e) and appendix",
    ahead=("projects", "first"),
    stem="",
    last="norm act",
    projection_norm=False,
)

ORDERS: dict[str, Order] = {
    "original": Order(
        "conv norm act | conv norm + act", "He et al. 2015, arXiv:1512.03385, Fig. 2; He et al. 2016, Fig. 4(a)"
    ),
    "bn-after-add": Order(
        "conv norm act | conv + norm act",
        "He et al. 2016, Fig. 4(b); the bare projection is a reading",
        projection_norm=False,
    ),
    "relu-before-add": Order("conv norm act | conv norm act +", "He et al. 2016, Fig. 4(c)"),
    "relu-preact": Order(
        "act conv norm | act conv norm +",
        "He et al. 2016, Fig. 4(d); the words of stem and end are a reading",
        ahead=("projects", "first"),
        stem="norm",
        last="act",
    ),
    "full-preact": _PREACT,
    "full-preact-stem": Order(
        _PREACT.sentence,
        "He et al. 2016 on ImageNet as fb.resnet.torch models/preresnet.lua: norm and activation before the max-pool",
        ahead=("projects",),
        first_bare=True,
        last="norm act",
        projection_norm=False,
    ),
    "wide": Order(
        "norm act conv | norm act drop conv +",
        "Zagoruyko and Komodakis 2016, arXiv:1605.07146, Sec. 2, Fig. 1(d)",
        ahead=("projects",),
        stem="",
        last="norm act",
        projection_norm=False,
    ),
    "pyramid": Order(
        "norm conv | norm act conv | norm act conv norm +",
        "Han, Kim and Kim 2017, arXiv:1610.02915, Fig. 6(d)",
        stem="norm",
        last="norm act",
        projection_norm=False,
    ),
    "se": Order("conv norm act | conv norm se + act", "Hu, Shen and Sun 2018, arXiv:1709.01507, Fig. 3"),
    "norm-free-preact": Order(
        "act conv | act conv +",
        "De and Smith 2020, arXiv:2002.10444, Sec. 3 (SkipInit: the pre-activated unit without its norms)",
        ahead=("projects", "first"),
        stem="",
        last="act",
        projection_norm=False,
    ),
    "fixup": Order(
        "bias conv bias act | bias conv scale bias + act",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Fig. 1; a shortcut with a module reads the first bias",
        ahead=("changes", "projects"),
        stem="bias act",
        projection_norm=False,
    ),
    "book": Order(
        "conv norm act +",
        "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5.3, ResBlock",
        stem="act",
    ),
    "book-bare": Order(
        "conv act +", "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5.3, NetRes", stem="act"
    ),
}


@dataclass(frozen=True)
class NamedWord:
    """A word of a unit with the name its module bears: `conv1`, `bn1`, `act1`; `conv` is the number of convolutions
    before it."""

    name: str
    word: Word
    conv: int


@dataclass(frozen=True)
class Sentence:
    """A sentence for a given number of convolutions: the leading words, the rest of the branch, the words after the
    addition."""

    leading: tuple[NamedWord, ...]
    branch: tuple[NamedWord, ...]
    after: tuple[NamedWord, ...]


def get_order(name: str) -> Order:
    """The order of this name, or one made from a sentence; its facts then follow from where its first convolution
    stands.

    A sentence with words before its first convolution is pre-activated: its stem ends bare, the last unit is followed
    by those words, they stand ahead of the fork in the first unit and where the unit projects, and projections are
    bare. Raises ValueError for neither.
    """
    if name in ORDERS:
        return ORDERS[name]
    words = parse_words(name) if "conv" in name else ()
    names = [word.name for word in words]
    if "conv" not in names:
        raise unknown(
            "order", name, ORDERS, "or a sentence such as 'conv norm act | conv norm + act' with its convolutions"
        )
    leading = " ".join(str(word) for word in words[: names.index("conv")])
    if leading:
        return Order(name, "a sentence", ("projects", "first"), stem="", last=leading, projection_norm=False)
    stem = " ".join(str(words[names.index(role)]) for role in ("norm", "act") if role in names)
    return Order(name, "a sentence", stem=stem, projection_norm="norm" in names)


def check_plain(word: Word) -> None:
    """Raises ValueError where a word other than a pool or a linear layer says what it cannot mean: only `drop(0.3)`,
    `drop2d(0.3)` and `act(tanh)` say more than their name."""
    if word.size is not None or word.stride is not None:
        raise refuse(f"'{word.name}' without a size or stride", repr(str(word)), repr(word.name))
    kinds: dict[str, tuple[type, ...]] = {"act": (str,), "drop": (int, float), "drop2d": (int, float)}
    fits = len(word.args) <= 1 and all(isinstance(arg, kinds.get(word.name, ())) for arg in word.args)
    if not fits or any(not 0 <= arg < 1 for arg in word.args if not isinstance(arg, str)):
        example = {"act": "'act(tanh)'", "drop": "'drop(0.3)'", "drop2d": "'drop2d(0.3)'"}.get(word.name)
        required = (
            f"a word such as {example} (a rate in [0, 1))"
            if word.name in ("drop", "drop2d")
            else (f"a word such as {example}" if example else f"'{word.name}' without arguments")
        )
        raise refuse(required, repr(str(word)), example or repr(word.name))


def parse_order(sentence: str, num_convs: int) -> Sentence:
    """The sentence for a branch of `num_convs` convolutions, its words named by role and number.

    Raises ValueError where the sentence has no single `+`, a convolution after it, an unknown word, or other
    convolutions than asked.
    """
    before, after = _halves(sentence)
    spelt = _spell(sentence, before, num_convs)
    named = _name(spelt + after)
    body, tail = named[: len(spelt)], named[len(spelt) :]
    first_conv = next(i for i, word in enumerate(body) if word.word.name == "conv")
    return Sentence(body[:first_conv], body[first_conv:], tail)


def _halves(sentence: str) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    words = parse_words(sentence)
    names = [word.name for word in words]
    for name in names:
        if name not in (*UNIT_WORDS, "+", "|"):
            raise unknown("word in an order", name, (*UNIT_WORDS, "+", "|"))
    for word in words:
        check_plain(word)
    if names.count("+") != 1:
        raise refuse(
            "an order with one '+', the place where shortcut and branch meet",
            repr(sentence),
            repr(ORDERS["original"].sentence),
        )
    plus = names.index("+")
    if "conv" in names[plus:] or "|" in names[plus:]:
        raise refuse(
            "an order whose convolutions all stand before '+'", repr(sentence), repr(ORDERS["original"].sentence)
        )
    return words[:plus], words[plus + 1 :]


def _spell(sentence: str, before: tuple[Word, ...], num_convs: int) -> tuple[Word, ...]:
    segments: list[list[Word]] = [[]]
    for word in before:
        if word.name == "|":
            segments.append([])
        else:
            segments[-1].append(word)
    counts = [sum(word.name == "conv" for word in segment) for segment in segments]
    if len(segments) == 1:
        if counts[0] != num_convs:
            nearest = repr(ORDERS["original"].sentence)
            raise refuse(
                f"an order with {num_convs} convolutions, as the branch has", f"{counts[0]} in {sentence!r}", nearest
            )
        return tuple(segments[0])
    if len(segments) > 3 or any(count != 1 for count in counts):
        raise refuse(
            "an order of two or three segments with one convolution each",
            repr(sentence),
            repr(ORDERS["original"].sentence),
        )
    head, last = segments[:-1], segments[-1]
    chosen = [*head[:1], *([head[-1]] * max(num_convs - 2, 0))] if num_convs > 1 else []
    return tuple(word for segment in [*chosen, last] for word in segment)


_ROLES = {"norm": "bn"}


def _name(words: tuple[Word, ...]) -> tuple[NamedWord, ...]:
    seen: Counter[str] = Counter()
    named = []
    for word in words:
        role = _ROLES.get(word.name, word.name)
        seen[role] += 1
        bare = role == "se" and seen[role] == 1
        named.append(NamedWord(role if bare else f"{role}{seen[role]}", word, seen["conv"]))
    return tuple(named)
