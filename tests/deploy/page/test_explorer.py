"""The explorer in a real browser: a picture, its classes, its heat map, units switched off, errors, keyboard, phone."""

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest

from reslab.deploy.service.settings import ServiceSettings
from reslab.training.run import Run
from tests.deploy.page.browser import (
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


def heights(page: Page, kind: str) -> list[str]:
    """Of all units the height of a bar of their responses."""
    bars = page.locator(f".bench:first-child .tile .{kind}")
    return [str(bar.evaluate("bar => bar.style.height")) for bar in bars.all()]


def top_values(page: Page) -> list[str]:
    return page.locator(".bench:first-child .bars .value").all_inner_texts()


def test_page_begins_with_a_test_picture_of_the_run(page: Page) -> None:
    expect(verdict(page)).to_contain_text("%")
    expect(page.locator(".said")).to_contain_text("Test picture, labelled")
    expect(page.locator(".samples .sample")).to_have_count(24)
    expect(page.locator(".sample[aria-pressed=true]")).to_have_count(1)
    expect(page.locator(".bench .tile")).to_have_count(6)


def test_uploaded_picture_is_predicted_as_by_the_service_itself(page: Page, address: str, png: Path) -> None:
    page.set_input_files("#file", png)
    expect(page.locator(".said")).to_have_text("seven.png")
    told = httpx2.post(f"{address}/v1/predict", content=png.read_bytes()).json()["predictions"][0]["classes"][:5]
    assert page.locator(".bars .name").all_inner_texts() == [one["name"] for one in told]
    assert top_values(page) == [f"{100 * one['probability']:.1f} %" for one in told]


def test_pasted_and_dropped_pictures_are_taken(page: Page, png: Path) -> None:
    content = base64.b64encode(png.read_bytes()).decode()
    for kind, carrier in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate(SEND_FILE, [kind, carrier, content, f"{kind}.png"])
        expect(page.locator(".said")).to_have_text(f"{kind}.png")


SEND_FILE = """async ([kind, carrier, content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type: "image/png" }));
  const event = new Event(kind, { bubbles: true, cancelable: true });
  Object.defineProperty(event, carrier, { value: carried });
  document.body.dispatchEvent(event);
}"""


def test_heat_map_follows_its_slider_its_method_and_the_class(page: Page) -> None:
    canvas = page.locator(".frame canvas")
    first = canvas.evaluate("canvas => canvas.toDataURL()")
    page.locator("#strength").fill("80")
    expect(canvas).to_have_css("opacity", "0.8")
    page.select_option("#method", "occlusion")
    expect_other(page, canvas, first)
    second = canvas.evaluate("canvas => canvas.toDataURL()")
    other = page.locator(".bars .bar").nth(3)
    other.click()
    expect(other).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".seen figcaption b")).to_have_text(other.locator(".name").inner_text())
    expect_other(page, canvas, second)


def expect_other(page: Page, canvas: Locator, before: str) -> None:
    handle = canvas.element_handle()
    page.wait_for_function("([canvas, before]) => canvas.toDataURL() !== before", arg=[handle, before])


def test_unit_switched_off_changes_the_numbers_and_all_on_brings_them_back(page: Page) -> None:
    values, responses = top_values(page), heights(page, "now")
    assert responses == heights(page, "whole")
    lever(page, "layer1.0").click()
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "false")
    expect(verdict(page)).to_contain_text("was ")
    expect(page.locator(".bench").get_by_role("status").first).to_contain_text("was ")
    assert top_values(page) != values
    assert heights(page, "now") != heights(page, "whole")
    page.get_by_role("button", name="All on").click()
    expect(verdict(page)).not_to_contain_text("was ")
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "true")
    assert top_values(page) == values
    assert heights(page, "now") == responses


def test_of_switches_turned_in_haste_the_last_state_counts(page: Page) -> None:
    page.evaluate("() => [1, 2, 3].forEach(() => document.querySelectorAll('.switch').forEach((one) => one.click()))")
    expect(page.locator(".switch[aria-checked=false]")).to_have_count(6)
    expect(page.locator(".bench.waiting")).to_have_count(0)
    hasty = top_values(page)
    lever(page, "layer1.0").click()
    lever(page, "layer1.0").click()
    expect(page.locator(".bench.waiting")).to_have_count(0)
    assert top_values(page) == hasty


def test_two_units_of_equal_shape_change_places(page: Page) -> None:
    values = top_values(page)
    page.locator(".swap-first").select_option("layer1.0")
    page.locator(".swap-second").select_option("layer1.1")
    page.get_by_role("button", name="Swap", exact=True).click()
    expect(page.locator(".tile.guest")).to_have_count(2)
    expect(page.locator(".bench.waiting")).to_have_count(0)
    page.wait_for_function(
        "before => [...document.querySelectorAll('.bars .value')].map((value) => value.innerText).join() !== before",
        arg=",".join(values),
    )
    page.get_by_role("button", name="Undo the swap").click()
    expect(page.locator(".tile.guest")).to_have_count(0)
    expect(verdict(page)).not_to_contain_text("was ")


