"""The explorer in a real browser: image, classes, heatmap, errors, phone, token."""

import base64
from pathlib import Path
from typing import Any

import httpx2
import pytest

from reslab.deploy.server.settings import ServerSettings
from reslab.training.run import Run
from tests.deploy.web.browser import (
    Browser,
    Locator,
    Page,
    expect,
    lever,
    opened_page,
    served,
    top_values,
    verdict,
    wait_for_answers,
)


def test_page_begins_with_a_test_image_of_the_run(page: Page) -> None:
    expect(verdict(page)).to_contain_text("%")
    expect(page.locator(".image-caption")).to_contain_text("Test image, labeled")
    expect(page.locator(".samples .sample")).to_have_count(24)
    expect(page.locator(".sample[aria-pressed=true]")).to_have_count(1)
    expect(page.locator(".model-panel .tile")).to_have_count(6)


def test_uploaded_image_is_predicted_as_by_the_service_itself(page: Page, address: str, png: Path) -> None:
    page.set_input_files("#file", png)
    expect(page.locator(".image-caption")).to_have_text("seven.png")
    expected = httpx2.post(f"{address}/v1/predict", content=png.read_bytes()).json()["predictions"][0]["classes"][:5]
    assert page.locator(".bars .name").all_inner_texts() == [one["name"] for one in expected]
    assert top_values(page) == [f"{100 * one['probability']:.1f} %" for one in expected]


def test_pasted_and_dropped_images_are_taken(page: Page, png: Path) -> None:
    content = base64.b64encode(png.read_bytes()).decode()
    for kind, carrier in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        page.evaluate(SEND_FILE, [kind, carrier, content, f"{kind}.png"])
        expect(page.locator(".image-caption")).to_have_text(f"{kind}.png")


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
    page.locator("#opacity").fill("80")
    expect(canvas).to_have_css("opacity", "0.8")
    page.select_option("#method", "occlusion")
    expect_other(page, canvas, first)
    second = canvas.evaluate("canvas => canvas.toDataURL()")
    other = page.locator(".bars .bar").nth(3)
    other.click()
    expect(other).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".heatmap figcaption b")).to_have_text(other.locator(".name").inner_text())
    expect_other(page, canvas, second)


def expect_other(page: Page, canvas: Locator, before: str) -> None:
    handle = canvas.element_handle()
    page.wait_for_function("([canvas, before]) => canvas.toDataURL() !== before", arg=[handle, before])


def test_an_error_is_reported_and_nothing_is_lost(page: Page, tmp_path: Path) -> None:
    lever(page, "layer1.0").click()
    expect(verdict(page)).to_contain_text("was ")
    before = verdict(page).inner_text()
    file = tmp_path / "letter.txt"
    file.write_text("Dear network, this is no image.")
    page.set_input_files("#file", file)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("letter.txt could not be opened")
    expect(alert).to_contain_text("Required: an image (JPEG, PNG")
    expect(verdict(page)).to_have_text(before)
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "false")
    expect(page.locator(".image-caption")).to_contain_text("Test image")
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_empty()


def test_an_unreachable_service_is_reported_and_the_page_stays(page: Page) -> None:
    before = verdict(page).inner_text()
    page.route("**/v1/**", lambda route: route.abort())
    lever(page, "layer2.0").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(verdict(page)).to_have_text(before)
    page.unroute("**/v1/**")
    lever(page, "layer2.1").click()
    expect(verdict(page)).to_contain_text("was ")
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_sideways_scrolling_and_keeps_the_result_in_sight(
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


def test_token_is_requested(browser: Browser, runs: list[Run]) -> None:
    settings = ServerSettings(backend="torch", device="cpu", token="open sesame")
    with served(runs[:1], settings) as address, opened_page(browser, address) as page:
        page.get_by_label("Token").fill("open barley")
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("alert")).to_contain_text("token")
        page.get_by_label("Token").fill("open sesame")
        page.get_by_role("button", name="Enter").click()
        wait_for_answers(page)
        expect(page.get_by_role("alert")).to_be_empty()
        expect(page.locator(".samples .sample img").first).to_be_visible()
