"""The page on a phone, or in half a window: the tiles come first."""

from __future__ import annotations

import pytest

from lightning_cam.timeline.report import write_report
from tests.review.driving import set_range, settle, texts, tiles
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
    assert controls.is_visible() and page.is_hidden(".controls summary")
    resize(page, 500)
    assert controls.is_hidden()
    page.focus(".controls summary")
    page.keyboard.press("Space")  # elsewhere it plays
    assert controls.is_visible() and page.locator(".play[aria-label=play]").count() == 1
    page.click(".controls summary")
    resize(page, 1280)
    assert controls.is_visible() and page.is_hidden(".controls summary")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1024, 640), (1500, 900), (2560, 1300)])
def test_tiles_fill_the_window_and_metrics_take_one_row(report, open_page, width, height):
    page = open_page(report)
    page.set_viewport_size({"width": width, "height": height})
    page.reload()
    page.wait_for_selector(".tile")
    settle(page)
    boxes = [tile.bounding_box() for tile in tiles(page).all()]
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    main, footer = (page.locator(name).bounding_box() for name in ("main", "footer"))
    assert right <= main["x"] + main["width"] and footer["height"] < 0.26 * height
    if width > 760:
        assert bottom <= footer["y"]  # all eight are in sight
        area = sum(box["width"] * box["height"] for box in boxes)
        assert area > 0.45 * main["width"] * main["height"]
    else:
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["width"] > 140
    tops = {round(plot.bounding_box()["y"]) for plot in page.locator(".plot:visible").all()}
    assert len(tops) == 1
    if width < 2560:  # there all stand in one row
        page.click(".more")
        settle(page)
    assert page.locator(".plot:visible").count() == page.locator(".plot").count()
    cut = "(titles) => titles.filter((title) => title.scrollWidth > title.clientWidth).map((title) => title.innerText)"
    assert page.locator(".chart .title").evaluate_all(cut) == []


@pytest.mark.parametrize("width", [390, 700, 1024])
def test_the_size_that_fits_settles(page, width):
    resize(page, width)
    page.wait_for_timeout(300)
    page.evaluate("performance.mark('settled')")
    page.wait_for_timeout(300)
    last = page.evaluate("performance.getEntriesByName('cam-redraw')[0].startTime")
    assert last < page.evaluate("performance.getEntriesByName('settled')[0].startTime")  # nothing is drawn any more


def test_a_size_that_is_chosen_stays(page):
    set_range(page, "size", 200)
    assert not page.is_checked("input[name=fit]")
    resize(page, 1100)
    assert tiles(page).first.bounding_box()["width"] == pytest.approx(200, abs=1)
    page.check("input[name=fit]")
    settle(page)
    assert tiles(page).first.bounding_box()["width"] != pytest.approx(200, abs=1)


def test_the_dialog_breaks_no_words_on_a_phone(report, open_page):
    page = open_page(report)
    resize(page, 390)
    tiles(page).first.click()
    page.wait_for_selector("dialog[open]")
    settle(page)
    boxes = page.locator("dialog .top .name").evaluate_all(
        "all => all.map((one) => [one.offsetWidth, one.offsetHeight])"
    )
    assert len(boxes) == 3 and all(width > 60 and height < 25 for width, height in boxes)


@pytest.mark.parametrize("size", [140, 176])
def test_titles_of_a_filmstrip_keep_the_epoch(report, open_page, size):
    page = open_page(report)
    page.wait_for_selector(".tile")
    page.click("[data-view=film]")
    set_range(page, "size", size)
    assert all("epoch" in text for text in texts(page, ".first"))
    cut = "(lines) => lines.filter((line) => line.scrollWidth > line.clientWidth).length"
    assert page.locator(".tile:visible .first").evaluate_all(cut) == 0
