"""The tables in the reference equal the tables in the code. `python tests/test_docs.py` writes them."""

import re
from pathlib import Path

from reslab.report.format import markdown_table
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import BRANCH_MODIFIERS, MERGE_OPS, SHORTCUT_MODIFIERS, SHORTCUTS

GRAMMAR = Path(__file__).parent.parent / "docs" / "reference" / "grammar.md"


def tables() -> dict[str, str]:
    """The tables of the page, each by the marker ahead of it."""
    orders = [[f"`{name}`", f"`{order.layout}`", order.reference] for name, order in ORDERS.items()]
    shortcuts = [[f"`{name}`", shortcut.description, shortcut.reference] for name, shortcut in SHORTCUTS.items()]
    merges = [
        [
            role,
            f"`{name}{'(' + ', '.join('ab'[: op.num_args]) + ')' if op.num_args else ''}`",
            op.description,
            op.reference,
        ]
        for role, table in (
            ("operation", MERGE_OPS),
            ("modifier of the shortcut", SHORTCUT_MODIFIERS),
            ("modifier of the branch", BRANCH_MODIFIERS),
        )
        for name, op in table.items()
    ]
    return {
        "orders": markdown_table(["order", "layout", "reference"], orders),
        "shortcuts": markdown_table(["shortcut", "module", "reference"], shortcuts),
        "merges": markdown_table(["role", "operation", "effect", "reference"], merges),
    }


def fill(page: str) -> str:
    """The page with the table after each marker replaced by the one from the code."""
    for marker, table in tables().items():
        page = re.sub(
            rf"<!-- {marker} -->\n\n(?:\|.*\n)*\n?",
            lambda _, m=marker, t=table: f"<!-- {m} -->\n\n{t.strip()}\n\n",
            page,
        )
    return page


def test_the_reference_lists_what_the_code_has() -> None:
    page = GRAMMAR.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in (*ORDERS, *SHORTCUTS))
    assert fill(page) == page


if __name__ == "__main__":
    GRAMMAR.write_text(fill(GRAMMAR.read_text(encoding="utf-8")), encoding="utf-8")
