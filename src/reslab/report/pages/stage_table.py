"""The page of a stage table (`reslab summary NAME... --stages --output FILE.html`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reslab.report.format import pluralize
from reslab.report.stage_table import Bracket, Part, StageTable, flops_text


@dataclass(frozen=True)
class StageTablePage:
    """The values of the page: the table itself."""

    table: StageTable


def stage_table_context(page: StageTablePage) -> dict[str, Any]:
    """Return the values of `stage_table.html`."""
    table = page.table
    return {
        "title": ", ".join(table.networks) if len(table.archs) <= 3 else pluralize(len(table.archs), "network"),
        "summary": "Layers, output sizes and blocks, stage by stage.",
        "metadata": {},
        "networks": table.networks,
        "rows": [
            {
                "name": row.name,
                "output": row.output,
                "shared": row.shared,
                "cells": [_cell(parts) for parts in row.cells] if any(row.cells) else [],
            }
            for row in table.rows
        ],
        "flops": [flops_text(macs) for macs in table.macs],
        "note": table.note,
    }


def _cell(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        {"lines": part.lines, "count": part.count} if isinstance(part, Bracket) else {"lines": (part,), "count": 0}
        for part in parts
    ]
