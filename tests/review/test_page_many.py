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
