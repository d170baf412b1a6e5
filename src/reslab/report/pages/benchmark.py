"""The page of `reslab bench --task predict`: throughput and latency of each backend and precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.format import format_int, format_number
from reslab.report.pages.components import make_panel, make_tile
from reslab.spec.errors import invalid

BENCHMARK_COLUMNS = (
    "backend",
    "precision",
    "batch size",
    "images/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "memory",
    "export time",
)


@dataclass(frozen=True)
class BenchmarkPage:
    """The values of the page: at least one result with backend, precision, batch_size, images_per_second and its range,
    latency_ms_p50, _p95 and _p99, memory_bytes (or None) and prepare_seconds."""

    title: str
    results: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, str] = field(default_factory=dict)


def benchmark_context(page: BenchmarkPage) -> dict[str, Any]:
    """Return the values of `curves.html`. Raises ValueError where there is no result."""
    if not page.results:
        raise invalid("at least one benchmark result", "none")
    batch_sizes = sorted({result["batch_size"] for result in page.results})
    by_batch = {size: [result for result in page.results if result["batch_size"] == size] for size in batch_sizes}
    return {
        "kind": "Inference benchmark",
        "title": page.title,
        "summary": " ".join(_fastest_text(size, results) for size, results in by_batch.items()),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [_batch_tile(size, results) for size, results in by_batch.items()],
        "heading": "Throughput",
        "curves": [_batch_panel(size, results) for size, results in by_batch.items()],
        "columns": [*BENCHMARK_COLUMNS[:4], "min to max", *BENCHMARK_COLUMNS[4:]],
        "rows": [_benchmark_row(result) for results in by_batch.values() for result in results],
        "caption": "images/s: median of the rounds, with the slowest and the fastest. Latency percentiles are of a "
        "whole batch.",
    }


def benchmark_cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one result as text, in the order of BENCHMARK_COLUMNS."""
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
    cells = benchmark_cells(result)
    slowest, fastest = (format_number(rate, 3) for rate in result["images_per_second_range"])
    return [*cells[:4], f"{slowest} to {fastest}", *cells[4:]]


def _fastest_result(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(results, key=lambda result: result["images_per_second"])


def _fastest_text(batch_size: int, results: Sequence[Mapping[str, Any]]) -> str:
    fastest = _fastest_result(results)
    text = f"Batch size {batch_size}: {fastest['backend']} in {fastest['precision']} is fastest"
    baseline = next(
        (result for result in results if (result["backend"], result["precision"]) == ("torch", "float32")), None
    )
    if baseline is None or baseline is fastest:
        return f"{text}."
    return f"{text}, {fastest['images_per_second'] / baseline['images_per_second']:.1f} times torch in float32."


def _batch_tile(batch_size: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fastest = _fastest_result(results)
    rate = format_number(fastest["images_per_second"], 3)
    return make_tile(f"batch size {batch_size}", rate, f"images/s: {fastest['backend']}, {fastest['precision']}")


def _batch_panel(batch_size: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from reslab.report.plots.bars import plot_throughput

    return make_panel(
        plot_throughput(results),
        f"throughput-{batch_size}",
        title=f"Batch size {batch_size}",
        alt_text=f"Images per second at batch size {batch_size}. {_fastest_text(batch_size, results)}",
        caption="Bars: median of the rounds. Thin lines: from the slowest round to the fastest.",
    )
