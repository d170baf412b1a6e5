"""Pictures that are there twice: the same pixels, or nearly the same look."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reslab.data.looks import Look

MOST_BITS = 6
LEAST_CORRELATION = 0.97
LEAST_SIDE = 16
_BANDS = MOST_BITS + 1


@dataclass(frozen=True)
class Twins:
    """Pictures, by their places among the looks, that belong together; `bits` the largest distance that links two.

    `exact` where the pixels are the same, all of them.
    """

    places: tuple[int, ...]
    exact: bool
    bits: int = 0


def find_exact(looks: Sequence[Look]) -> list[Twins]:
    """Groups of pictures with the same pixels, whatever the files are called and however they are packed."""
    by_digest: dict[bytes, list[int]] = {}
    for place, look in enumerate(looks):
        if not look.error:
            by_digest.setdefault(look.pixels, []).append(place)
    return [Twins(tuple(places), True) for places in by_digest.values() if len(places) > 1]


def find_near(looks: Sequence[Look]) -> list[Twins]:
    """Groups linked by looking nearly the same, without being all the same pixels.

    Two pictures look nearly the same where their difference hashes differ in at most MOST_BITS of 64 bits and their
    sketches (8x8 colours) correlate by LEAST_CORRELATION or more. Pictures of one colour are left out, and those under
    LEAST_SIDE pixels, of which many look alike.
    """
    exact = {place: twins.places[0] for twins in find_exact(looks) for place in twins.places}
    firsts = [i for i, look in enumerate(looks) if _has_a_look(look) and exact.get(i, i) == i]
    groups = _linked(_links(firsts, looks))
    whole: dict[int, list[int]] = {}
    for place, first in exact.items():
        whole.setdefault(first, []).append(place)
    return [
        Twins(tuple(sorted(place for first in group for place in whole.get(first, [first]))), False, bits)
        for group, bits in groups
    ]


def _links(places: Sequence[int], looks: Sequence[Look]) -> Iterator[tuple[int, int, int]]:
    """(place, place, bits between) of every two that look nearly the same."""
    hashes = np.array([looks[i].hash for i in places], dtype=np.uint64)
    sketches = _standardised([looks[i].sketch for i in places])
    for one, other in _close_pairs(hashes):
        alike = (sketches[one] * sketches[other]).sum(1) >= LEAST_CORRELATION
        bits = np.bitwise_count(hashes[one] ^ hashes[other])
        for a, b, distance in zip(one[alike], other[alike], bits[alike], strict=True):
            yield places[a], places[b], int(distance)


def _linked(links: Iterable[tuple[int, int, int]]) -> list[tuple[list[int], int]]:
    """The groups that links tie together, each sorted, with its largest distance; by their first places."""
    leader: dict[int, int] = {}
    known = list(links)
    for a, b, _ in known:
        leader[_top(leader, b)] = _top(leader, a)
    groups: dict[int, tuple[set[int], int]] = {}
    for a, b, distance in known:
        members, most = groups.setdefault(_top(leader, a), (set(), 0))
        groups[_top(leader, a)] = (members | {a, b}, max(most, distance))
    return sorted((sorted(members), most) for members, most in groups.values())


def _has_a_look(look: Look) -> bool:
    return not look.error and not look.blank and min(look.height, look.width) >= LEAST_SIDE


def _standardised(sketches: Sequence[np.ndarray | None]) -> np.ndarray:
    """(N, values), each row of mean 0 and length 1, so that a product of two is their correlation."""
    if not sketches:
        return np.zeros((0, 1), np.float32)
    rows = np.stack([sketch for sketch in sketches if sketch is not None]).reshape(len(sketches), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _close_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (one, other) of places whose hashes differ in at most MOST_BITS; a pair may come more than once.

    Of MOST_BITS + 1 bands of the bits two such hashes share at least one, so only hashes that do are compared.
    """
    edges = np.linspace(0, 64, _BANDS + 1).astype(np.uint64)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> low) & mask
        order = np.argsort(band, kind="stable")
        edges_of_runs = [0, *(np.flatnonzero(np.diff(band[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(edges_of_runs):
            yield from _close_within(hashes, order[start:stop])


def _close_within(hashes: np.ndarray, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for k in range(len(places) - 1):
        rest = places[k + 1 :]
        close = rest[np.bitwise_count(hashes[rest] ^ hashes[places[k]]) <= MOST_BITS]
        if len(close):
            yield np.full(len(close), places[k]), close


def _top(leader: dict[int, int], place: int) -> int:
    while leader.setdefault(place, place) != place:
        leader[place] = leader[leader[place]]
        place = leader[place]
    return place
