"""Everything that the page of speeds names.

The page of `reslab bench --task predict`: how fast each engine answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from reslab.report.format import count, number
from reslab.report.pages.run import tile
from reslab.report.plots.bars import speed_figure
from reslab.report.plots.export import svg
from reslab.spec.errors import refuse


@dataclass(frozen=True)
class SpeedPage:
    """What the page shows: `results` with engine, precision, batch, images_per_second and its range, latency_ms_p50,
    p95 and p99, memory_bytes (or None), prepare_seconds."""

    title: str
    results: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str] = field(default_factory=dict)


COLUMNS = ("engine", "precision", "batch", "images/s", "p50 ms", "p95 ms", "p99 ms", "memory", "made in")


def speed_parts(page: SpeedPage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no result."""
    if not page.results:
        raise refuse("at least one measured engine", "none")
    batches = sorted({each["batch"] for each in page.results})
    by_batch = {batch: [each for each in page.results if each["batch"] == batch] for batch in batches}
    return {
        "kind": "Speed of prediction",
        "title": page.title,
        "summary": " ".join(_sentence(batch, found) for batch, found in by_batch.items()),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        "tiles": [_tile(batch, found) for batch, found in by_batch.items()],
        "heading": "Images a second",
        "curves": [_figure(batch, found) for batch, found in by_batch.items()],
        "columns": ["engine", "precision", "batch", "images/s (rounds from, to)", *COLUMNS[4:]],
        "rows": [_row(each) for found in by_batch.values() for each in found],
        "caption": "Latency of a whole batch: half, 95 % and 99 % of the calls took no longer.",
    }


def speed_cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    """One result under COLUMNS, as text."""
    memory = each["memory_bytes"]
    return (
        each["engine"],
        each["precision"],
        count(each["batch"]),
        number(each["images_per_second"]),
        *(number(each[f"latency_ms_{name}"], 3) for name in ("p50", "p95", "p99")),
        "–" if memory is None else f"{memory / 2**20:,.0f} MiB",
        f"{each['prepare_seconds']:.1f} s",
    )


def _row(each: Mapping[str, Any]) -> list[str]:
    cells = list(speed_cells(each))
    slow, quick = each["images_per_second_range"]
    cells[3] += f" ({number(slow, 3)} to {number(quick, 3)})"
    return cells


def _quickest(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(found, key=lambda each: each["images_per_second"])


def _plain(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    plain = [each for each in found if (each["engine"], each["precision"]) == ("torch", "float32")]
    return plain[0] if plain else None


def _sentence(batch: int, found: Sequence[Mapping[str, Any]]) -> str:
    best, plain = _quickest(found), _plain(found)
    said = f"Batch {batch}: {best['engine']} in {best['precision']} is the quickest"
    if plain is None or plain is best:
        return f"{said}."
    return f"{said}, {best['images_per_second'] / plain['images_per_second']:.1f} times torch in float32."


def _tile(batch: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = _quickest(found)
    rate = f"{number(best['images_per_second'], 3)} images/s"
    return tile(f"batch {batch}", rate, f"{best['engine']}, {best['precision']}")


def _figure(batch: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    label = f"Images a second with batches of {batch}. {_sentence(batch, found)}"
    words = "Bars: the median round. Thin lines: from the slowest round to the quickest."
    return {
        "title": f"Batch {batch}",
        "svg": Markup(svg(speed_figure(found), f"speed-{batch}", label)),
        "words": words,
    }
