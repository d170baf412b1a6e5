"""The explorer checked by axe-core against WCAG 2, level AA, in each state, light and dark, wide and narrow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.web.accessibility import check
from tests.deploy.web.browser import SCREENS, Browser, Page, expect, lever, opened_page, verdict, wait_for_answers


@pytest.fixture(scope="module", params=[(screen, scheme) for screen in SCREENS for scheme in ("light", "dark")])
def dressed(request: Any, browser: Browser, address: str) -> Iterator[Page]:
    """The explorer on one screen in one color scheme, without animation, so that no color is caught in transition."""
    screen, scheme = request.param
    options = {"viewport": SCREENS[screen], "is_mobile": screen == "phone", "color_scheme": scheme}
    with opened_page(browser, address, reduced_motion="reduce", **options) as page:
        wait_for_answers(page)
        yield page


def answered(page: Page, png: Path) -> None:
    expect(page.locator(".matrix")).to_be_visible()


def unit_off_and_open(page: Page, png: Path) -> None:
    lever(page, "layer1.1").click()
    expect(verdict(page)).to_contain_text("was ")
    page.locator("[data-block='layer1.1'] .block").first.click()
    expect(page.locator(".block-details .maps img")).not_to_have_count(0)


def cell_open(page: Page, png: Path) -> None:
    page.locator(".matrix button.correct").first.click()
    expect(page.locator(".cell-images li")).not_to_have_count(0)


def side_by_side(page: Page, png: Path) -> None:
    page.select_option("#compare", "plain")
    expect(page.locator(".curve .dot")).to_have_count(10)
    expect(page.locator(".matrix")).to_have_count(2)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def error_shown(page: Page, png: Path) -> None:
    page.set_input_files("#file", {"name": "letter.txt", "mimeType": "text/plain", "buffer": b"No image."})
    expect(page.get_by_role("alert")).to_contain_text("could not be opened")


STATES: tuple[Callable[[Page, Path], None], ...] = (answered, unit_off_and_open, cell_open, side_by_side, error_shown)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_no_rule_is_broken(dressed: Page, state: Callable[[Page, Path], None], png: Path) -> None:
    """The states build on each other: each keeps what the previous one opened."""
    state(dressed, png)
    check(dressed)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_is_broken_before_the_first_result(browser: Browser, address: str, scheme: Any) -> None:
    def empty(page: Page) -> None:
        page.route("**/v1/**/samples*", lambda route: route.fulfill(json={"samples": []}))

    with opened_page(browser, address, before=empty, color_scheme=scheme, reduced_motion="reduce") as page:
        expect(page.locator(".model-panel .tile")).to_have_count(6)
        expect(page.locator(".matrix")).to_be_visible()
        check(page)
