"""A and B: any run, method and step beside any other; runs held together by their epochs."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.report import write_report
from tests.review.driving import go, pixels, set_range, settle, texts, tiles, view
from tests.review.records import Run

LOOKS = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    small = Run(logdir / "small_batches", seed=2)
    for t in range(LOOKS):  # four times as many steps an epoch
        small.writer.append(40 * t, t, {m: np.full((8, 8, 8), 1 + t, np.float32) for m in small.methods})
    return Run(logdir / "large_batches", seed=1).looks(LOOKS), small, logdir


@pytest.fixture
def page(runs, open_page):
    page = open_page(write_report(runs[2]).as_uri() + "#view=pair&run=large_batches%2Fcam.lcam&step=30")
    page.wait_for_selector(".tile")
    settle(page)
    return page


def headings(page):
    return page.locator(".headings div").all_inner_texts()


def test_b_is_any_run_method_and_step(page):
    assert headings(page) == ["image", "A: large_batches · hirescam\nstep 30", "B: large_batches · hirescam\nstep 30"]
    page.select_option("select[name=otherMethod]", label="gradcam")
    page.select_option("select[name=otherStep]", label="step 10 · epoch 1")
    settle(page)
    assert headings(page)[2] == "B: large_batches · gradcam\nstep 10" and tiles(page).count() == 3 * 8
    page.select_option("select[name=otherRun]", label="small_batches")
    page.select_option("select[name=otherStep]", index=0)
    page.wait_for_function("() => document.querySelectorAll('.headings div')[2].innerText.includes('small')")
    settle(page)
    assert headings(page)[2] == "B: small_batches · gradcam\nstep 120"  # of the same epoch
    go(page, 5)
    assert headings(page)[1:] == ["A: large_batches · hirescam\nstep 50", "B: small_batches · gradcam\nstep 200"]
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('.headings div')[2]?.innerText.includes('small')")
    assert headings(page)[2].startswith("B: small_batches · gradcam")


def test_a_swipe_lays_b_over_a(page):
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    page.select_option("select[name=otherMethod]", label="gradcam")
    settle(page)
    a, b = ([pixels(page, n, 3, column) for column in (1, 6)] for n in (1, 2))
    page.check("input[name=swipe]")
    settle(page)
    assert tiles(page).count() == 8
    assert np.allclose([pixels(page, 0, 3, 1), pixels(page, 0, 3, 6)], [a[0], b[1]], atol=3)
    set_range(page, "swipeAt", 0)
    assert np.allclose([pixels(page, 0, 3, 1), pixels(page, 0, 3, 6)], b, atol=3)


def test_runs_with_other_batch_sizes_are_held_together_by_epoch(page):
    view(page, "runs")
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 3")
    page.select_option("select[name=align]", label="epoch")
    settle(page)
    go(page, 2)
    assert headings(page)[1:] == ["large_batches\nstep 20", "small_batches\nstep 80"]
    assert len(texts(page, ".first")) == 3 * 8
