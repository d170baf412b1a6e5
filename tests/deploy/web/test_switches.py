"""Blocks switched off and swapped in the explorer: results, heatmap, details and curve follow."""

import base64
import re
from pathlib import Path

import httpx2

from tests.deploy.web.browser import Page, expect, lever, top_values, verdict


def heights(page: Page, kind: str) -> list[str]:
    """Return the height of each block's response bar."""
    bars = page.locator(f".model-panel:first-child .tile .{kind}")
    return [str(bar.evaluate("bar => bar.style.height")) for bar in bars.all()]


def test_unit_switched_off_changes_the_numbers_and_all_on_brings_them_back(page: Page) -> None:
    values, responses = top_values(page), heights(page, "current")
    assert responses == heights(page, "baseline")
    lever(page, "layer1.0").click()
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "false")
    expect(verdict(page)).to_contain_text("was ")
    expect(page.locator(".model-panel").get_by_role("status").first).to_contain_text("was ")
    assert top_values(page) != values
    assert heights(page, "current") != heights(page, "baseline")
    page.get_by_role("button", name="All on").click()
    expect(verdict(page)).not_to_contain_text("was ")
    expect(lever(page, "layer1.0")).to_have_attribute("aria-checked", "true")
    assert top_values(page) == values
    assert heights(page, "current") == responses


def test_of_switches_turned_in_haste_the_last_state_counts(page: Page) -> None:
    page.evaluate("() => [1, 2, 3].forEach(() => document.querySelectorAll('.switch').forEach((one) => one.click()))")
    expect(page.locator(".switch[aria-checked=false]")).to_have_count(6)
    expect(page.locator(".model-panel.waiting")).to_have_count(0)
    hasty = top_values(page)
    lever(page, "layer1.0").click()
    lever(page, "layer1.0").click()
    expect(page.locator(".model-panel.waiting")).to_have_count(0)
    assert top_values(page) == hasty


def test_two_blocks_of_equal_shape_are_swapped(page: Page) -> None:
    values = top_values(page)
    page.locator(".swap-first").select_option("layer1.0")
    page.locator(".swap-second").select_option("layer1.1")
    page.get_by_role("button", name="Swap", exact=True).click()
    expect(page.locator(".tile.swapped")).to_have_count(2)
    expect(page.locator(".model-panel.waiting")).to_have_count(0)
    page.wait_for_function(
        "before => [...document.querySelectorAll('.bars .value')].map((value) => value.innerText).join() !== before",
        arg=",".join(values),
    )
    page.get_by_role("button", name="Undo the swap").click()
    expect(page.locator(".tile.swapped")).to_have_count(0)
    expect(verdict(page)).not_to_contain_text("was ")


def test_unit_opens_to_its_maps_and_measures(page: Page) -> None:
    page.locator("[data-block='layer2.1'] .block").click()
    inside = page.locator(".block-details")
    expect(inside.locator(".maps img")).to_have_count(16)
    expect(inside).to_contain_text("Block layer2.1")
    for name in ("Response", "Branch", "Shortcut", "Gradient"):
        expect(inside.locator("dt", has_text=name)).to_have_count(1)
    drawing = inside.locator(".block-drawing")
    expect(drawing).to_have_attribute("alt", re.compile(r"^Drawing of block layer2\.1: conv3 norm act"))
    assert drawing.evaluate("image => image.decode().then(() => image.naturalWidth)") > 200
    inside.get_by_role("button", name="Close").click()
    expect(inside).to_be_hidden()
    expect(page.locator("[data-block='layer2.1'] .block")).to_be_focused()


def test_the_plain_twin_is_shown_and_blocks_that_cannot_be_switched_give_the_reason(page: Page) -> None:
    page.select_option("#compare", "plain")
    twin = page.locator(".model-panel").nth(1)
    expect(twin.locator(".prediction")).to_contain_text("%")
    fixed = twin.get_by_role("switch", name="layer3.0")
    expect(fixed).to_have_attribute("aria-disabled", "true")
    expect(fixed).to_have_attribute("title", re.compile("no shortcut and changes the shape"))
    expect(fixed).to_have_accessible_description(re.compile("layer3.0 stays on: it has no shortcut"))
    fixed.click(force=True)
    expect(fixed).to_have_attribute("aria-checked", "true")
    twin.get_by_role("switch", name="layer1.1").click()
    expect(twin.locator(".ablation")).to_contain_text("1 of 4 blocks off")
    expect(page.locator(".model-panel").first.locator(".ablation")).to_contain_text("Every block is on")


