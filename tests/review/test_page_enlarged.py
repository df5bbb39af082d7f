"""One tile, large: from image to image, by all methods, over the looks, zoomed."""

from __future__ import annotations

import pytest

from lightning_cam.timeline.report import write_report
from tests.review.driving import go, place, settle, tiles
from tests.review.records import CLASSES, Run

LOOKS = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("logs"), seed=1).looks(LOOKS)


@pytest.fixture
def page(run, open_page):
    page = open_page(write_report(run.folder).as_uri())
    page.wait_for_selector(".tile")
    tiles(page).nth(2).click()
    page.wait_for_selector("dialog[open]")
    settle(page)
    return page


def press(page, key):
    page.keyboard.press(key)
    settle(page)


def test_arrows_go_from_image_to_image_and_from_look_to_look(page, run):
    for key, image in (("ArrowRight", 3), ("ArrowRight", 4), ("ArrowLeft", 3), *[("ArrowRight", 7)] * 4):
        press(page, key)
        if image < 7:
            assert page.inner_text("dialog h2") == CLASSES[run.labels[image]]
    assert page.inner_text("dialog h2") == CLASSES[run.labels[7]] and place(page) == 190
    page.click("dialog [aria-label^='previous image']")
    settle(page)
    assert page.inner_text("dialog h2") == CLASSES[run.labels[6]]
    press(page, "ArrowUp")
    assert place(page) == 180 and "step 180" in page.inner_text("dialog")
    press(page, "ArrowDown")
    assert place(page) == 190


def test_arrows_keep_to_the_images_that_pass_the_filters(page, run):
    page.keyboard.press("Escape")
    page.select_option("select[name=label]", label="dog")
    settle(page)
    tiles(page).first.click()
    for _ in range(4):
        press(page, "ArrowRight")
        assert page.inner_text("dialog h2") == "dog"


def test_space_plays(page):
    go(page, 0)
    press(page, " ")
    assert page.get_attribute(".play", "aria-label") == "pause"
    page.wait_for_function("() => !document.querySelector('.place').textContent.startsWith('step 0 ')")
    press(page, " ")
    assert page.get_attribute(".play", "aria-label") == "play" and page.locator("dialog[open]").count() == 1


def test_all_methods_and_a_filmstrip_lead_on(page, run):
    methods, film = page.locator("dialog .strip:visible").all()
    assert methods.locator("button").all_inner_texts() == ["hirescam", "gradcam"]
    largest = page.locator("dialog .hint", has_text="largest value")
    before = largest.inner_text()
    methods.locator("button").nth(1).click()
    settle(page)
    assert "gradcam" in page.locator("dialog > .hint").first.inner_text() and largest.inner_text() != before
    shown = film.locator("button").all_inner_texts()
    assert len(shown) == 12 and shown[0] == "0" and shown[-1] == "190"
    film.locator("button").nth(5).click()
    settle(page)
    assert place(page) == int(shown[5])
    assert film.locator("button[aria-pressed=true]").inner_text() == shown[5]
    right = [shares.argmax(1)[2] == run.labels[2] for shares in run.shares]
    steps = [int(text) // 10 for text in film.locator("button").all_inner_texts()]
    turned = film.locator("button").evaluate_all("all => all.map((one) => one.dataset.turned)")
    expected = ["" if not t or right[t] == right[t - 1] else "right" if right[t] else "wrong" for t in steps]
    assert turned == expected


def test_zoom_keeps_the_place_under_the_pointer_and_both_pictures_together(page):
    boxes = [pane.bounding_box() for pane in page.locator("dialog .map").all()]
    x, y = boxes[1]["x"] + 0.3 * boxes[1]["width"], boxes[1]["y"] + 0.7 * boxes[1]["height"]
    page.mouse.move(x, y)
    cell = page.inner_text("dialog .tip").split("\n")[1]
    page.mouse.wheel(0, -600)
    page.wait_for_function("() => document.querySelector('.zoom-text').textContent === '400 %'")
    page.mouse.move(x + 1, y)
    assert page.inner_text("dialog .tip").split("\n")[1] == cell
    image, overlay = (canvas.bounding_box() for canvas in page.locator("dialog .map canvas").all())
    assert image["width"] == pytest.approx(4 * boxes[0]["width"], rel=0.01)
    assert image["x"] - boxes[0]["x"] == pytest.approx(overlay["x"] - boxes[1]["x"], abs=1)
    page.mouse.down()
    page.mouse.move(x + 40, y)
    page.mouse.up()
    moved = page.locator("dialog .map canvas").last.bounding_box()
    assert moved["x"] - overlay["x"] == pytest.approx(39, abs=2)
    press(page, "0")
    assert page.inner_text(".zoom-text") == "100 %"
    press(page, "+")
    assert page.inner_text(".zoom-text") == "150 %"