def test_unit_opens_to_its_maps_and_measures(page: Page) -> None:
    page.locator("[data-unit='layer2.1'] .unit").click()
    inside = page.locator(".inside")
    expect(inside.locator(".maps img")).to_have_count(16)
    expect(inside).to_contain_text("Inside layer2.1")
    for name in ("Response", "Branch", "Shortcut", "Gradient"):
        expect(inside.locator("dt", has_text=name)).to_have_count(1)
    inside.get_by_role("button", name="Close").click()
    expect(inside).to_be_hidden()
    expect(page.locator("[data-unit='layer2.1'] .unit")).to_be_focused()


def test_plain_twin_stands_beside_and_what_cannot_be_switched_says_why(page: Page) -> None:
    page.select_option("#beside", "plain")
    twin = page.locator(".bench").nth(1)
    expect(twin.locator(".verdict")).to_contain_text("%")
    fixed = twin.get_by_role("switch", name="layer3.0")
    expect(fixed).to_have_attribute("aria-disabled", "true")
    expect(fixed).to_have_attribute("title", re.compile("no shortcut and changes the shape"))
    expect(fixed).to_have_accessible_description(re.compile("layer3.0 stays on: it has no shortcut"))
    fixed.click(force=True)
    expect(fixed).to_have_attribute("aria-checked", "true")
    twin.get_by_role("switch", name="layer1.1").click()
    expect(twin.locator(".plan")).to_contain_text("1 of 4 units off")
    expect(page.locator(".bench").first.locator(".plan")).to_contain_text("Every unit is on")


def test_curve_of_the_drop_has_a_point_a_unit(page: Page) -> None:
    expect(page.locator(".curve .dot")).to_have_count(6)
    before = page.locator(".curve .chart").get_attribute("aria-label")
    assert before is not None
    assert all(f"layer{stage}.{unit}: " in before for stage in (1, 2, 3) for unit in (0, 1))
    page.get_by_label("Measured on").select_option("run")
    expect(page.locator(".curve .chart")).not_to_have_attribute("aria-label", before)


def test_cell_of_the_confusion_matrix_shows_its_pictures_and_one_is_taken(page: Page) -> None:
    cell = page.get_by_role("button", name=re.compile("^3 taken for 3: "))
    label = cell.get_attribute("aria-label")
    assert label is not None
    cell.click()
    expect(page.locator(".cell-pictures h4")).to_contain_text("3, rightly named")
    assert page.locator(".cell-pictures li").count() == min(24, int(label.rpartition(" ")[2]))
    page.locator(".cell-pictures .sample").nth(2).click()
    expect(page.locator(".said")).to_have_text("Test picture, labelled 3")


def test_matrix_is_walked_by_arrows(page: Page) -> None:
    corner = page.get_by_role("button", name=re.compile("^0 taken for 0: "))
    corner.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name=re.compile("^1 taken for 1: "))).to_be_focused()


def test_error_is_told_kindly_and_nothing_is_lost(page: Page, tmp_path: Path) -> None:
    lever(page, "layer1.0").click()
    expect(verdict(page)).to_contain_text("was ")
    before = verdict(page).inner_text()
    file = tmp_path / "letter.txt"
    file.write_text("Dear network, this is no picture.")
    page.set_input_files("#file", file)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("letter.txt could not be looked at")
    expect(alert).to_contain_text("Required: a picture (JPEG, PNG")
    expect(verdict(page)).to_have_text(before)
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "false")
    expect(page.locator(".said")).to_contain_text("Test picture")
    alert.get_by_role("button", name="Put away").click()
    expect(alert).to_be_empty()


def test_service_that_is_gone_is_told_and_what_is_shown_stays(page: Page) -> None:
    before = verdict(page).inner_text()
    page.route("**/v1/**", lambda route: route.abort())
    lever(page, "layer2.0").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(verdict(page)).to_have_text(before)
    page.unroute("**/v1/**")
    lever(page, "layer2.1").click()
    expect(verdict(page)).to_contain_text("was ")
    expect(page.get_by_role("alert")).to_be_empty()


