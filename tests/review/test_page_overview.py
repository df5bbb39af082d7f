"""The overview, the first view: what a run came to, and when each image was understood."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.found import Found
from lightning_cam.timeline.report import write_report
from tests.review.conftest import everywhere
from tests.review.driving import IN_TENSORBOARD, frame_of, place, settle, texts
from tests.review.records import CLASSES, Run

LOOKS = 10
MATRIX = ".overview section:nth-of-type(3) .matrix"
MEANS = ".overview section:nth-of-type(4) .matrix"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("logs") / "<i>run", seed=1).looks(LOOKS)
    for t in (2, 5, 9):
        column = np.zeros((28, 28))
        column[:, 3 * t] = 1
        run.writer.add_findings(Found(10 * t, [], {0: column, 1: np.full((28, 28), 0.5)}))
    return run


@pytest.fixture(scope="module")
def places(run):
    with everywhere(run.folder.parent) as addresses:  # an empty fragment is the first view
        yield {where: address if "#" in address else f"{address}#" for where, address in addresses.items()}


def overview(open_page, address):
    page = open_page(address)
    frame = frame_of(page, "tensorboard" if address.endswith(IN_TENSORBOARD) else "")
    frame.wait_for_selector(f"{MATRIX} canvas")
    settle(frame)
    return frame


def right(run):
    return np.stack([shares.argmax(1) == run.labels for shares in run.shares])


def cell(frame, matrix, row, column):
    """The middle of a cell on the screen."""
    box = frame.locator(f"{matrix} .matrix-field canvas").bounding_box()
    rows = frame.locator(f"{matrix} .matrix-names > div").count()
    columns = LOOKS if matrix == MATRIX else 3
    return box["x"] + (column + 0.5) / columns * box["width"], box["y"] + (row + 0.5) / rows * box["height"]


def colors_at_edge(frame, row, column):
    """Whether the top edge of a cell has the color of right, of wrong, or of neither."""
    return frame.locator(f"{MATRIX} .matrix-field canvas").evaluate(
        """(canvas, [row, column, rows, columns]) => {
            const side = (n, count, size) => Math.round(n * (size + 2) / count);
            const x = side(column, columns, canvas.width) + 8, y = side(row, rows, canvas.height) + 1;
            const [r, g, b] = canvas.getContext("2d").getImageData(x, y, 1, 1).data;
            const style = getComputedStyle(canvas);
            const near = (name) => {
                const hex = style.getPropertyValue(name).trim();
                const own = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
                return Math.hypot(r - own[0], g - own[1], b - own[2]) < 12;
            };
            return near("--right") ? "right" : near("--wrong") ? "wrong" : "none";
        }""",
        [row, column, 8, LOOKS],
    )


@pytest.mark.parametrize("where", ["tab", "tensorboard", "report"])
def test_it_comes_first_and_says_what_the_run_came_to(places, run, open_page, where):
    frame = overview(open_page, places[where])
    assert frame.inner_text(".overview h2") == "<i>run" and frame.locator(".overview i").count() == 0
    lead = frame.inner_text(".lead")
    assert lead.startswith("10 looks at 8 images, from step 0 (epoch 0) to step 90 (epoch 9), over ")
    then, now = (f"{round(100 * share.mean())} %" for share in right(run)[[0, -1]])
    assert frame.locator(".card").first.inner_text() == f"{then} → {now}\naccuracy on 8 probe images"
    assert frame.locator(".card").nth(1).inner_text() == "0 → 1\nval_acc"


def test_turns_are_framed_in_the_color_of_what_the_image_became(places, run, open_page):
    frame = overview(open_page, places["report"])
    verdicts = right(run)
    turned = verdicts[1:] != verdicts[:-1]
    assert f"{turned.sum()} flips" in frame.inner_text(".overview section:nth-of-type(3) h3")
    for row in range(8):
        for column in range(1, LOOKS):
            expected = ("right" if verdicts[column, row] else "wrong") if turned[column - 1, row] else "none"
            assert colors_at_edge(frame, row, column) == expected, (row, column)


def test_a_click_opens_the_image_at_the_step(places, run, open_page):
    page = overview(open_page, places["tab"])
    page.mouse.move(*cell(page, MATRIX, 5, 4))
    assert page.inner_text(f"{MATRIX} .matrix-told").startswith(
        f"image 6: {CLASSES[run.labels[5]]} · step 40 · epoch 4"
    )
    page.mouse.click(*cell(page, MATRIX, 5, 4))
    page.wait_for_selector("dialog[open]")
    settle(page)
    assert place(page) == 40 and "step 40" in page.inner_text("dialog")
    assert page.inner_text("dialog h2") == CLASSES[run.labels[5]]
    page.keyboard.press("Escape")
    column = page.locator(f"{MATRIX} .matrix-column").bounding_box()
    assert column["x"] < cell(page, MATRIX, 0, 4)[0] < column["x"] + column["width"]


def test_the_keyboard_goes_through_the_cells(places, run, open_page):
    page = overview(open_page, places["report"])
    page.focus(f"{MATRIX} .matrix-field canvas")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.inner_text(f"{MATRIX} .matrix-told").startswith(f"image 2: {CLASSES[run.labels[1]]} · step 20")
    assert place(page) == 90  # the keys are the matrix's own
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    settle(page)
    assert place(page) == 20


def test_mean_maps_of_classes_lead_to_the_images_of_the_class(places, run, open_page):
    page = overview(open_page, places["report"])
    names = page.locator(f"{MEANS} .matrix-names > div").all_inner_texts()
    assert sorted(names) == ["cat", "dog"]
    rows = page.locator(f"{MEANS} .matrix-field canvas").evaluate(
        """(canvas, row) => {
            const height = (canvas.height + 2) / 2, width = (canvas.width + 2) / 3;
            const row_of = (column) => canvas.getContext("2d").getImageData(
                Math.round(column * width), Math.round((row + 0.5) * height), Math.round(width) - 2, 1).data;
            return [0, 1, 2].map((column) => {
                const reds = [...row_of(column)].filter((_, n) => n % 4 === 0);
                return reds.indexOf(Math.max(...reds)) / reds.length;
            });
        }""",
        names.index("cat"),
    )
    assert np.allclose(rows, [(3 * t + 0.5) / 28 for t in (2, 5, 9)], atol=0.05)
    page.locator(f"{MEANS} .matrix-field canvas").scroll_into_view_if_needed()
    page.mouse.click(*cell(page, MEANS, names.index("cat"), 1))
    settle(page)
    assert set(texts(page, ".first")) == {"cat"} and place(page) == 50


def test_filters_choose_the_rows_and_many_looks_share_columns(tmp_path, open_page):
    run = Run(tmp_path / "long", count=8).looks(300)
    page = overview(open_page, write_report(tmp_path).as_uri() + "#")
    page.select_option("select[name=label]", label="owl")
    settle(page)
    assert page.locator(f"{MATRIX} .matrix-names > div").count() == (run.labels == 2).sum()
    box = page.locator(f"{MATRIX} .matrix-field canvas").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 5)
    assert "step 0 " in page.inner_text(f"{MATRIX} .matrix-told")
    main = page.locator("main").bounding_box()
    assert box["x"] + box["width"] <= main["x"] + main["width"]
