"""A real browser for the tests of the pages; without one they are skipped with a message."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.training.run import Run
from tests.deploy.listening import listening

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# .ci/run sets it: there a browser that is missing is a failure.
REQUIRED = os.environ.get("RESLAB_REQUIRE_BROWSER") == "1"
WITHOUT_SANDBOX = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
PATIENCE_MILLISECONDS = 60_000.0

_browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
if not REQUIRED:
    pytest.importorskip("playwright", reason="the pages were not tried: playwright is not installed")
    if _browser is None:
        pytest.skip(f"the pages were not tried: none of {', '.join(BROWSERS)} is here", allow_module_level=True)

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright  # noqa: E402

expect.set_options(timeout=PATIENCE_MILLISECONDS)

SLOW_FIRST_HEATMAP = """
const send = window.fetch;
let count = 0;
window.fetch = async (url, options) => {
  const isFirst = String(url).includes("v1/explain") && (count += 1) === 1;
  const response = await send(url, options);
  if (!isFirst) return response;
  await new Promise((resolve) => setTimeout(resolve, 700));
  setTimeout(() => { document.documentElement.dataset.late = "1"; }, 300);
  return response;
};
"""
SCREENS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 812}}
SETTINGS = ServerSettings(backend="torch", device="cpu")


@contextmanager
def launched() -> Iterator[Browser]:
    """Open the browser within a block."""
    assert _browser is not None, f"RESLAB_REQUIRE_BROWSER is set, and none of {', '.join(BROWSERS)} is here"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_browser, args=WITHOUT_SANDBOX)
        yield opened
        opened.close()


@contextmanager
def served(runs: Sequence[Run | Path], settings: ServerSettings = SETTINGS) -> Iterator[str]:
    """Serve these runs within a block; yield the address."""
    with listening(create_app(runs, settings), settings) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def opened_page(
    browser: Browser, address: str, path: str = "", before: Callable[[Page], object] = lambda page: None, **options: Any
) -> Iterator[Page]:
    """Open the page at `path`, after `before(page)`; no other host may be contacted, no script fail."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    urls: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    before(page)
    page.goto(address + path)
    yield page
    context.close()
    others = [url for url in urls if not url.startswith((address + "/", "data:", f"blob:{address}/"))]
    assert not others
    assert not failed


def delay_first_heatmap(page: Page) -> None:
    """Before the page is opened: let its first heatmap arrive late, after which `html[data-late]` is there."""
    page.add_init_script(SLOW_FIRST_HEATMAP)


def wait_for_answers(page: Page) -> None:
    """Wait for the first evaluation image: classes, heatmap, and the ablation curve, which comes last."""
    expect(page.locator(".curve .dot")).not_to_have_count(0)
    expect(page.locator(".frame img").first).to_be_visible()


def verdict(page: Page) -> Locator:
    """Return the prediction of the first network."""
    return page.locator(".model-panel").first.locator(".prediction")


def lever(page: Page, unit: str) -> Locator:
    """Return the switch of a block of the first network."""
    return page.get_by_role("switch", name=unit, exact=True).first


def top_values(page: Page) -> list[str]:
    """Return the probabilities of the first network's bars as displayed."""
    return page.locator(".model-panel:first-child .bars .value").all_inner_texts()
