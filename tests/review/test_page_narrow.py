"""The page on a phone, or in half a window: the tiles come first."""

from __future__ import annotations

import pytest

from lightning_cam.timeline.report import write_report
from tests.review.driving import settle, tiles
from tests.review.records import Run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("narrow")).looks(12, every=12_345)
    run.writer.add_metrics(run.steps[-1], {f"metric_{n}": n for n in range(10)})
    return write_report(run.folder).as_uri()


@pytest.fixture
def page(report, open_page):
    page = open_page(report)
    page.wait_for_selector(".tile")
    return page


def resize(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    settle(page)


@pytest.mark.parametrize("width", [360, 500, 760])
def test_on_a_narrow_page_tiles_are_in_sight_and_nothing_is_cut(report, open_page, width):
    page = open_page(report)
    resize(page, width)
    page.reload()
    page.wait_for_selector(".tile")
    footer = page.locator("footer").bounding_box()
    assert footer["y"] + footer["height"] <= 801
    tile = tiles(page).first.bounding_box()
    assert tile["y"] + tile["height"] < footer["y"]
    place = page.locator(".place")
    box = place.bounding_box()
    assert place.inner_text() == "step 135,795 · epoch 13579 · look 12 of 12"
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_controls_are_folded_only_where_the_page_is_narrow(page):
    controls = page.locator("select[name=scale]")
    assert controls.is_visible() and page.is_hidden("summary")
    resize(page, 500)
    assert controls.is_hidden()
    page.focus("summary")
    page.keyboard.press("Space")  # elsewhere it plays
    assert controls.is_visible() and page.locator(".play[aria-label=play]").count() == 1
    page.click("summary")
    resize(page, 1280)
    assert controls.is_visible() and page.is_hidden("summary")
