"""The charts with all methods at once: they leave the page to the tiles, and each curve can be found."""

from __future__ import annotations

import numpy as np
import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, settle, view
from tests.review.records import Run, maps_at

METHODS = [f"method_{n}" for n in range(20)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("methods")
    Run(logdir, methods=METHODS, count=4).looks(4)
    with tensorboard(logdir) as address:
        yield address


@pytest.fixture
def page(page):
    view(page, "methods")
    return page


def entropy(page):
    return page.locator(".chart", has=page.locator('[data-title="entropy"]'))


def brought_out(chart):
    return chart.locator(".names .out").all_inner_texts()


def test_the_legend_of_many_methods_leaves_the_page_to_the_tiles(page):
    assert page.locator("footer").bounding_box()["height"] < 0.3 * 900
    assert page.locator("footer").evaluate("(footer) => footer.scrollHeight <= footer.clientHeight")
    assert [text.split()[1] for text in entropy(page).locator(".name").all_inner_texts()] == METHODS


def test_no_two_curves_look_alike(page):
    look = "(lines) => lines.map((line) => [line.getAttribute('stroke'), line.getAttribute('stroke-dasharray')].join())"
    curves = entropy(page).locator(".plot .line").evaluate_all(look)
    assert len(curves) == len(set(curves)) == 20
    assert entropy(page).locator(".names .line").evaluate_all(look) == curves


def test_the_pointer_brings_out_one_curve_in_all_charts(page):
    drift = page.locator(".chart", has=page.locator('[data-title="drift since the last look"]'))
    entropy(page).locator(".name").nth(2).hover()
    for chart in (entropy(page), drift):
        assert [text.split()[1] for text in brought_out(chart)] == ["method_2"]
        opacities = chart.locator(".plot .line").evaluate_all(
            "(lines) => lines.map((line) => Number(getComputedStyle(line).opacity))"
        )
        assert opacities[2] == 1 and max(opacities[:2] + opacities[3:]) < 0.5
    page.mouse.move(700, 300)
    settle(page)
    assert brought_out(entropy(page)) == []


def test_pointing_at_a_curve_shows_its_name_in_the_legend(page):
    plot = entropy(page).locator(".plot svg").bounding_box()
    page.mouse.move(plot["x"] + plot["width"] - 4, plot["y"] + 6)  # the last methods stay highest
    settle(page)
    (text,) = brought_out(entropy(page))
    name = text.split()[1]
    assert int(name.removeprefix("method_")) > 10
    legend, entry = (entropy(page).locator(place).bounding_box() for place in (".names", ".names .out"))
    assert legend["y"] - 1 <= entry["y"] and entry["y"] + entry["height"] <= legend["y"] + legend["height"] + 1


def test_a_single_look_is_a_dot_that_can_be_seen(tmp_path, open_page):
    Run(tmp_path, methods=METHODS, count=4).look(0, 0.5)
    with tensorboard(tmp_path) as address:
        page = open_page(address + ENTRY)
        page.wait_for_selector(".tile")
        view(page, "methods")
        width = "(line) => [parseFloat(getComputedStyle(line).strokeWidth), line.getAttribute('stroke-dasharray')]"
        assert entropy(page).locator(".plot .line").last.evaluate(width) == [6, "none"]


def open_grid(address, open_page, size):
    page = open_page(address + ENTRY)
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    page.wait_for_selector(".chart")
    settle(page)
    return page


@pytest.mark.parametrize("size", [(1280, 800), (1400, 600), (500, 800)])
def test_charts_that_do_not_fit_stand_in_further_rows_and_leave_most_of_the_page_to_the_tiles(
    tmp_path, open_page, size
):
    run = Run(tmp_path).looks(2)
    run.writer.add_metrics(10, {f"metric_{n}": n for n in range(30)})
    with tensorboard(tmp_path) as address:
        page = open_grid(address, open_page, size)
        assert page.locator(".chart").count() > 30
        page.click(".more")
        settle(page)
        whole = page.locator(".charts").bounding_box()
        lasts = [page.locator(".chart").nth(n).bounding_box() for n in range(34)]
        assert all(whole["x"] <= box["x"] and box["x"] + box["width"] <= whole["x"] + whole["width"] for box in lasts)
        assert lasts[0]["y"] < lasts[-1]["y"] and lasts[0]["x"] < lasts[1]["x"]
        assert page.locator("footer").bounding_box()["height"] < 0.42 * size[1]
        page.locator(".chart").last.scroll_into_view_if_needed()
        last = page.locator(".chart").last.bounding_box()
        assert whole["y"] <= last["y"] + 1 and last["y"] + last["height"] <= whole["y"] + whole["height"] + 1


@pytest.mark.parametrize("of_the_label", [True, False])
def test_no_chart_repeats_another(tmp_path, open_page, of_the_label):
    run = Run(tmp_path, methods=["hirescam"])
    logged = ("target_probability", "similarity_to_previous", "similarity_to_first")
    for step in (0, 10):
        run.writer.append(
            step,
            0,
            {"hirescam": maps_at(0.1 * step, run.centers, seed=step)},
            probabilities=np.full((8, 3), 1 / 3),
            class_idx=run.labels if of_the_label else np.full(8, 2),
            metrics={f"cam/hirescam/{metric}": 0.5 for metric in logged},
        )
        run.writer.add_metrics(step, {"similarity_to_previous": 1.0})  # of the model's own: of what, nobody knows
    with tensorboard(tmp_path) as address:
        page = open_grid(address, open_page, (1280, 800))
        titles = page.locator(".chart .title").all_inner_texts()
    assert ("target_probability" in titles) == (not of_the_label)
    assert sorted(set(titles) - {"target_probability"}) == [
        "drift since the last look",
        "label probability",
        "probe accuracy",
        "similarity_to_first",
        "similarity_to_previous",
    ]
    assert len(titles) == len(set(titles))