def test_curve_of_the_drop_has_a_point_a_unit(page: Page) -> None:
    expect(page.locator(".curve .dot")).to_have_count(6)
    before = page.locator(".curve .chart").get_attribute("aria-label")
    assert before is not None
    assert all(f"layer{stage}.{unit}: " in before for stage in (1, 2, 3) for unit in (0, 1))
    page.get_by_label("Measured on").select_option("run")
    expect(page.locator(".curve .chart")).not_to_have_attribute("aria-label", before)


def test_heat_map_and_unit_are_of_the_network_as_it_is_switched(page: Page, address: str, png: Path) -> None:
    page.set_input_files("#file", png)
    page.locator("[data-block='layer2.1'] .block").click()
    expect(page.locator(".block-details figcaption")).to_contain_text("all blocks on")
    expect(page.locator(".heatmap figcaption")).to_contain_text("all blocks on")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    heat = page.locator(".frame canvas").evaluate("canvas => canvas.toDataURL()")
    lever(page, "layer1.1").click()
    lever(page, "layer3.1").click()
    expect(page.locator(".block-details figcaption")).to_contain_text("2 blocks off")
    expect(page.locator(".heatmap figcaption")).to_contain_text("2 blocks off")
    plan = {"off": ["layer1.1", "layer3.1"]}
    sent = {"image": base64.b64encode(png.read_bytes()).decode(), **plan}
    unit = httpx2.post(f"{address}/v1/block", params={"block": "layer2.1"}, json=sent).json()
    shown = page.locator(".block-details .maps img").evaluate_all("images => images.map((image) => image.src)")
    assert shown == unit["feature_maps"]
    response = httpx2.post(f"{address}/v1/explain", json=sent).json()
    expect(page.locator(".heatmap figcaption b")).to_have_text(response["class"])
    assert page.locator(".frame canvas").evaluate("canvas => canvas.toDataURL()") != heat
    opacities = page.locator(".frame canvas").evaluate(ALPHAS)
    assert opacities == [round(255 * (0.3 + 0.7 * value)) for row in response["heatmap"] for value in row]


ALPHAS = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
  .filter((_, i) => i % 4 === 3)"""


def test_heat_map_that_takes_long_waits_to_be_requested(page: Page) -> None:
    page.evaluate(SLOW_CLOCK)
    page.select_option("#method", "occlusion")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    lever(page, "layer1.1").click()
    again = page.get_by_role("button", name="Update")
    expect(page.locator(".heatmap figcaption")).to_contain_text("Computed before the last change")
    again.click()
    expect(page.locator(".heatmap figcaption")).to_contain_text("1 block off")


SLOW_CLOCK = "() => { let now = 0; performance.now = () => (now += 10000); }"


def test_the_branch_of_an_open_block_is_scaled(page: Page) -> None:
    values = top_values(page)
    page.locator("[data-block='layer2.1'] .block").click()
    parts = page.locator(".block-parts")
    expect(parts.locator("img")).to_have_count(3)
    expect(parts).to_contain_text("x + λ F(x)")
    slider = parts.get_by_role("slider")
    slider.fill("0.2")
    expect(page.locator(".ablation")).to_contain_text("1 block scaled")
    expect(page.locator(".block-details figcaption")).to_contain_text("1 block scaled")
    expect(verdict(page)).to_contain_text("was ")
    assert top_values(page) != values
    parts.get_by_role("button", name="λ = 1").click()
    expect(page.locator(".ablation")).to_contain_text("Every block is on")
    expect(verdict(page)).not_to_contain_text("was ")
    expect(slider).to_have_value("1")
    assert top_values(page) == values


def test_the_page_lists_five_things_to_try(page: Page) -> None:
    expect(page.locator(".try li")).to_have_count(5)
    page.locator(".try summary").click()
    expect(page.locator(".try li").first).to_be_hidden()
