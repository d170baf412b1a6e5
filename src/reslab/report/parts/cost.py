"""What the network of a run costs: its depth, its parameters, its multiply-adds, and where they lie."""

from collections.abc import Sequence
from typing import Any

from reslab.report.cost import MOST_LAYERS, Cost, by_layer, by_stage
from reslab.report.format import amount, count, percent, plural, shape
from reslab.report.page import RunPage
from reslab.report.parts.scores import tile


def cost_parts(page: RunPage) -> dict[str, Any]:
    """The three large figures, one row a stage, and one a layer (a unit, where the layers are very many)."""
    tiles = []
    if page.depth:
        tiles.append(tile("depth", count(page.depth), "layers with weights, projections not counted"))
    if page.params:
        tiles.append(
            tile("parameters", amount(page.params), f"{count(page.params)}: {_megabytes(page.params)} in float32")
        )
    if page.macs:
        tiles.append(tile("multiply-adds", amount(page.macs), "for one image, forward"))
    return {
        "cost_tiles": tiles,
        "stage_rows": _rows(by_stage(page.layers)),
        "layer_rows": _rows(by_layer(page.layers)),
        "layers_words": _words(len(page.layers)),
    }


def _megabytes(params: int) -> str:
    return f"{4 * params / 1e6:,.1f} MB" if params >= 25_000 else f"{4 * params / 1e3:,.1f} kB"


def _words(num_layers: int) -> str:
    if num_layers > MOST_LAYERS:
        return f"All {count(num_layers)} layers, added up by unit"
    return f"The table of {plural(num_layers, 'layer')}"


def _rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    most, total = max((cost.macs for cost in costs), default=0), sum(cost.macs for cost in costs)
    return [
        {
            "name": cost.name,
            "shape": shape(cost.output_shape),
            "num_layers": count(cost.num_layers),
            "params": count(cost.params),
            "macs": count(cost.macs),
            "width": round(100 * cost.macs / most, 1) if most else 0,
            "share": percent(cost.macs / total, 1) if total and cost.macs else "–",
        }
        for cost in costs
    ]
