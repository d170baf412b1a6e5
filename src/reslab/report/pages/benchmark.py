"""Everything that the page of speeds names.

The page of `reslab bench --task predict`: how fast each engine answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from reslab.report.format import format_int, format_number
from reslab.report.pages.run import make_tile
from reslab.report.plots.bars import plot_throughput
from reslab.report.plots.export import render_inline_svg
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class BenchmarkPage:
    """What the page shows: `results` with engine, precision, batch, images_per_second and its range, latency_ms_p50,
    p95 and p99, memory_bytes (or None), prepare_seconds."""

    title: str
    results: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, str] = field(default_factory=dict)


BENCHMARK_COLUMNS = (
    "backend",
    "precision",
    "batch size",
    "images/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "memory",
    "made in",
)


def benchmark_context(page: BenchmarkPage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no result."""
    if not page.results:
        raise invalid("at least one measured engine", "none")
    batches = sorted({result["batch_size"] for result in page.results})
    by_batch = {batch: [result for result in page.results if result["batch_size"] == batch] for batch in batches}
    return {
        "kind": "Speed of prediction",
        "title": page.title,
        "summary": " ".join(_fastest_text(batch, results) for batch, results in by_batch.items()),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [_batch_tile(batch, results) for batch, results in by_batch.items()],
        "heading": "Images a second",
        "curves": [_batch_panel(batch, results) for batch, results in by_batch.items()],
        "columns": ["backend", "precision", "batch size", "images/s (rounds from, to)", *BENCHMARK_COLUMNS[4:]],
        "rows": [_benchmark_row(result) for results in by_batch.values() for result in results],
        "caption": "Latency of a whole batch: half, 95 % and 99 % of the calls took no longer.",
    }


def benchmark_cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    """One result under COLUMNS, as text."""
    memory = result["memory_bytes"]
    return (
        result["backend"],
        result["precision"],
        format_int(result["batch_size"]),
        format_number(result["images_per_second"]),
        *(format_number(result[f"latency_ms_{name}"], 3) for name in ("p50", "p95", "p99")),
        "–" if memory is None else f"{memory / 2**20:,.0f} MiB",
        f"{result['prepare_seconds']:.1f} s",
    )


def _benchmark_row(result: Mapping[str, Any]) -> list[str]:
    cells = list(benchmark_cells(result))
    slowest, fastest = result["images_per_second_range"]
    cells[3] += f" ({format_number(slowest, 3)} to {format_number(fastest, 3)})"
    return cells


def _fastest_result(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(results, key=lambda result: result["images_per_second"])


def _find_baseline(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    baselines = [result for result in results if (result["backend"], result["precision"]) == ("torch", "float32")]
    return baselines[0] if baselines else None


def _fastest_text(batch: int, results: Sequence[Mapping[str, Any]]) -> str:
    fastest, baseline = _fastest_result(results), _find_baseline(results)
    text = f"Batch {batch}: {fastest['backend']} in {fastest['precision']} is the quickest"
    if baseline is None or baseline is fastest:
        return f"{text}."
    return f"{text}, {fastest['images_per_second'] / baseline['images_per_second']:.1f} times torch in float32."


def _batch_tile(batch: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fastest = _fastest_result(results)
    rate_text = f"{format_number(fastest['images_per_second'], 3)} images/s"
    return make_tile(f"batch {batch}", rate_text, f"{fastest['backend']}, {fastest['precision']}")


def _batch_panel(batch: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alt_text = f"Images a second with batches of {batch}. {_fastest_text(batch, results)}"
    caption = "Bars: the median round. Thin lines: from the slowest round to the quickest."
    return {
        "title": f"Batch {batch}",
        "svg": Markup(render_inline_svg(plot_throughput(results), f"speed-{batch}", alt_text)),
        "caption": caption,
    }
