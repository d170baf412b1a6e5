"""Which parts of a network are trained from when: `head: 0 epochs`, `layer4: 2 epochs`, `all: 5 epochs`."""

from dataclasses import dataclass

from reslab.spec.errors import refuse
from reslab.spec.optim import Duration, parse_duration

EXAMPLE = "'head: 0 epochs'"


@dataclass(frozen=True)
class Opening:
    """A part of a network, and from when it is trained.

    `part` is `head` (all after the last stage), `last-stage`, `all`, or the name of a module (`layer3`, `layer4.0`).
    """

    part: str
    start: Duration


def parse_openings(texts: tuple[str, ...]) -> tuple[Opening, ...]:
    """The openings said, none for all from the start.

    Raises ValueError where one is not `PART: LENGTH`, a part comes twice, or nothing is trained at first.
    """
    found = []
    for text in texts:
        part, colon, when = (word.strip() for word in text.partition(":"))
        if not part or not colon:
            raise refuse("unfreeze as PART: LENGTH", repr(text), nearest=EXAMPLE)
        found.append(Opening(part, parse_duration(when, "the start in unfreeze")))
    parts = [opening.part for opening in found]
    if len(set(parts)) < len(parts):
        raise refuse("each part of unfreeze once", ", ".join(parts))
    if found and min(opening.start.count for opening in found) > 0:
        raise refuse("a part of unfreeze that is trained from the start", ", ".join(texts), nearest=EXAMPLE)
    return tuple(found)
