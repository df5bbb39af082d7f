"""The slider's marks, and what goes from one to the next."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.timeline.report import write_report
from tests.review.driving import go, place, settle, view
from tests.review.records import Run

HOSTILE = "<b>x</b> since step 30"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("logs"), seed=1).looks(12)
    run.writer.add_findings(Found(60, [FoundEntry("shortcut", HOSTILE, "confirmed", 30, [0], [], {})]))
    return run


@pytest.fixture
def page(run, open_page):
    page = open_page(write_report(run.folder).as_uri())
    page.wait_for_selector(".tile")
    return page


def marked(page, kind):
    texts = [mark.get_attribute("title") for mark in page.locator(f".mark.{kind}").all()]
    return [int(text.split(":")[0].removeprefix("step ")) for text in texts]


def expected(run):
    maps = np.stack([maps["hirescam"].reshape(8, -1) for maps in run.maps])
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    drift = (1 - (unit[1:] * unit[:-1]).sum(-1)).mean(1)
    right = np.stack([shares.argmax(1) == run.labels for shares in run.shares])
    return 10 * (1 + int(drift.argmax())), right[1:] != right[:-1]


def test_the_slider_marks_what_happened(page, run):
    change, turned = expected(run)
    counts = turned.sum(1)
    assert marked(page, "found") == [30] and page.locator(".mark.found b").count() == 0
    assert marked(page, "best") == [110]  # val_acc rises to the end
    assert marked(page, "change") == [change]
    assert marked(page, "turn") == [
        10 * (1 + int(t)) for t in np.flatnonzero((counts > 0) & (2 * counts >= counts.max()))
    ]
    view(page, "film")
    page.locator(".thumbs button").nth(2).click()
    settle(page)
    assert marked(page, "turn") == [10 * (1 + int(t)) for t in np.flatnonzero(turned[:, 2])]


def test_n_and_p_go_to_the_marks_and_say_what_they_are(page):
    steps = sorted({step for kind in ("found", "best", "change", "turn") for step in marked(page, kind)})
    go(page, 0)
    seen = []
    for _ in steps:
        page.keyboard.press("n")
        settle(page)
        seen.append(place(page))
        if seen[-1] == 30:
            assert HOSTILE in page.inner_text(".mark-told")
    assert seen == [step for step in steps if step > 0][: len(seen)]
    page.keyboard.press("n")  # there is none behind the last one
    settle(page)
    assert place(page) == steps[-1]
    for step in reversed(steps[:-1]):
        page.keyboard.press("p")
        settle(page)
        assert place(page) == step
    page.locator(".mark.found").click(force=True)
    settle(page)
    assert place(page) == 30


def test_it_loops_and_plays_slowly(page):
    page.select_option(".player select", label="32 / s")
    page.click(".loop")
    go(page, 10)
    page.click(".play")
    page.wait_for_function("() => /look [123] of/.test(document.querySelector('.place').textContent)")
    page.click(".play")
    page.click(".loop")
    page.select_option(".player select", label="0.5 / s")
    go(page, 0)
    page.click(".play")
    page.wait_for_timeout(1200)
    assert place(page) == 0  # at 1 / s it had moved
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('look 2 ')")
