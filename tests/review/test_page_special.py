"""The page on records out of the ordinary: as a tab, live, hostile, newer; with the slow loader and a path prefix."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, IN_TENSORBOARD, frame_of, message, pixels, place, settle, texts, tiles, view
from tests.review.records import GRID, Run


@pytest.fixture(scope="module")
def special(tmp_path_factory):
    """A TensorBoard with the slow loader and a path prefix, for records that are out of the ordinary."""
    logdir = tmp_path_factory.mktemp("special")
    hostile = '<img src=x onerror="alert(1)">'
    run = Run(logdir / "a" / "<b>run", class_names=[hostile, "</script><script>alert(2)</script>", "ok"], name=hostile)
    run.look(0, 0.2)
    empty = {"hirescam": np.zeros((8, GRID, GRID), np.float32), "gradcam": np.full((8, GRID, GRID), np.nan)}
    run.look(10, 0.5, empty)
    with tensorboard(logdir, "--load_fast=false", "--path_prefix=/some/where") as address:
        yield address, logdir


def test_opens_as_a_tab_and_follows_the_theme(special, open_page):
    address, _ = special
    page = open_page(address + IN_TENSORBOARD)
    frame = frame_of(page)
    frame.click("[data-view=grid]")
    frame.wait_for_selector(".tile")
    assert frame.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("document.body.classList.add('dark-mode')")
    frame.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")


def test_hostile_names_are_text(special, open_page):
    page = open_page(special[0] + ENTRY)
    page.wait_for_selector(".tile")
    assert texts(page, ".first")[0].startswith("<img src=x")
    assert tiles(page).locator(".first").first.get_attribute("title") == '<img src=x onerror="alert(1)">'
    for name in ("film", "runs", "methods", "grid"):
        view(page, name)
    tiles(page).first.click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1  # TensorBoard's own
    assert "<b>run" in page.locator("select[name=timeline]").inner_text()


def test_no_evidence_is_marked(special, open_page):
    page = open_page(special[0] + ENTRY)
    page.wait_for_selector(".tile[data-missing='no evidence']")
    assert page.locator(".tile[data-missing='no evidence']").count() == 8
    page.select_option("select[name=method]", label="gradcam")
    settle(page)
    assert page.locator(".tile[data-missing='no evidence']").count() == 8
    r, g, b = pixels(page, 0, 0, 0)
    assert max(r, g, b) - min(r, g, b) <= 2  # gray
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.locator(".tile[data-missing='no evidence']").count() == 0


def test_follows_a_live_run_and_finds_new_ones(special, open_page):
    address, logdir = special
    run = Run(logdir / "z_live", probe_seed=7)
    run.look(0, 0.1)
    page = open_page(address + ENTRY)
    page.wait_for_selector(".tile")
    page.select_option("select[name=timeline]", label="z_live")
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('look 1 of 1')")
    run.look(10, 0.5)
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('look 2 of 2')")
    assert place(page) == 10
    page.keyboard.press("Home")
    settle(page)
    assert not page.is_checked(".follow input")
    run.look(20, 0.9)
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('of 3')")
    assert place(page) == 0  # who looks back is left in peace
    Run(logdir / "z_new").look(0, 0.5)
    page.wait_for_function("() => document.querySelector('select[name=timeline]')?.innerText.includes('z_new')")


def test_a_newer_format_is_named_and_the_rest_still_shown(special, open_page):
    address, logdir = special
    newer = Run(logdir / "z_newer").looks(2).path
    data = bytearray(newer.read_bytes())
    struct.pack_into("<I", data, 4, 99)
    newer.write_bytes(data)
    page = open_page(address + ENTRY)
    page.wait_for_function("() => document.querySelector('select[name=timeline]')?.innerText.includes('z_newer')")
    page.select_option("select[name=timeline]", label="z_newer")
    assert "upgrade lightning-cam" in message(page, "version 99")
    page.select_option("select[name=timeline]", index=0)
    page.wait_for_selector(".message", state="hidden")
    assert tiles(page).count() == 8
