"""The page of `reslab data check`: what there is, what is wrong with it, and one augmented batch to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Picture:
    """One picture to show, uint8 (H, W) or (H, W, 3), with what stands below it: a bold word and a name."""

    image: np.ndarray
    said: str = ""
    name: str = ""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures that are the same or nearly: `kind` in words, for the heading of the group."""

    kind: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class DataPage:
    """What the page of a check shows; every part but the title may be empty.

    `counts[split][class]` are numbers of pictures; `findings` (severity, sentence), severity error, warning or note;
    `sizes[split]` (height, width) of each readable picture; `unreadable` (path, reason); `groups` twins, at most as
    many as a person will look at, of `num_groups`; `batch` a training batch as the network sees it, under `words`.
    """

    title: str
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    findings: Sequence[tuple[str, str]] = ()
    sizes: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    unreadable: Sequence[tuple[str, str]] = ()
    groups: Sequence[PictureGroup] = ()
    num_groups: int = 0
    batch: Sequence[Picture] = ()
    words: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
