"""The explorer for networks of other tasks: thresholds of labels, values, and a mask over the image."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from PIL import Image

from tests.deploy.task_networks import save_task_networks
from tests.deploy.web.browser import SCREENS, Browser, Page, delay_first_heatmap, expect, opened_page, served


@pytest.fixture(scope="module")
def task_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a network of each task."""
    with served([*save_task_networks(tmp_path_factory.mktemp("tasks")).values()]) as address:
        yield address


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colored squares."""
    image = Image.new("RGB", (120, 90), (90, 140, 200))
    image.paste((200, 60, 40), (10, 10, 50, 50))
    image.paste((40, 160, 60), (60, 30, 110, 80))
    path = tmp_path_factory.mktemp("photos") / "squares.png"
    image.save(path)
    return path


@pytest.fixture
def open_task(browser: Browser, task_address: str, photo: Path) -> Iterator[Any]:
    """A function that opens the explorer with a network and shows it the photo."""
    with opened_page(browser, task_address, viewport=SCREENS["wide"]) as page:

        def show(model: str) -> Page:
            page.select_option("#model", model)
            page.set_input_files("#file", photo)
            expect(page.locator(".prediction")).not_to_have_text("Waiting for an image.")
            return page

        yield show


def predict_one(address: str, model: str, photo: Path) -> Any:
    params = {"model": model, "top_k": 10}
    return httpx2.post(f"{address}/v1/predict", params=params, content=photo.read_bytes()).json()["predictions"][0]


def test_labels_have_marks_at_their_thresholds(open_task: Any, task_address: str, photo: Path) -> None:
    page = open_task("labels")
    scores = predict_one(task_address, "labels", photo)["classes"]
    names = [score["name"] for score in scores if score["probability"] >= score["threshold"]]
    expect(page.locator(".prediction b")).to_have_text(", ".join(names) or "no class")
    assert page.locator(".bars .name").all_inner_texts() == [score["name"] for score in scores]
    marks = page.locator(".bars .threshold").evaluate_all("marks => marks.map((mark) => mark.style.left)")
    assert [float(mark.removesuffix("%")) for mark in marks] == pytest.approx(
        [100 * each["threshold"] for each in scores]
    )
    expect(page.locator(".bars .bar.top")).to_have_count(len(names))


def test_values_are_shown_with_a_heatmap_of_one(open_task: Any, task_address: str, photo: Path) -> None:
    page = open_task("values")
    values = predict_one(task_address, "values", photo)["values"]
    texts = page.locator(".values .value").all_inner_texts()
    assert [float(text) for text in texts] == pytest.approx(list(values.values()), rel=5e-3)
    page.locator(".values .bar", has_text="bee").click()
    expect(page.locator(".heatmap figcaption b")).to_have_text("bee")
    expect(page.locator(".prediction b")).to_have_text("bee")


PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


def test_a_mask_is_drawn_in_the_colors_of_its_legend(open_task: Any, task_address: str, photo: Path) -> None:
    page = open_task("masks")
    result = predict_one(task_address, "masks", photo)
    assert page.locator(".mask-legend .name").all_inner_texts() == list(result["shares"])
    mask = Image.open(io.BytesIO(base64.b64decode(result["mask"].partition(",")[2])))
    canvas = page.locator(".frame.mask canvas")
    expect(canvas).to_have_attribute("width", "120")
    painted = torch.tensor(canvas.evaluate(PIXELS)).view(90, 120, 4)
    colors = httpx2.get(f"{task_address}/v1/models").json()["models"][2]["class_colors"]
    classes = torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(90, 120)
    assert len(classes.unique()) > 1
    for number, color in enumerate(colors):
        expected = [*bytes.fromhex(color[1:]), 255] if color else [0, 0, 0, 0]
        assert (painted[classes == number] == torch.tensor(expected)).all()
    page.locator("#opacity").fill("20")
    assert canvas.evaluate("canvas => canvas.style.opacity") == "0.2"
    expect(page.locator("#method")).to_be_hidden()


def test_a_class_of_a_mask_has_a_heatmap(open_task: Any) -> None:
    page = open_task("masks")
    row = page.locator(".mask-legend button").first
    row.click()
    expect(page.locator("canvas.heat")).to_be_visible()
    expect(page.locator(".result .note")).to_contain_text("Regions that support")
    image, canvas = (page.locator(f".frame.mask {part}").bounding_box() for part in ("img", "canvas"))
    assert canvas == pytest.approx(image, abs=1)
    row.click()
    expect(page.locator("canvas.heat")).to_have_count(0)


def test_a_late_heatmap_of_a_class_leaves_the_mask(browser: Browser, task_address: str, photo: Path) -> None:
    with opened_page(browser, task_address, before=delay_first_heatmap) as page:
        page.select_option("#model", "masks")
        page.set_input_files("#file", photo)
        row = page.locator(".mask-legend button").first
        row.click()
        expect(page.locator(".frame[aria-busy=true]")).to_have_count(1)
        row.click()
        expect(page.locator(".frame[aria-busy=true]")).to_have_count(0)
        expect(page.locator("html[data-late]")).to_have_count(1)
        expect(page.locator(".frame[aria-busy=true], canvas.heat")).to_have_count(0)
