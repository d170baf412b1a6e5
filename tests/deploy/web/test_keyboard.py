"""The explorer by keyboard and screen reader: the focus is never lost, and each result is announced once."""

import re
from pathlib import Path

import pytest

from reslab.training.run import Run
from tests.deploy.web.browser import (
    Browser,
    Locator,
    Page,
    expect,
    lever,
    opened_page,
    served,
    verdict,
    wait_for_answers,
)


def unit_button(page: Page, unit: str) -> Locator:
    return page.locator(f".model-panel:first-child [data-block='{unit}'] .block")


def settled(page: Page) -> None:
    """Wait until every response has arrived."""
    expect(page.locator(".model-panel.waiting")).to_have_count(0)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def test_unit_is_opened_and_left_by_keyboard(page: Page) -> None:
    unit_button(page, "layer2.1").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Block layer2.1")).to_be_focused()
    expect(page.locator(".block-details .maps img")).not_to_have_count(0)
    expect(page.get_by_role("heading", name="Block layer2.1")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    lever(page, "layer1.1").evaluate("lever => lever.click()")
    expect(page.locator(".block-details figcaption")).to_contain_text("1 block off")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".block-details")).to_be_hidden()
    expect(unit_button(page, "layer2.1")).to_be_focused()


def test_class_keeps_the_focus_where_its_position_changes(page: Page) -> None:
    bars = page.locator(".bars .bar")
    last = bars.last
    last.focus()
    page.evaluate(
        "() => document.querySelectorAll('.model-panel:first-child .switch').forEach((lever) => lever.click())"
    )
    settled(page)
    assert page.evaluate("document.activeElement.className").startswith("bar")


def test_undone_swap_hands_the_focus_on(page: Page) -> None:
    page.locator(".swap-first").select_option("layer1.0")
    page.get_by_role("button", name="Swap", exact=True).click()
    chip = page.get_by_role("button", name="Undo the swap")
    chip.focus()
    settled(page)
    expect(chip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="All on")).to_be_focused()


def test_a_dismissed_error_returns_the_focus(page: Page, tmp_path: Path) -> None:
    bar = page.locator(".bars .bar").nth(1)
    bar.focus()
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"No image."})
    page.get_by_role("button", name="Dismiss").focus()
    page.keyboard.press("Enter")
    expect(bar).to_be_focused()


def test_image_of_a_confusion_takes_the_focus_up(page: Page) -> None:
    page.locator(".matrix button.correct").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#run").get_by_role("status")).to_contain_text("0, predicted correctly: ")
    page.locator(".cell-images .sample").first.press("Enter")
    expect(page.locator("#image-title")).to_be_focused()


ANNOUNCED = """() => {
  window.announced = [];
  for (const region of document.querySelectorAll("[role=status], [role=alert], [aria-live]"))
    new MutationObserver(() => window.announced.push(region.textContent))
      .observe(region, { childList: true, subtree: true });
}"""


def test_each_result_is_announced_once(page: Page) -> None:
    settled(page)
    page.evaluate(ANNOUNCED)
    lever(page, "layer1.0").press("Space")
    expect(page.locator(".heatmap figcaption")).to_contain_text("1 block off")
    settled(page)
    announcements = page.evaluate("window.announced.filter(Boolean)")
    assert len(announcements) == 1
    assert announcements[0].startswith("net: ")
    assert "was " in announcements[0]


def test_an_unreachable_service_is_reported_once(page: Page) -> None:
    settled(page)
    page.evaluate(ANNOUNCED)
    page.route("**/v1/**", lambda route: route.abort())
    lever(page, "layer1.0").press("Space")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    settled(page)
    assert len(page.evaluate("window.announced.filter(Boolean)")) == 1


MOVING = """() => [...document.querySelectorAll("*")].flatMap((one) => ["", "::before", "::after"].filter((part) => {
  const style = getComputedStyle(one, part || null);
  const lasts = style.transitionDuration.split(",").some((each) => parseFloat(each) > 0);
  return lasts || style.animationName !== "none" || style.scrollBehavior === "smooth";
}))"""


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_where_that_is_not_wanted(browser: Browser, young: Path, runs: list[Run], motion: str) -> None:
    with served([young, runs[0]]) as address, opened_page(browser, address, reduced_motion=motion) as page:
        page.select_option("#compare", "net")
        wait_for_answers(page)
        expect(page.locator(".live")).to_have_count(1)
        assert bool(page.evaluate(MOVING)) == (motion == "no-preference")


def test_matrix_is_walked_by_arrows(page: Page) -> None:
    corner = page.get_by_role("button", name=re.compile("^0 predicted as 0: "))
    corner.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name=re.compile("^1 predicted as 1: "))).to_be_focused()


def test_every_switch_is_reached_and_turned_by_keyboard(page: Page) -> None:
    reached = []
    page.locator("#model-panels").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        role, name, outline = page.evaluate(FOCUSED)
        if role == "the end":
            break
        assert outline != "none", f"{role} {name} shows no focus"
        if role == "switch":
            reached.append(name)
        if name == "layer1.1" and role == "switch":
            page.keyboard.press("Space")
    assert reached == [f"layer{stage}.{unit}" for stage in (1, 2, 3) for unit in (0, 1)]
    expect(lever(page, "layer1.1")).to_have_attribute("aria-checked", "false")
    expect(verdict(page)).to_contain_text("was ")


FOCUSED = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one.matches("input[type=file]") ? one.parentElement : one);
  if (one === document.body) return ["the end", "", ""];
  return [one.getAttribute("role"), one.getAttribute("aria-label"), style.outlineStyle];
}"""
