"""Text that Markdown shall not read as markup."""

import re

_MARKUP = re.compile(r"[*_<\[\]$\\~]")


def escape(text: str) -> str:
    """Return plain text as Markdown: what would be markup outside of backticks becomes a character reference.

    A backslash would be escaped once more in a cell of a table.
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _MARKUP.sub(lambda m: f"&#{ord(m[0])};", part) for part in parts)
