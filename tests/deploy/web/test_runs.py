"""Runs in the explorer: confusion matrix, a run in training, runs side by side."""

import re
import shutil
from pathlib import Path

from reslab.training.run import Run
from tests.deploy.web.browser import Browser, Page, expect, lever, opened_page, served, verdict, wait_for_answers


def test_cell_of_the_confusion_matrix_shows_its_images_and_one_is_taken(page: Page) -> None:
    cell = page.get_by_role("button", name=re.compile("^3 predicted as 3: "))
    label = cell.get_attribute("aria-label")
    assert label is not None
    cell.click()
    expect(page.locator(".cell-images h4")).to_contain_text("3, predicted correctly")
    assert page.locator(".cell-images li").count() == min(24, int(label.rpartition(" ")[2]))
    page.locator(".cell-images .sample").nth(2).click()
    expect(page.locator(".image-caption")).to_have_text("Test image, labeled 3")


def test_run_in_training_shows_live_and_predicts_when_it_has_ended(
    browser: Browser, runs: list[Run], young: Path
) -> None:
    with served([young]) as address, opened_page(browser, address) as page:
        expect(page.locator(".live")).to_have_text("in training")
        expect(page.locator(".model-panel")).to_contain_text("still in training")
        first = page.locator(".curves polyline").first.get_attribute("points")
        shutil.copy(runs[0].path / "log.jsonl", young)
        expect(page.locator(".curves polyline").first).not_to_have_attribute("points", str(first))
        shutil.copy(runs[0].weights_path, young)
        shutil.copy(runs[0].path / "run.json", young)
        expect(page.locator("#run")).to_contain_text("Finished after")
        expect(page.locator(".model-panel .tile")).to_have_count(6)
        wait_for_answers(page)
        lever(page, "layer1.0").click()
        expect(verdict(page)).to_contain_text("was ")


def test_runs_of_both_networks_are_shown_and_follow_the_choice(page: Page) -> None:
    runs = page.locator("#run > section")
    expect(runs).to_have_count(1)
    page.get_by_role("button", name=re.compile("^3 predicted as 3: ")).click()
    expect(page.locator(".cell-images h4")).to_contain_text("3, predicted correctly")
    page.select_option("#compare", "plain")
    expect(runs).to_have_count(2)
    for run, name in zip(runs.all(), ("net", "plain"), strict=True):
        expect(run.get_by_role("heading", level=2)).to_have_text(f"The run of {name}")
        expect(run.locator(".matrix")).to_be_visible()
        expect(run.locator(".curves figure")).to_have_count(2)
    expect(runs.first.locator(".cell-images h4")).to_contain_text("3, predicted correctly")
    page.select_option("#model", "plain")
    expect(runs).to_have_count(1)
    expect(runs.get_by_role("heading", level=2)).to_have_text("The run of plain")
