"""One way of naming the weights of a residual network, and its translation to reslab's names."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

RenameRules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class KeyScheme:
    """The key names of one code base, without wrappers and prefixes.

    * `signature_keys`: patterns that must each match some key. `absent_keys`: patterns that must match none.
    * `rules`: (pattern, template), applied in order, each at most once per key. `{block}` inserts what
      `(?P<block>...)` matched, `{stage+1}` a number plus one.
    * `implied_arch`: (axis, value) of the networks with these names, where the weights do not reveal it.
    * `zero_biases`: a convolution without a bias in the file has the bias zero.
    * `networks`: a pattern of the zoo's names, where only these have such keys.
    * `difference`: what these networks compute differently that no axis covers.
    """

    name: str
    reference: str
    signature_keys: tuple[str, ...]
    rules: RenameRules = ()
    absent_keys: tuple[str, ...] = ()
    implied_arch: tuple[tuple[str, str], ...] = ()
    networks: str = "*"
    difference: str = ""
    zero_biases: bool = False

    def covers(self, name: str) -> bool:
        """Return whether the zoo's network of this name can have these keys."""
        return fnmatchcase(name, self.networks)

    def matches(self, keys: Iterable[str]) -> bool:
        """Return whether these keys follow this scheme."""
        keys = list(keys)
        matched = [
            any(re.search(pattern, key) for key in keys) for pattern in (*self.signature_keys, *self.absent_keys)
        ]
        return all(matched[: len(self.signature_keys)]) and not any(matched[len(self.signature_keys) :])

    def translate(self, key: str) -> str:
        """Return reslab's name for this key."""
        for pattern, template in self.rules:
            key = re.sub(pattern, functools.partial(_fill_template, template), key, count=1)
        return key


def _fill_template(template: str, match: re.Match[str]) -> str:
    def value(slot: re.Match[str]) -> str:
        text = match[slot[1]]
        return str(int(text) + int(slot[2])) if slot[2] else text

    return re.sub(r"\{(\w+)([+-]\d+)?\}", value, template)
