"""The page with what a project has after some weeks: many runs in one folder, runs that failed, long names."""

from __future__ import annotations

import pytest

from lightning_cam.timeline.report import write_report
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, message, settle, view
from tests.review.records import Run

VERSIONS = [1, 2, 10, 11]


@pytest.fixture(scope="module")
def lightning_logs(tmp_path_factory):
    """A TensorBoard one folder above the runs, as with Lightning's default directory and `--logdir .`."""
    logdir = tmp_path_factory.mktemp("project")
    for version in VERSIONS:
        Run(logdir / "lightning_logs" / f"version_{version}", seed=version).looks(3)
    with tensorboard(logdir) as address:
        yield address


def test_runs_are_told_apart_by_what_differs_and_stand_in_the_order_of_their_numbers(lightning_logs, open_page):
    page = open_page(lightning_logs + ENTRY)
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


def test_a_run_without_a_look_is_not_compared_until_it_has_one(tmp_path, open_page):
    for version in range(4):
        Run(tmp_path / f"version_{version}").looks(2)
    failed = Run(tmp_path / "version_4")  # the newest: it would be among the four compared
    with tensorboard(tmp_path) as address:
        page = open_page(address + ENTRY)
        assert message(page, "No looks yet").endswith("see the log of the training.")
        view(page, "runs")
        page.wait_for_function("() => document.querySelectorAll('.headings div').length === 5")
        boxes = page.locator(".runs label")
        assert boxes.last.inner_text().strip() == "version_4 (no looks yet)"
        assert [boxes.nth(n).locator("input").is_checked() for n in range(5)] == [True] * 4 + [False]
        assert boxes.last.locator("input").is_disabled()
        failed.look(0, 0.5)
        page.wait_for_function("() => document.querySelector('.runs label:last-child input').checked")
        page.wait_for_function("() => document.querySelector('.headings').innerText.includes('version_4')")
        assert page.locator(".headings div").count() == 5


def test_no_run_ticked_is_not_taken_for_a_run_without_a_look(lightning_logs, open_page):
    page = open_page(lightning_logs + ENTRY)
    page.wait_for_selector(".tile")
    view(page, "runs")
    for box in page.locator(".runs input:checked").all()[::-1]:
        box.uncheck()
        settle(page)
    assert message(page, "selected") == "No run is selected."


def test_a_box_that_was_ticked_keeps_the_focus(lightning_logs, open_page):
    page = open_page(lightning_logs + ENTRY)
    page.wait_for_selector(".tile")
    view(page, "runs")
    page.locator(".runs input").nth(2).focus()
    for expected in (False, True):
        page.keyboard.press("Space")
        settle(page)
        assert page.locator(".runs input:focus").is_checked() == expected


SWEEP = [f"vit_tiny_patch16_224_augreg_in21k_lr{rate}/version_{n}" for rate in ("0.001", "0.02", "0.1") for n in (0, 1)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A TensorBoard of runs with long names that differ near their ends; one has failed."""
    logdir = tmp_path_factory.mktemp("sweep")
    for name in reversed(SWEEP):
        Run(logdir / name).look(0, 0.5)
    Run(logdir / "failed")
    with tensorboard(logdir) as address:
        yield address


def test_long_names_of_runs_are_cut_where_they_can_be_told_apart(sweep, open_page):
    page = open_page(sweep + ENTRY)
    page.wait_for_selector("select[name=timeline] option", state="attached")
    options = page.locator("select[name=timeline] option").all_inner_texts()
    assert options[0] == "failed" and len(set(options)) == 7
    for option, name in zip(options[1:], SWEEP, strict=True):
        assert "…" in option and option[-12:] == name[-12:]
    view(page, "runs")
    page.wait_for_selector(".chart .names")
    legend = page.locator(".chart .names").first.locator(".name").all_inner_texts()
    assert [text.split("/")[-1] for text in legend] == ["version_0", "version_1"] * 2
    assert len({text.split()[1] for text in legend}) == 4


def test_methods_and_classes_of_the_compared_runs_can_be_chosen_whatever_run_was_shown_before(sweep, open_page):
    page = open_page(sweep + ENTRY)
    message(page, "No looks yet")
    assert page.locator("select[name=timeline]").get_attribute("title") == "failed"
    view(page, "runs")
    page.wait_for_selector(".tile")
    assert page.locator("select[name=method] option").all_inner_texts() == ["hirescam", "gradcam"]
    assert page.locator("select[name=label] option").all_inner_texts() == ["all", "cat", "dog", "owl"]


def test_runs_that_differ_in_the_middle_and_end_alike_have_names_of_their_own(tmp_path, open_page):
    names = [f"experiment_of_november_lr{lr}_weight_decay_0.05_seed_1/version_0" for lr in (0.1, 0.01, 0.001)]
    for n, name in enumerate(names):
        Run(tmp_path / name, seed=n).looks(2)
    page = open_page(write_report(tmp_path).as_uri())
    page.wait_for_selector(".tile")
    options = page.locator("select[name=timeline] option").all_inner_texts()
    assert len(set(options)) == 3
    assert [option.count("lr0.") for option in options] == [1] * 3
