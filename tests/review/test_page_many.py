"""The page with what a project has after some weeks: many runs in one folder, runs that failed, long names."""

from __future__ import annotations

import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, settle, view
from tests.review.records import Run

VERSIONS = [1, 2, 10, 11]


@pytest.fixture(scope="module")
def lightning_logs(tmp_path_factory):
    """A TensorBoard one folder above the runs, as with Lightning's default directory and `--logdir .`."""
    logdir = tmp_path_factory.mktemp("project")
    for version in VERSIONS:
        Run(logdir / "lightning_logs" / f"version_{version}", seed=version).looks(3)
    with tensorboard(logdir) as address:
        yield address, logdir / "lightning_logs"


def test_runs_are_told_apart_by_what_differs_and_stand_in_the_order_of_their_numbers(lightning_logs, open_page):
    page = open_page(lightning_logs[0] + ENTRY)
    page.wait_for_selector(".tile")
    names = [f"version_{version}" for version in VERSIONS]
    select = page.locator("select[name=timeline]")
    assert select.locator("option").all_inner_texts() == names
    assert select.get_attribute("title") == "lightning_logs/version_11"  # the newest
    view(page, "runs")
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 5")
    assert [text.split("\n")[0] for text in page.locator(".headings div").all_inner_texts()] == ["image", *names]
    assert page.locator(".headings div").last.get_attribute("title") == "lightning_logs/version_11"
    assert [text.strip() for text in page.locator(".runs label").all_inner_texts()] == names
    legend = page.locator(".chart .names").first.locator(".name")
    assert [text.split()[1] for text in legend.all_inner_texts()] == names
    assert legend.first.get_attribute("title") == "lightning_logs/version_1"
    page.locator(".runs input").nth(1).uncheck()
    settle(page)
    page.locator(".runs input").nth(1).check()
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 5")
    assert [text.split("\n")[0] for text in page.locator(".headings div").all_inner_texts()] == ["image", *names]


def test_a_run_without_a_look_is_not_compared_until_it_has_one(lightning_logs, open_page):
    address, folder = lightning_logs
    failed = Run(folder / "version_12")  # the newest: it would be among the four compared
    page = open_page(address + ENTRY)
    page.wait_for_selector(".message:visible")
    assert "the log of the training says why" in page.inner_text(".message")
    view(page, "runs")
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 5")
    boxes = page.locator(".runs label")
    assert boxes.last.inner_text().strip() == "version_12 (no look yet)"
    assert [boxes.nth(n).locator("input").is_checked() for n in range(5)] == [True] * 4 + [False]
    assert boxes.last.locator("input").is_disabled()
    failed.look(0, 0.5)
    page.wait_for_function("() => document.querySelector('.runs label:last-child input').checked")
    page.wait_for_function("() => document.querySelector('.headings').innerText.includes('version_12')")
    assert page.locator(".headings div").count() == 5


def test_no_run_ticked_is_not_taken_for_a_run_without_a_look(lightning_logs, open_page):
    page = open_page(lightning_logs[0] + ENTRY)
    page.wait_for_selector(".tile")
    view(page, "runs")
    for box in page.locator(".runs input:checked").all()[::-1]:
        box.uncheck()
        settle(page)
    assert page.inner_text(".message") == "No run is ticked."


def test_a_box_that_was_ticked_keeps_the_focus(lightning_logs, open_page):
    page = open_page(lightning_logs[0] + ENTRY)
    page.wait_for_selector(".tile")
    view(page, "runs")
    page.locator(".runs input").nth(2).focus()
    for expected in (False, True):
        page.keyboard.press("Space")
        settle(page)
        assert page.locator(".runs input:focus").is_checked() == expected
