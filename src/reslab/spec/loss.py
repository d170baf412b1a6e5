"""What a network is trained towards, as a sentence: `cross-entropy`, `bce(0.2)`, `focal(2) distill(0.5,4)`."""

from dataclasses import dataclass

from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words

Argument = float | str


@dataclass(frozen=True)
class LossWord:
    """A word: an example, its source, the bounds and defaults of its numbers, and its choices of a word."""

    example: str
    source: str
    numbers: tuple[tuple[str, float, float, float | None], ...] = ()
    choices: tuple[str, ...] = ()


LOSSES: dict[str, LossWord] = {
    "cross-entropy": LossWord("cross-entropy", "the mean of -sum_c t_c log p_c"),
    "bce": LossWord(
        "bce(0.2)",
        "a sigmoid for each class (Wightman et al. 2021, Sec. 3.1); targets above the threshold become 1, others 0",
        (("threshold", 0.0, 1.0, None),),
        ("mean", "sum"),
    ),
    "focal": LossWord("focal(2)", "Lin et al. 2017, Eq. 4, over a softmax", (("gamma", 0.0, 100.0, 2.0),)),
    "focal-binary": LossWord(
        "focal-binary(2,0.25)",
        "Lin et al. 2017, Eq. 5, a sigmoid for each class",
        (("gamma", 0.0, 100.0, 2.0), ("alpha", 0.0, 1.0, 0.25)),
    ),
}
DISTILL = LossWord(
    "distill(0.5,4)",
    "Hinton et al. 2015, Sec. 2: share and temperature",
    (("alpha", 0.0, 1.0, None), ("temperature", 1e-3, 1e3, 1.0)),
)


@dataclass(frozen=True)
class LossPlan:
    """A sentence read: the loss's name, its numbers and word, and the share and temperature of a teacher."""

    name: str
    numbers: tuple[float | None, ...] = ()
    choice: str = ""
    distill: tuple[float, float] | None = None


def parse_loss(sentence: str) -> LossPlan:
    """A sentence of one loss and perhaps `distill(alpha,temperature)`, in either order.

    Raises ValueError for an unknown word (with the nearest), and for arguments out of range.
    """
    words = parse_words(sentence)
    losses = [word for word in words if word.name != "distill"]
    teachers = [word for word in words if word.name == "distill"]
    if len(losses) != 1 or len(teachers) > 1:
        raise refuse("one loss, and perhaps distill(alpha,temperature)", repr(sentence), nearest="'cross-entropy'")
    word = losses[0]
    if word.name not in LOSSES:
        raise unknown("loss", word.name, LOSSES)
    numbers, choice = _arguments(word, LOSSES[word.name])
    if not teachers:
        return LossPlan(word.name, numbers, choice)
    found, _ = _arguments(teachers[0], DISTILL)
    if found[0] is None:
        raise refuse("the teacher's share of the loss", str(teachers[0]), nearest=DISTILL.example)
    assert found[1] is not None
    return LossPlan(word.name, numbers, choice, (found[0], found[1]))


def parse_class_weights(text: str) -> tuple[float, ...] | str:
    """`""`, `"balanced"`, or numbers separated by commas (`"1,2.5,1"`), one a class; ValueError for all else."""
    if text in ("", "balanced"):
        return text
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise refuse("class_weights as 'balanced' or numbers separated by commas", repr(text), "'balanced'") from None
    if not (min(numbers) >= 0 and 0 < max(numbers) < float("inf")):
        raise refuse("class_weights of at least 0, one above it", repr(text), "'balanced'")
    return numbers


def _arguments(word: Word, known: LossWord) -> tuple[tuple[float | None, ...], str]:
    """The numbers in order, defaults where they are not said, and the word said (the first choice where none is)."""
    numbers = [arg for arg in word.args if not isinstance(arg, str)]
    said = [arg for arg in word.args if isinstance(arg, str)]
    glued = word.size is not None or word.stride is not None
    if glued or len(numbers) > len(known.numbers) or len(said) > bool(known.choices):
        raise refuse(f"a word such as {known.example}", str(word))
    for choice in said:
        if choice not in known.choices:
            raise unknown(f"word of {word.name}", choice, known.choices)
    found: list[float | None] = []
    for (name, least, most, default), given in zip(known.numbers, (*numbers, *(None,) * 9), strict=False):
        if given is not None and not least <= given <= most:
            raise refuse(f"{name} of {word.name} from {least:g} to {most:g}", str(word), nearest=known.example)
        found.append(default if given is None else float(given))
    return tuple(found), said[0] if said else (known.choices or ("",))[0]
