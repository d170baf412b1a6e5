"""Accessibility rules (WCAG 2, level AA, and best practice), checked by axe-core."""

import pytest

from tests.deploy.web.browser import REQUIRED, Page

if not REQUIRED:
    pytest.importorskip("axe_playwright_python", reason="accessibility was not tried: axe is not installed")

from axe_playwright_python.sync_playwright import Axe

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def check(page: Page) -> None:
    """Assert that no rule of RULES is violated."""
    result = Axe().run(page, options={"resultTypes": ["violations"], "runOnly": list(RULES)})
    assert result.violations_count == 0, result.generate_report()
