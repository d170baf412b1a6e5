"""The explorer for detectors: boxes over the image, a lowest score, a list, and boxes that vanish without blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from PIL import Image

from reslab.deploy.prediction import DetectedBox
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.report.images import box_color
from tests.deploy.detectors import CLASSES, build_detector
from tests.deploy.web.accessibility import check
from tests.deploy.web.browser import SCREENS, Browser, Page, delay_first_heatmap, expect, opened_page, served

WIDTH, HEIGHT = 120, 90
COUNT_PAINTED = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
}"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("photos") / "noise.png"
    Image.fromarray(torch.randint(256, (HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator).numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def detector_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("detectors") / "boxes.safetensors"
    save_weights(path, build_detector("fasterrcnn_resnet18_fpn_320", **{"backbone.depths": (2, 2, 1, 1)}))
    with served([path]) as address:
        yield address


@pytest.fixture(params=[("wide", "light"), ("phone", "dark")])
def page(request: Any, browser: Browser, detector_address: str, photo: Path) -> Iterator[Page]:
    screen, scheme = request.param
    with opened_page(browser, detector_address, viewport=SCREENS[screen], color_scheme=scheme) as opened:
        opened.set_input_files("#file", photo)
        expect(opened.locator(".prediction")).not_to_have_text("Waiting for an image.")
        expect(opened.locator(".waiting")).to_have_count(0)
        wait_for_curve(opened)
        yield opened


def wait_for_curve(page: Page) -> None:
    expect(page.locator(".curve .dot")).to_have_count(6)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def lesion(address: str, photo: Path, off: list[str]) -> Any:
    files, fields = {"image": photo.read_bytes()}, {"ablation": f'{{"off": {off}}}'.replace("'", '"')}
    return httpx2.post(f"{address}/v1/lesion", files=files, data=fields).json()


def test_boxes_are_drawn_where_they_were_detected(page: Page, detector_address: str, photo: Path) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")
    result = lesion(detector_address, photo, [])["boxes"]
    page.locator(".min-score input").fill("0")
    expect(page.locator(".box-list li")).to_have_count(len(result))
    expect(page.locator(".prediction b")).to_have_text(str(len(result)))
    assert page.locator(".box-list .name").all_inner_texts() == [box["name"] for box in result]
    page.locator(".box-list .bar").first.click()
    drawn, image = page.locator(".box.selected").bounding_box(), page.locator(".frame.detected img").bounding_box()
    assert drawn is not None
    assert image is not None
    x1, y1, x2, y2 = result[0]["box"]
    scale = image["width"] / WIDTH
    corners = [drawn["x"] - image["x"], drawn["y"] - image["y"], drawn["width"], drawn["height"]]
    assert corners == pytest.approx([scale * x1, scale * y1, scale * (x2 - x1), scale * (y2 - y1)], abs=1.5)
    color = page.locator(".box.selected").evaluate("box => getComputedStyle(box).borderTopColor")
    assert color == "rgb({}, {}, {})".format(*box_color(CLASSES.index(result[0]["name"])))
    expect(page.locator(".box.selected span")).to_contain_text(result[0]["name"])
    wait_for_curve(page)
    check(page)


def test_the_lowest_score_leaves_boxes_out(page: Page, detector_address: str, photo: Path) -> None:
    result = lesion(detector_address, photo, [])["boxes"]
    scores = sorted(box["score"] for box in result)
    expect(page.locator(".box-list li")).to_have_count(sum(score >= 0.5 for score in scores))
    percent = round(100 * scores[len(scores) // 2])
    page.locator(".min-score input").fill(str(percent))
    expect(page.locator(".min-score output")).to_have_text(f"{percent / 100:.2f}")
    expect(page.locator(".box")).to_have_count(sum(score >= percent / 100 for score in scores))


def test_boxes_that_vanish_without_a_block_are_dashed(page: Page, detector_address: str, photo: Path) -> None:
    names = [text for text in page.locator(".switch").evaluate_all("all => all.map((one) => one.ariaLabel)") if text]
    assert names[0] == "layer1.0"
    expect(page.locator(".box.gone")).to_have_count(0)
    page.get_by_role("switch", name="layer1.1").click()
    expect(page.locator(".waiting")).to_have_count(0)
    result = lesion(detector_address, photo, ["layer1.1"])
    shown, before = ([box for box in result[key] if box["score"] >= 0.5] for key in ("boxes", "baseline_boxes"))
    gone = [box for box in before if not any(is_same_object(box, other) for other in shown)]
    assert gone
    expect(page.locator(".box.gone")).to_have_count(len(gone))
    expect(page.locator(".box")).to_have_count(len(shown) + len(gone))
    expect(page.locator(".prediction .previous")).to_contain_text(f"{len(gone)} gone")
    assert page.locator(".box.gone").first.evaluate("box => getComputedStyle(box).borderTopStyle") == "dashed"
    check(page)
    page.get_by_role("button", name="All on").click()
    expect(page.locator(".box.gone")).to_have_count(0)


def test_the_curve_has_the_share_of_the_boxes_that_are_gone_without_each_block(
    page: Page, detector_address: str, photo: Path
) -> None:
    expect(page.get_by_label("Measured on")).to_have_count(0)  # there is no run, whose images it could be measured on
    answer = httpx2.post(f"{detector_address}/v1/lesion/curve", files={"image": photo.read_bytes()}).json()
    expected = [f"without {row['block']}: {100 * (1 - row['agreement']):.1f} % gone" for row in answer["blocks"]]
    assert page.locator(".curve .dot").evaluate_all("dots => dots.map((dot) => dot.title)") == expected
    assert len(set(expected)) > 1


def test_a_marked_box_has_a_heatmap_over_the_image(page: Page, detector_address: str, photo: Path) -> None:
    heat = page.locator("canvas.heat")
    expect(heat).to_be_hidden()
    row = page.locator(".box-list button").first
    row.click()
    expect(heat).to_be_visible()
    expect(page.locator(".classes .note").last).to_contain_text("Regions that support")
    image, canvas, boxes = (
        page.locator(f".frame.detected {part}").bounding_box() for part in ("img", ".heat", ".boxes")
    )
    assert canvas == pytest.approx(image, abs=1)
    assert boxes == pytest.approx(image, abs=1)
    check(page)
    row.click()
    expect(heat).to_be_hidden()


def test_the_details_of_a_block_follow_the_switches(page: Page, detector_address: str, photo: Path) -> None:
    page.locator("[data-block='layer2.0'] .block").click()
    details = page.locator(".block-details")
    expect(details.locator(".maps img")).to_have_count(8)
    expect(details.locator("dl.facts")).to_contain_text("norm of the gradient of the best box's score")
    expect(details.locator("h3")).to_be_focused()
    intact = details.locator("dl.facts dd:not(.note)").all_inner_texts()
    assert len(intact) == 4
    check(page)
    page.get_by_role("switch", name="layer1.1").click()
    expect(details.locator("figcaption")).to_contain_text("1 block off")
    answer = httpx2.post(
        f"{detector_address}/v1/block", params={"block": "layer2.0"},
        files={"image": photo.read_bytes()}, data={"ablation": '{"off": ["layer1.1"]}'},
    ).json()  # fmt: skip
    shown = [float(text) for text in details.locator("dl.facts dd:not(.note)").all_inner_texts()]
    names = ("output_std", "branch_std", "shortcut_std", "gradient_norm")
    assert shown == pytest.approx([answer[name] for name in names], rel=0.05)
    assert [float(text) for text in intact] != shown
    details.get_by_role("button", name="Close").click()
    expect(details).to_be_hidden()
    expect(page.locator("[data-block='layer2.0'] .block")).to_be_focused()


def test_a_late_heatmap_of_a_box_that_is_no_longer_marked_is_not_shown(
    browser: Browser, detector_address: str, photo: Path
) -> None:
    with opened_page(browser, detector_address, before=delay_first_heatmap) as page:
        page.set_input_files("#file", photo)
        row = page.locator(".box-list button").first
        expect(page.locator(".waiting")).to_have_count(0)
        row.click()
        row.click()
        expect(page.locator("html[data-late]")).to_have_count(1)
        expect(page.locator("canvas.heat")).to_be_hidden()


def test_the_masks_of_objects_are_painted(browser: Browser, photo: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "masks.safetensors", build_detector("maskrcnn_resnet18_fpn_320"))
    with (
        served([tmp_path / "masks.safetensors"]) as address,
        opened_page(browser, address, viewport=SCREENS["wide"]) as page,
    ):
        page.set_input_files("#file", photo)
        expect(page.locator("canvas.masks")).to_be_visible()
        content = photo.read_bytes()
        row = httpx2.post(f"{address}/v1/predict", content=content).json()["predictions"][0]
        masks = [DetectedBox.from_dict(box).mask for box in row["boxes"] if box["score"] >= 0.5]
        expected = int(torch.stack([mask for mask in masks if mask is not None]).any(0).sum())
        painted = page.locator("canvas.masks").evaluate(COUNT_PAINTED)
        assert painted == pytest.approx(expected, abs=0.01 * HEIGHT * WIDTH)
        assert expected > 0


def is_same_object(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one["box"], other["box"]
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return one["name"] == other["name"] and width * height >= 0.5 * (sum(areas) - width * height)
