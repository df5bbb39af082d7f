"""The view by depth: what each block of the model reads of one image, at the looks that this was kept of."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.blocks import BlockMaps
from tests.review.conftest import everywhere
from tests.review.driving import frame_of, message, settle, view
from tests.review.records import GRID, Run

STEPS = [0, 10, 30, 70]  # the first look, the second, the fourth, the eighth
NAMES = [*(f"blocks.{n}" for n in range(5)), "head"]
KEPT = 6  # of eight images


def maps_of(step):
    """A class token that reads cell (2, 3) in block 1, later (5, 6) in block 3; the head reads nothing."""
    maps = [np.zeros((KEPT, GRID, GRID), np.float32) for _ in NAMES]
    maps[1][:, 2, 3] = 4 if step < 30 else 1
    maps[3][:, 5, 6] = 0 if step < 30 else 3
    return maps


def add_blocks(run):
    for step in STEPS:
        run.writer.add_blocks(BlockMaps(step, NAMES, {"attnlrp": maps_of(step)}))
    return run


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    add_blocks(Run(logdir / "deep", methods=("attnlrp", "hirescam")).looks(8))
    Run(logdir / "flat", seed=1).looks(3)
    unknown = Run(logdir / "unknown", seed=2, methods=("attnlrp",)).looks(2)
    unknown.writer.add_blocks(BlockMaps(0, [], {}, "the network runs several times for each image"))
    with everywhere(logdir) as addresses:
        yield addresses


@pytest.fixture
def page(places, open_page):
    return opened(open_page, places["report"])


def opened(open_page, address, fragment="view=depth&run=deep%2Fcam.lcam"):
    page = open_page(f"{address}#{fragment}")
    page.wait_for_selector(".depth canvas[aria-label]")
    settle(page)
    return page


def told(page, row, column):
    """What is said of a cell."""
    side = page.evaluate(
        "() => parseFloat(getComputedStyle(document.querySelector('.depth .matrix-column')).width) - 4"
    )
    page.hover(".depth .matrix-field > canvas", position={"x": (side + 2) * column + 9, "y": (side + 2) * row + 9})
    return page.inner_text(".depth .matrix-told")


def rows_and_headings(page):
    rows = page.locator(".depth .matrix-names div").all_inner_texts()
    return rows, page.locator(".depth .matrix-headings > span").all_inner_texts()


@pytest.mark.parametrize("place", ["tab", "report"])
def test_a_row_for_each_block_and_a_column_for_each_look_that_has_them(places, open_page, place):
    page = opened(open_page, places[place])
    assert rows_and_headings(page) == (NAMES, ["0", "1", "3", "7"])
    assert "image 1, cat" in page.inner_text(".depth h2") and "A row is a block" in page.inner_text(".depth .lead")
    assert "All tiles share this scale" in page.inner_text(".controls")
    assert told(page, 1, 0) == "blocks.1 · 100 % of all that is read · step 0 · epoch 0"
    assert told(page, 1, 3) == "blocks.1 · 25 % of all that is read · step 70 · epoch 7"
    assert told(page, 3, 3) == "blocks.3 · 75 % of all that is read · step 70 · epoch 7"
    assert told(page, 5, 3) == "head · reads nothing · step 70 · epoch 7"


def color(page, row, column, cell):
    """In the middle of a cell of the map of a tile."""
    return page.evaluate(
        """([row, column, cell, grid, rows, columns]) => {
          const canvas = document.querySelector(".depth .matrix-field > canvas");
          const [width, height] = [canvas.width / columns, canvas.height / rows];
          const at = [(column + (cell[1] + 0.5) / grid) * width, (row + (cell[0] + 0.5) / grid) * height];
          return Array.from(canvas.getContext("2d").getImageData(...at.map(Math.floor), 1, 1).data).slice(0, 3);
        }""",
        [row, column, cell, GRID, len(NAMES), len(STEPS)],
    )


def test_all_tiles_share_one_scale(page):
    page.uncheck("input[name=smooth]")
    page.locator("input[name=opacity]").evaluate("(i) => { i.value = 1; i.dispatchEvent(new Event('input')); }")
    settle(page)
    full, quarter, three = color(page, 1, 0, (2, 3)), color(page, 1, 3, (2, 3)), color(page, 3, 3, (5, 6))
    assert sum(full) > sum(three) > sum(quarter) > sum(color(page, 5, 3, (2, 3)))
    assert np.allclose(full, [252, 255, 164], atol=12)  # the end of inferno


def test_keys_go_over_cells_and_open_one(page):
    page.focus(".depth .matrix-field > canvas")
    for key in ("ArrowDown", "Home", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text(".depth .matrix-told").startswith("blocks.1 · 100 %")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    settle(page)
    assert "attnlrp · blocks.1 · step 10" in page.inner_text("dialog .hint >> nth=0")
    assert page.locator(".by-block .strip button[aria-pressed=true]").inner_text() == "blocks.1"
    assert page.locator(".by-block .strip button").count() == 1 + len(NAMES)
    page.locator(".by-block .strip button").nth(0).click()
    settle(page)
    assert "attnlrp · step 10" in page.inner_text("dialog .hint >> nth=0")


def test_the_address_leads_to_it_and_back_to_what_was_before(places, open_page):
    page = opened(open_page, places["report"], "view=depth&run=deep%2Fcam.lcam&image=3&step=30")
    assert "image 4" in page.inner_text(".depth h2")
    page.locator(".thumbs button").nth(1).click()
    page.wait_for_function("() => location.hash.includes('image=1')")
    assert "image 2" in page.inner_text(".depth h2")
    page.go_back()
    page.wait_for_function("() => document.querySelector('.depth h2').innerText.includes('image 4')")


def test_from_an_enlarged_tile_to_all_blocks_of_its_image(page):
    view(page, "grid")
    page.locator(".tile:visible").nth(2).click()
    page.wait_for_selector("dialog[open]")
    page.locator(".player input[type=range]").evaluate("(i) => { i.value = 3; i.dispatchEvent(new Event('input')); }")
    settle(page)
    page.click("text=all blocks at all steps")
    settle(page)
    assert "image 3" in page.inner_text(".depth h2") and page.locator("dialog[open]").count() == 0


def test_an_image_that_was_not_kept_is_said(page):
    page.locator(".thumbs button").nth(KEPT + 1).click()
    settle(page)
    page.focus(".depth .matrix-field > canvas")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.hover("dialog .pair canvas >> nth=1")
    assert "kept of the first 6 images" in page.inner_text("dialog .tip")


def test_why_there_is_no_view_is_said_in_one_sentence(places, open_page):
    page = open_page(f"{places['report']}#view=depth&run=flat%2Fcam.lcam")
    assert 'methods=["attnlrp"]' in message(page, "This record has no maps of single blocks")
    page = open_page(f"{places['report']}#view=depth&run=unknown%2Fcam.lcam")
    assert message(page, "is not known") == (
        "What each block reads is not known: the network runs several times for each image."
    )


def test_what_is_shown_is_saved_as_a_picture_and_as_numbers(page, tmp_path):
    from PIL import Image

    for text, suffix in (("picture (PNG)", "png"), ("numbers of the tiles (CSV)", "csv")):
        page.click(".save summary") if not page.locator(".save[open]").count() else None
        with page.expect_download() as download:
            page.click(f"text={text}")
        download.value.save_as(tmp_path / f"saved.{suffix}")
    with Image.open(tmp_path / "saved.png") as picture:
        assert picture.width > 4 * 96 and picture.height > 6 * 96
    lines = (tmp_path / "saved.csv").read_text(encoding="utf-8-sig").splitlines()
    assert "what each block reads of image 1 (cat)" in lines[0] and len(lines) == 2 + len(NAMES) * len(STEPS)
    (line,) = (line.split(",") for line in lines[2:] if ",blocks.3,70," in line)
    assert float(line[lines[1].split(",").index("largest_value")]) == 3


def test_in_tensorboard_too(places, open_page):
    page = open_page(f"{places['tensorboard']}&p.cam_timeline.at=view%3Ddepth%26run%3Ddeep%252Fcam.lcam")
    frame = frame_of(page)
    frame.wait_for_selector(".depth canvas[aria-label]")
    settle(frame)
    assert rows_and_headings(frame) == (NAMES, ["0", "1", "3", "7"])


@pytest.mark.parametrize("width", [390, 1024, 1500, 2560])
def test_nothing_is_cut_off_at_any_width(places, open_page, width):
    page = opened(open_page, places["report"])
    page.set_viewport_size({"width": width, "height": 900})
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator(".depth .matrix-field > canvas").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert box["width"] >= 4 * 44 and len(rows_and_headings(page)[0]) == len(NAMES)
