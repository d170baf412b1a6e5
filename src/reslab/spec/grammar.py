"""Sentences of words: `pad(4) crop(32) flip`, `conv norm act drop(0.3)`."""

import re
from dataclasses import dataclass

from reslab.spec.errors import refuse

_WORD = re.compile(r"(?P<name>[A-Za-z+|][A-Za-z0-9_-]*?)(?P<size>\d+)?(?:/(?P<stride>\d+))?(?:\((?P<args>[^()]*)\))?$")


@dataclass(frozen=True)
class Word:
    """One word: its name, the numbers glued to it (`conv7/2`: size 7, stride 2) and the arguments in brackets.

    Size and stride are None where the word does not say them.
    """

    name: str
    args: tuple[float | str, ...] = ()
    size: int | None = None
    stride: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else str(self.size)
        stride = "" if self.stride is None else f"/{self.stride}"
        args = f"({','.join(_shown(arg) for arg in self.args)})" if self.args else ""
        return f"{self.name}{size}{stride}{args}"


def _shown(arg: float | str) -> str:
    """An argument so that it is read back as it was; 6.0 is written 6."""
    if not isinstance(arg, float):
        return str(arg)
    return f"{arg:g}" if float(f"{arg:g}") == arg else repr(arg)


def _argument(text: str) -> float | str:
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def parse_words(sentence: str) -> tuple[Word, ...]:
    """The words of a sentence, separated by spaces; `conv3/2(32)` is size 3, stride 2, argument 32.

    Raises ValueError where a word cannot be read.
    """
    words = []
    for text in re.sub(r"\s*,\s*", ",", sentence).split():
        found = _WORD.match(text)
        if found is None:
            raise refuse(
                "words such as 'conv3/2(32) norm act' separated by spaces", repr(text), next_step="check the brackets"
            )
        args = found["args"]
        if args and not all(part.strip() for part in args.split(",")):
            raise refuse("an argument between any two commas", repr(text), repr(found["name"]))
        words.append(
            Word(
                found["name"],
                tuple(_argument(part) for part in args.split(",")) if args else (),
                int(found["size"]) if found["size"] else None,
                int(found["stride"]) if found["stride"] else None,
            )
        )
    return tuple(words)
