"""A dialect: how others name the weights of a residual network, told by renaming rules."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dialect:
    """Names of a source, after wrappers and prefixes are gone.

    `marks`: patterns each of which some key must hold; `absent`: patterns that none may. `rules`: (pattern, template),
    applied in order, each at most once a key; `{unit}` stands for what `(?P<unit>...)` matched and `{stage+1}` for a
    number counted on. `implies`: (axis, value) of the networks that bear these names, where the weights alone cannot
    tell. `differs`: what such a network does that no axis says.
    """

    name: str
    source: str
    marks: tuple[str, ...]
    rules: Rules = ()
    absent: tuple[str, ...] = ()
    implies: tuple[tuple[str, str], ...] = ()
    differs: str = ""

    def speaks(self, keys: Iterable[str]) -> bool:
        """Whether these keys bear the marks of this dialect."""
        keys = list(keys)
        has = [any(re.search(mark, key) for key in keys) for mark in (*self.marks, *self.absent)]
        return all(has[: len(self.marks)]) and not any(has[len(self.marks) :])

    def translate(self, key: str) -> str:
        """The name that reslab gives to this key."""
        for pattern, template in self.rules:
            key = re.sub(pattern, functools.partial(_fill, template), key, count=1)
        return key


def _fill(template: str, match: re.Match[str]) -> str:
    def value(slot: re.Match[str]) -> str:
        text = match[slot[1]]
        return str(int(text) + int(slot[2])) if slot[2] else text

    return re.sub(r"\{(\w+)([+-]\d+)?\}", value, template)