def test_every_switch_is_reached_and_turned_by_keyboard(page: Page) -> None:
    reached = []
    page.locator("#benches").focus()
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_sideways_scrolling_and_keeps_the_answer_in_sight(
    browser: Browser, address: str, scheme: Any
) -> None:
    size = {"width": 375, "height": 812}
    with opened_page(browser, address, viewport=size, is_mobile=True, has_touch=True, color_scheme=scheme) as page:
        wait_for_answers(page)
        expect(page.locator(".matrix")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        expect(page.locator("#camera")).to_have_attribute("capture", "environment")
        expect(page.locator("label.camera")).to_be_visible()
        lever(page, "layer2.1").tap()
        expect(verdict(page)).to_contain_text("was ")
        expect(verdict(page)).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_run_in_training_shows_live_and_can_be_asked_when_it_has_ended(
    browser: Browser, runs: list[Run], young: Path
) -> None:
    with served([young]) as address, opened_page(browser, address) as page:
        expect(page.locator(".live")).to_have_text("in training")
        expect(page.locator(".bench")).to_contain_text("still in training")
        first = page.locator(".curves polyline").first.get_attribute("points")
        shutil.copy(runs[0].path / "log.jsonl", young)
        expect(page.locator(".curves polyline").first).not_to_have_attribute("points", str(first))
        shutil.copy(runs[0].weights_path, young)
        shutil.copy(runs[0].path / "run.json", young)
        expect(page.locator("#run")).to_contain_text("Ended after")
        expect(page.locator(".bench .tile")).to_have_count(6)
        wait_for_answers(page)
        lever(page, "layer1.0").click()
        expect(verdict(page)).to_contain_text("was ")


def test_token_is_asked_for(browser: Browser, runs: list[Run]) -> None:
    settings = ServiceSettings(engine="torch", device="cpu", token="open sesame")
    with served(runs[:1], settings) as address, opened_page(browser, address) as page:
        page.get_by_label("Token").fill("open barley")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("alert")).to_contain_text("token")
        page.get_by_label("Token").fill("open sesame")
        page.get_by_role("button", name="Enter").click()
        wait_for_answers(page)
        expect(page.get_by_role("alert")).to_be_empty()
        expect(page.locator(".samples .sample img").first).to_be_visible()


def test_heat_map_and_unit_are_of_the_network_as_it_is_switched(page: Page, address: str, png: Path) -> None:
    page.set_input_files("#file", png)
    page.locator("[data-unit='layer2.1'] .unit").click()
    expect(page.locator(".inside figcaption")).to_contain_text("all units on")
    expect(page.locator(".seen figcaption")).to_contain_text("all units on")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    heat = page.locator(".frame canvas").evaluate("canvas => canvas.toDataURL()")
    lever(page, "layer1.1").click()
    lever(page, "layer3.1").click()
    expect(page.locator(".inside figcaption")).to_contain_text("2 units off")
    expect(page.locator(".seen figcaption")).to_contain_text("2 units off")
    plan = {"off": ["layer1.1", "layer3.1"]}
    sent = {"image": base64.b64encode(png.read_bytes()).decode(), **plan}
    unit = httpx2.post(f"{address}/v1/unit", params={"unit": "layer2.1"}, json=sent).json()
    shown = page.locator(".inside .maps img").evaluate_all("images => images.map((image) => image.src)")
    assert shown == unit["maps"]
    told = httpx2.post(f"{address}/v1/explain", json=sent).json()
    expect(page.locator(".seen figcaption b")).to_have_text(told["class"])
    assert page.locator(".frame canvas").evaluate("canvas => canvas.toDataURL()") != heat
    opacities = page.locator(".frame canvas").evaluate(ALPHAS)
    assert opacities == [round(255 * (0.3 + 0.7 * value)) for row in told["heat"] for value in row]


ALPHAS = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
  .filter((_, i) => i % 4 === 3)"""


def test_heat_map_that_takes_long_waits_to_be_asked_for(page: Page) -> None:
    page.evaluate(SLOW_CLOCK)
    page.select_option("#method", "occlusion")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    lever(page, "layer1.1").click()
    again = page.get_by_role("button", name="Draw it anew")
    expect(page.locator(".seen figcaption")).to_contain_text("Of the units as they were before")
    again.click()
    expect(page.locator(".seen figcaption")).to_contain_text("1 unit off")


# Every look at the clock finds it ten seconds on.
SLOW_CLOCK = "() => { let now = 0; performance.now = () => (now += 10000); }"


def test_runs_of_both_networks_are_shown_and_follow_the_choice(page: Page) -> None:
    runs = page.locator("#run > section")
    expect(runs).to_have_count(1)
    page.get_by_role("button", name=re.compile("^3 taken for 3: ")).click()
    expect(page.locator(".cell-pictures h4")).to_contain_text("3, rightly named")
    page.select_option("#beside", "plain")
    expect(runs).to_have_count(2)
    for run, name in zip(runs.all(), ("net", "plain"), strict=True):
        expect(run.get_by_role("heading", level=2)).to_have_text(f"The run of {name}")
        expect(run.locator(".matrix")).to_be_visible()
        expect(run.locator(".curves figure")).to_have_count(2)
    expect(runs.first.locator(".cell-pictures h4")).to_contain_text("3, rightly named")
    page.select_option("#model", "plain")
    expect(runs).to_have_count(1)
    expect(runs.get_by_role("heading", level=2)).to_have_text("The run of plain")
