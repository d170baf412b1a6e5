"""The tables of the reference are the tables of the code: `python tests/test_docs.py` writes them anew."""

import re
from pathlib import Path

from reslab.report.format import markdown_table
from reslab.spec.order import ORDERS
from reslab.spec.shortcut import BRANCH_MODIFIERS, MERGE_OPS, SHORTCUT_MODIFIERS, SHORTCUTS

GRAMMAR = Path(__file__).parent.parent / "docs" / "reference" / "grammar.md"


def tables() -> dict[str, str]:
    """Each table of the page by the mark it stands behind."""
    orders = [[f"`{name}`", f"`{order.layout}`", order.reference] for name, order in ORDERS.items()]
    matches = [[f"`{name}`", match.description, match.reference] for name, match in SHORTCUTS.items()]
    mixes = [
        [
            path,
            f"`{name}{'(' + ', '.join('ab'[: word.num_args]) + ')' if word.num_args else ''}`",
            word.description,
            word.reference,
        ]
        for path, table in (
            ("join", MERGE_OPS),
            ("on the shortcut", SHORTCUT_MODIFIERS),
            ("on the branch", BRANCH_MODIFIERS),
        )
        for name, word in table.items()
    ]
    return {
        "orders": markdown_table(["order", "sentence", "source"], orders),
        "matches": markdown_table(["match", "what it does", "source"], matches),
        "mixes": markdown_table(["", "word", "what it does", "source"], mixes),
    }


def filled(page: str) -> str:
    """The page with each table behind its mark replaced by today's."""
    for mark, table in tables().items():
        page = re.sub(
            rf"<!-- {mark} -->\n\n(?:\|.*\n)*\n?", lambda _, m=mark, t=table: f"<!-- {m} -->\n\n{t.strip()}\n\n", page
        )
    return page


def test_the_reference_lists_what_the_code_has() -> None:
    page = GRAMMAR.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in (*ORDERS, *SHORTCUTS))
    assert filled(page) == page


if __name__ == "__main__":
    GRAMMAR.write_text(filled(GRAMMAR.read_text(encoding="utf-8")), encoding="utf-8")
