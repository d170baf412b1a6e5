"""How shortcut and branch meet: one join, and modifiers before it.

How the shortcut gets the branch's shape; identity wherever the shapes agree, unless the match stands on every
unit.
"""

import math
from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words


@dataclass(frozen=True)
class MixWord:
    """A word of a mix: what it does, how many arguments it takes, in which range, and where it is from."""

    does: str
    num_args: int
    source: str
    low: float = float("-inf")
    high: float = float("inf")


JOINS: dict[str, MixWord] = {
    "add": MixWord("shortcut + branch", 0, "He et al. 2015, Eq. 1"),
    "none": MixWord("branch (the plain twin)", 0, "He et al. 2015, Sec. 3.3"),
    "scale": MixWord("a * shortcut + b * branch", 2, "He et al. 2016, Sec. 3.1"),
    "gate": MixWord(
        "(1 - g) * shortcut + g * branch", 1, "He et al. 2016, Sec. 3.1 (exclusive gating); Srivastava et al. 2015"
    ),
    "shortcut-gate": MixWord("(1 - g) * shortcut + branch", 1, "He et al. 2016, Sec. 3.1 (shortcut-only gating)"),
}

ON_SHORTCUT: dict[str, MixWord] = {
    "dropout": MixWord("elements dropped, the others divided by 1 - p", 1, "He et al. 2016, Sec. 3.1", 0.0, 1.0),
}

ON_BRANCH: dict[str, MixWord] = {
    "survive": MixWord(
        "one draw a batch, times p at test; p linear in depth, here the last unit's",
        1,
        "Huang et al. 2016, Sec. 3",
        0.0,
        1.0,
    ),
    "drop-path": MixWord(
        "one draw a sample, divided by 1 - p in training; p linear in depth, here the last unit's",
        1,
        "Larsson et al. 2017",
        0.0,
        1.0,
    ),
    "rezero": MixWord("one learned scalar, from 0", 0, "Bachlechner et al. 2021, arXiv:2003.04887, Eq. 1"),
    "skipinit": MixWord("one learned scalar, from 0", 0, "De and Smith 2020, arXiv:2002.10444, Sec. 3"),
    "layerscale": MixWord("a learned scalar a channel, from eps", 1, "Touvron et al. 2021, arXiv:2103.17239, Eq. 4"),
}


@dataclass(frozen=True)
class Mix:
    """A parsed mix: the join and the modifiers of each path, in the order they are applied."""

    join: Word
    on_shortcut: tuple[Word, ...] = ()
    on_branch: tuple[Word, ...] = ()


def parse_mix(sentence: str) -> Mix:
    """The mix that a sentence such as `survive(0.5) add` names; a sentence without a join adds.

    Raises ValueError for an unknown word, wrong arguments, two joins, or a combination that means nothing.
    """
    words = parse_words(sentence)
    table = JOINS | ON_SHORTCUT | ON_BRANCH
    for word in words:
        if word.name not in table:
            raise unknown("mix", word.name, table)
        _check_args(word, table[word.name])
    joins = [word for word in words if word.name in JOINS]
    if len(joins) > 1:
        raise refuse("a mix with one join", f"{len(joins)} in {sentence!r}", repr(str(joins[0])))
    mix = Mix(
        joins[0] if joins else Word("add"),
        tuple(word for word in words if word.name in ON_SHORTCUT),
        tuple(word for word in words if word.name in ON_BRANCH),
    )
    if mix.join.name == "none" and (mix.on_shortcut or mix.on_branch):
        word = (*mix.on_shortcut, *mix.on_branch)[0]
        why = "the plain twin has no shortcut to modify, and nothing is left where its branch is scaled by 0 or dropped"
        raise refuse(f"'none' alone ({why})", repr(sentence), "'none'", f"use '{word} add'")
    learned = [word for word in mix.on_branch if word.name in ("rezero", "skipinit")]
    if len(learned) > 1 or len({word.name for word in words}) < len(words):
        raise refuse(
            "each modifier once (rezero and skipinit are the same scalar)", repr(sentence), repr(str(words[0]))
        )
    return mix


def _check_args(word: Word, entry: MixWord) -> None:
    if (
        word.size is not None
        or word.stride is not None
        or len(word.args) != entry.num_args
        or not all(isinstance(arg, int | float) and math.isfinite(arg) for arg in word.args)
    ):
        usual = "-6" if word.name.endswith("gate") else "0.5"
        example = f"{word.name}({','.join([usual] * entry.num_args)})" if entry.num_args else word.name
        raise refuse(f"{word.name} with {entry.num_args or 'no'} number(s)", repr(str(word)), repr(example))
    for arg in word.args:
        if not entry.low <= float(arg) <= entry.high:
            clipped = min(max(float(arg), entry.low), entry.high)
            raise refuse(
                f"{word.name} between {entry.low:g} and {entry.high:g}",
                f"{arg:g}" if not isinstance(arg, str) else arg,
                f"{word.name}({clipped:g})",
            )


def survival(last: float, index: int, num_units: int) -> float:
    """The probability that unit `index` (from 0) survives: p_l = 1 - (l / L)(1 - p_L), l = index + 1 (Huang et al.
    2016, Eq. 4)."""
    return 1.0 - (index + 1) / num_units * (1.0 - last)


def drop_path_rate(last: float, index: int, num_units: int) -> float:
    """The rate at which unit `index` (from 0) drops its branch: 0 in the first unit, `last` in the last, linear
    between, as timm has it."""
    return last * index / (num_units - 1) if num_units > 1 else last


@dataclass(frozen=True)
class Match:
    """`kind`: the module it builds. `every`: it stands on every unit, also where the shapes agree."""

    kind: str
    does: str
    source: str
    every: bool = False

    @property
    def projects(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("project", "conv1x1", "avg-project")


MATCHES: dict[str, Match] = {
    "pad": Match("pad", "strided, zeros after (option A)", "He et al. 2015, Sec. 4.1 and 4.2"),
    "pad-split": Match(
        "pad-split",
        "strided, half of the zeros before, half after (option A)",
        "github.com/akamaster/pytorch_resnet_cifar10",
    ),
    "avg-pad": Match("avg-pad", "2x2 average pool, zeros after", "Han, Kim and Kim 2017, arXiv:1610.02915, Sec. 3.3"),
    "project": Match("project", "1x1 convolution and norm (option B)", "He et al. 2015, Sec. 4.1"),
    "project-all": Match(
        "project", "1x1 convolution and norm on every unit (option C)", "He et al. 2015, Sec. 4.1", every=True
    ),
    "conv1x1": Match("conv1x1", "a bare 1x1 convolution", "Zhang et al., Dive into Deep Learning, Sec. 8.6"),
    "conv1x1-all": Match(
        "conv1x1", "a bare 1x1 convolution on every unit", "He et al. 2016, Sec. 3.1, Table 1 (a reading)", every=True
    ),
    "avg-project": Match(
        "avg-project",
        "2x2 average pool, 1x1 convolution, norm (ResNet-D)",
        "He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c)",
    ),
}


def get_match(name: str) -> Match:
    """The match of this name; ValueError with the nearest names where there is none."""
    if name not in MATCHES:
        raise unknown("match", name, MATCHES)
    return MATCHES[name]
