"""Pins and notes: kept in the browser, in tables, and in a report that is saved with them."""

from __future__ import annotations

import pytest

from lightning_cam.timeline.report import write_report
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, place, settle, tiles
from tests.review.records import CLASSES, Run

HOSTILE = "</script><b>look here</b> <!-- \\u003c"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("logs"), seed=1).looks(4)
    run.report = write_report(run.folder)
    return run


@pytest.fixture(params=["tab", "report"])
def page(request, run, open_page):
    if request.param == "report":
        page = open_page(run.report.as_uri(), accept_downloads=True)
        page.wait_for_selector(".tile")
        yield page
    else:
        with tensorboard(run.folder) as address:
            page = open_page(address + ENTRY, accept_downloads=True)
            page.wait_for_selector(".tile")
            yield page


def annotate(page, n, note):
    tiles(page).nth(n).click()
    page.wait_for_selector("dialog[open]")
    page.click(".pin")
    page.fill("dialog textarea", note)
    before = place(page)
    page.focus("dialog textarea")
    page.keyboard.press("End")
    page.keyboard.type(" n")  # a letter, and not the next mark
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert place(page) == before and page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    settle(page)


def annotated(page):
    pinned = page.locator(".tile.pinned:visible")
    return pinned.locator(".first").all_inner_texts(), pinned.locator(".pin-sign").first.get_attribute("title")


def test_pins_and_notes_last_over_a_reload_and_can_be_found(page, run):
    annotate(page, 2, HOSTILE)
    expected = ([CLASSES[run.labels[2]]], f"{HOSTILE} n")
    assert annotated(page) == expected
    page.reload()
    page.wait_for_selector(".tile.pinned")
    assert annotated(page) == expected and page.locator("b", has_text="look here").count() == 0
    page.select_option("select[name=show]", label="pinned")
    settle(page)
    assert tiles(page).count() == 1
    page.click(".save summary")
    with page.expect_download() as download:
        page.click(".save-menu button >> text=numbers")
    assert "yes," in download.value.path().read_text() and "look here" in download.value.path().read_text()


def test_a_report_is_saved_with_them(run, open_page, tmp_path):
    page = open_page(run.report.as_uri(), accept_downloads=True)
    page.wait_for_selector(".tile")
    path = tmp_path / "annotated.html"
    for n in (2, 5):  # the second one from the report that was saved
        annotate(page, n, HOSTILE)
        page.click(".save summary")
        with page.expect_download() as download:
            page.click(".save-menu button >> text=report with pins")
        download.value.save_as(path)
        page = open_page(path.as_uri(), offline=True, accept_downloads=True)  # a profile that knows nothing of them
        page.wait_for_selector(".tile.pinned")
    assert annotated(page) == ([CLASSES[run.labels[2]], CLASSES[run.labels[5]]], f"{HOSTILE} n")
    assert page.locator("b", has_text="look here").count() == 0
    assert path.stat().st_size < 1.1 * run.report.stat().st_size + 1000
