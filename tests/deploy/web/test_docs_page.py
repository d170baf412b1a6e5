"""The API documentation: it lists all routes, and its curl commands and trial requests work."""

import io
import re
import shlex
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from reslab.deploy.server.settings import ServerSettings
from reslab.training.run import Run
from tests.deploy.web.accessibility import check
from tests.deploy.web.browser import SCREENS, Browser, Page, expect, opened_page, served


@pytest.fixture
def docs(browser: Browser, address: str) -> Page:
    with opened_page(browser, address, "/docs", viewport=SCREENS["wide"]) as page:
        expect(page.locator(".operations section")).not_to_have_count(0)
        yield page


def routes(address: str) -> list[tuple[str, str]]:
    paths = httpx2.get(f"{address}/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def run_line(line: str, photo: bytes) -> httpx2.Response:
    """Do what curl would do with a command: flags -H, -F, -o and --data-binary, and the URL."""
    program, *words = shlex.split(line)
    assert program == "curl"
    headers, files, fields, content, url = {}, {}, {}, None, ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "--data-binary":
            assert words.pop(0) == "@photo.jpg"
            content = photo
        elif word == "-F":
            name, _, value = words.pop(0).partition("=")
            if value == "@photo.jpg":
                files[name] = ("photo.jpg", photo, "image/jpeg")
            else:
                fields[name] = value
        elif word == "-o":
            words.pop(0)
        else:
            assert not url
            url = word
    method = "GET" if content is None and not files else "POST"
    return httpx2.request(method, url, headers=headers, content=content, files=files or None, data=fields or None)


def test_every_route_is_listed_and_its_curl_command_works(docs: Page, address: str) -> None:
    sections = docs.locator(".operations section")
    assert [section.get_attribute("aria-label") for section in sections.all()] == [
        " ".join(way) for way in routes(address)
    ]
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "JPEG")
    for section in sections.all():
        line = section.locator("pre").first.inner_text()
        response = run_line(line, stream.getvalue())
        assert response.status_code == 200, (line, response.text)


def test_every_way_can_be_tried(docs: Page) -> None:
    for section in docs.locator(".operations section").all():
        section.get_by_role("button", name="Send request").click()
        expect(section.locator("[aria-live] .note")).to_have_text(re.compile("^200, "))


def test_fields_are_in_the_command_and_in_the_response(docs: Page) -> None:
    section = docs.get_by_role("region", name="POST /v1/predict")
    section.get_by_label("top_k").fill("2")
    section.get_by_label("model").fill("plain")
    expect(section.locator("pre").first).to_contain_text("/v1/predict?model=plain&top_k=2")
    section.get_by_role("button", name="Send request").click()
    expect(section.locator("[aria-live] pre")).to_contain_text('"model": "plain"')
    assert section.locator("[aria-live] pre").inner_text().count('"probability"') == 2
    section.get_by_label("model").fill("nett")
    section.get_by_role("button", name="Send request").click()
    expect(section.locator("[aria-live] .note")).to_have_text("404")
    expect(section.locator("[aria-live] pre")).to_contain_text("nearest: 'net'")


def test_the_response_is_described_by_its_fields(docs: Page) -> None:
    section = docs.get_by_role("region", name="POST /v1/predict")
    section.locator("summary").get_by_text("Response").click()
    expect(section.locator("details pre")).to_contain_text('"probability": number')
    expect(section.locator("details dl")).to_contain_text("429")


def test_it_is_reached_from_the_explorer_and_leads_back(page: Page) -> None:
    page.get_by_role("link", name="API documentation").click()
    expect(page.locator("h1")).to_have_text("API documentation")
    page.get_by_role("link", name="Explorer").click()
    expect(page.locator(".prediction")).to_contain_text("%")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", list(SCREENS))
def test_no_rule_is_broken(browser: Browser, address: str, screen: str, scheme: str) -> None:
    options = {"viewport": SCREENS[screen], "color_scheme": scheme, "reduced_motion": "reduce"}
    with opened_page(browser, address, "/docs", **options) as page:
        page.locator("summary").get_by_text("Response").first.click()
        section = page.get_by_role("region", name="GET /healthz")
        section.get_by_role("button", name="Send request").click()
        expect(section.locator("[aria-live] pre")).to_contain_text("ok")
        check(page)
        assert page.evaluate("document.documentElement.scrollWidth") == SCREENS[screen]["width"]


def test_the_token_of_the_tab_serves_here_too(browser: Browser, runs: list[Run], tmp_path: Path) -> None:
    settings = ServerSettings(backend="torch", device="cpu", token="open sesame")
    with served(runs[:1], settings) as address, opened_page(browser, address, "/docs") as page:
        expect(page.get_by_role("alert")).to_contain_text("requires a token")
        page.evaluate("sessionStorage.setItem('reslab-token', 'open sesame')")
        page.reload()
        section = page.get_by_role("region", name="GET /v1/models", exact=True)
        expect(section.locator("pre").first).to_contain_text('-H "Authorization: Bearer $TOKEN"')
        section.get_by_role("button", name="Send request").click()
        expect(section.locator("[aria-live] .note")).to_have_text("200, application/json")
