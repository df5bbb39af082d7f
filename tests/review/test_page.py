"""The page in a real browser, against a TensorBoard of its own, by what it shows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import go, inferno, pixels, place, set_range, settle, texts, tiles, view
from tests.review.records import CLASSES, GRID, Run

LOOKS = 12
STEPS = [10 * t for t in range(LOOKS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    other = Run(logdir / "slow", seed=2).looks(LOOKS)
    return {"fast": Run(logdir / "fast", seed=1).looks(LOOKS), "slow": other, "logdir": logdir}


@pytest.fixture(scope="module")
def server(runs):
    with tensorboard(runs["logdir"]) as address:
        yield address


def test_opens_at_the_newest_look_with_captions(page, runs):
    run = runs["fast"]
    assert place(page) == STEPS[-1]
    assert page.locator("select[name=timeline]").input_value() == "fast"
    assert texts(page, ".first") == [CLASSES[label] for label in run.labels]
    shares = run.shares[-1]
    for n, second in enumerate(texts(page, ".second")):
        best = shares[n].argmax()
        mark, name, percent = re.fullmatch(r"(✓|✗) (\w+) · >?(\d+) %", second).groups()
        assert name == CLASSES[best] and (mark == "✓") == (best == run.labels[n])
        assert abs(int(percent) - 100 * shares[n, best]) <= 1


def test_slider_keys_and_reload_keep_one_place(page):
    go(page, 3)
    assert place(page) == STEPS[3]
    for key, expected in (("ArrowRight", 4), ("ArrowLeft", 3), ("End", LOOKS - 1), ("Home", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        settle(page)
        assert place(page) == STEPS[expected], key
    go(page, 5)
    view(page, "methods")
    page.reload()
    page.wait_for_selector(".tile")
    assert place(page) == STEPS[5]
    assert page.get_attribute("[data-view=methods]", "aria-selected") == "true"


def test_arrow_keys_on_another_slider_are_its_own(page):
    page.focus("input[name=opacity]")
    before = place(page)
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert place(page) == before
    assert page.locator("input[name=opacity]").input_value() == "0.74"


def test_play_runs_to_the_end_and_pause_stops(page):
    page.select_option(".player select", label="32 / s")
    go(page, 0)
    page.click(".play")
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('look 12')")
    page.wait_for_selector(".play[aria-label=play]")
    page.select_option(".player select", label="2 / s")
    go(page, 0)
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.place').textContent.includes('look 2 ')")
    page.keyboard.press("Space")
    stopped = place(page)
    page.wait_for_timeout(900)
    assert place(page) == stopped and page.get_attribute(".play", "aria-label") == "play"


def test_a_cell_has_the_color_of_its_value(page, runs):
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    page.select_option("select[name=scale]", label="per image")
    set_range(page, "opacity", 1)
    for n in (0, 5):
        values = runs["fast"].maps[-1]["hirescam"][n]
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert np.allclose(pixels(page, n, int(row), int(column)), inferno(1), atol=3)
    set_range(page, "threshold", 1)
    hidden = pixels(page, 0, 0, 0)
    set_range(page, "opacity", 0)
    assert pixels(page, 0, 0, 0) == hidden


def test_weak_evidence_can_be_brought_out(page, runs):
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    set_range(page, "opacity", 1)
    maps = runs["fast"].maps[-1]["hirescam"]
    n, row, column = (int(k) for k in np.argwhere((maps / maps.max((1, 2), keepdims=True)).round(1) == 0.3)[0])
    share = float(maps[n, row, column] / maps[n].max())
    set_range(page, "opacity", 0)
    ground = np.array(pixels(page, n, row, column))
    set_range(page, "opacity", 1)
    for expected in (share, share**0.5):
        color = np.array(inferno(expected))
        assert np.allclose(pixels(page, n, row, column), ground + (color - ground) * expected, atol=5)
        page.check("input[name=squareRoot]")
        settle(page)


@pytest.mark.parametrize("scale", ["per image", "over time", "common"])
def test_hover_shows_the_value_and_its_share_of_the_scale(page, runs, scale):
    page.select_option("select[name=scale]", label=scale)
    go(page, 4)
    n, maps = 2, np.stack([maps["hirescam"] for maps in runs["fast"].maps])
    values = maps[4, n]
    peaks = maps.max((2, 3))
    over_time, common = (np.percentile(own, 99, method="lower") for own in (peaks[:, n], peaks))
    largest = {"per image": values.max(), "over time": over_time, "common": common}[scale]
    row, column = (int(k) for k in np.unravel_index(values.argmax(), values.shape))
    box = tiles(page).nth(n).locator("canvas").bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) / GRID * box["width"], box["y"] + (row + 0.5) / GRID * box["height"])
    value, share = re.search(r"([\d.e-]+) · (\d+) % of the scale", page.inner_text(".tiles .tip")).groups()
    assert float(value) == pytest.approx(values.max(), rel=0.01)
    assert int(share) == pytest.approx(100 * values.max() / largest, abs=1)
    assert f"row {row + 1}, column {column + 1}" in page.inner_text(".tiles .tip")
    t, i = np.unravel_index(np.abs(peaks - common).argmin(), peaks.shape)
    named = f"image {i + 1} ({CLASSES[runs['fast'].labels[i]]}) at step {STEPS[t]}"
    assert (named in page.inner_text(".controls")) == (scale == "common")


def test_signed_maps_are_diverging(page, runs):
    values = runs["fast"].maps[0]["hirescam"][0]
    row, column = (int(k) for k in np.unravel_index(values.argmin(), values.shape))
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    page.select_option("select[name=scale]", label="per image")
    set_range(page, "opacity", 1)
    go(page, 0)
    plain = pixels(page, 0, row, column)
    page.check("input[name=signed]")
    settle(page)
    assert page.locator("select[name=colormap]").input_value() == "coolwarm"
    against = pixels(page, 0, row, column)
    assert against != plain and against[2] > against[0] + 20  # blue: it speaks against the class


def test_filmstrip_shows_one_image_at_all_looks(page, runs):
    view(page, "film")
    assert texts(page, ".first") == [f"step {step} · epoch {step // 10}" for step in STEPS]
    page.locator(".thumbs button").nth(3).click()
    settle(page)
    assert page.inner_text(".thumbs + .hint") == f"image 4: {CLASSES[runs['fast'].labels[3]]}"
    shares = [shares[3] for shares in runs["fast"].shares]
    assert [text.split()[1] for text in texts(page, ".second")] == [CLASSES[share.argmax()] for share in shares]


def test_difference_to_a_step_vanishes_at_that_step(page):
    view(page, "diff")
    page.uncheck("input[name=outlines]")
    set_range(page, "opacity", 1)
    changed = pixels(page, 0, 3, 3)
    page.select_option("select[name=reference]", label="step 110 · epoch 11")
    settle(page)
    same = [pixels(page, 0, row, 3) for row in range(GRID)]
    set_range(page, "opacity", 0)
    assert same == [pixels(page, 0, row, 3) for row in range(GRID)]
    assert changed != same[3]


def test_runs_side_by_side_show_the_same_images(page, runs):
    view(page, "runs")
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 3")
    headings = page.locator(".headings div").all_inner_texts()
    assert [heading.split("\n")[0] for heading in headings] == ["image", "fast", "slow"]
    assert tiles(page).count() == 3 * 8
    go(page, 2)
    for n, name in enumerate(("fast", "slow"), start=1):
        best = runs[name].shares[2].argmax(1)
        assert [text.split()[1] for text in texts(page, ".second")[n::3]] == [CLASSES[k] for k in best]
    page.locator(".runs input").nth(1).uncheck()
    settle(page)
    assert page.locator(".headings div").count() == 2


def test_methods_side_by_side(page):
    view(page, "methods")
    assert page.locator(".headings div").all_inner_texts() == ["image", "hirescam", "gradcam"]
    assert tiles(page).count() == 3 * 8


def test_a_click_enlarges_and_goes_with_the_slider(page, runs):
    tiles(page).nth(1).click()
    page.wait_for_selector("dialog[open]")
    assert page.inner_text("dialog h2") == CLASSES[runs["fast"].labels[1]]
    top = page.locator("dialog .top .name").all_inner_texts()
    assert top == [CLASSES[k] for k in np.argsort(-runs["fast"].shares[-1][1])]
    page.keyboard.press("Home")
    settle(page)
    assert "step 0" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="hidden")
    assert place(page) == 0


def test_enter_on_a_tile_enlarges_it_and_escape_goes_back_to_it(page, runs):
    tiles(page).nth(1).focus()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("dialog[open]").count() == 1
    assert page.inner_text("dialog h2") == CLASSES[runs["fast"].labels[1]]
    page.keyboard.press("Escape")
    settle(page)
    assert page.locator("dialog[open]").count() == 0
    assert tiles(page).nth(1).evaluate("(tile) => tile === document.activeElement")


def test_filters_and_sorting(page, runs):
    run = runs["fast"]
    go(page, 3)
    page.select_option("select[name=label]", label="dog")
    settle(page)
    assert set(texts(page, ".first")) == {"dog"} and tiles(page).count() == (run.labels == 1).sum()
    page.select_option("select[name=label]", label="all")
    right = run.shares[3].argmax(1) == run.labels
    for choice, expected in (("predicted right", right.sum()), ("predicted wrong", (~right).sum())):
        page.select_option("select[name=show]", label=choice)
        settle(page)
        assert tiles(page).count() == expected
    page.select_option("select[name=show]", label="changed most (2)")
    page.select_option("select[name=sort]", label="drift")
    settle(page)
    maps = np.stack([maps["hirescam"].reshape(8, -1) for maps in run.maps])
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    drift = (1 - (unit[1:] * unit[:-1]).sum(-1)).mean(0)
    most = np.argsort(-drift)
    assert texts(page, ".first") == [CLASSES[run.labels[i]] for i in most[:2]]
    page.select_option("select[name=show]", label="all")
    settle(page)
    assert texts(page, ".first") == [CLASSES[run.labels[i]] for i in most]


def test_charts_show_the_metrics_at_the_cursor_and_move_the_slider(page):
    def value(title):
        return float(page.locator(".chart", has=page.locator(f'[data-title="{title}"]')).locator("b").inner_text())

    go(page, 6)
    assert value("val_acc") == pytest.approx(6 / 11, abs=1e-3)
    assert value("entropy") == pytest.approx(1 - 6 / 22, abs=1e-3)
    page.select_option("select[name=method]", label="gradcam")
    settle(page)
    assert value("entropy") == pytest.approx(1 - 6 / 33, abs=1e-3)
    box = page.locator(".plot").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 3 / 11, box["y"] + 20)
    settle(page)
    assert place(page) == STEPS[3]
    cursor = page.locator(".plot .cursor").first.bounding_box()
    assert cursor["x"] - box["x"] == pytest.approx(box["width"] * 3 / 11, abs=3)


def test_asks_no_other_host(page, server):
    view(page, "runs")
    page.wait_for_timeout(300)
    assert [url for url in page.requested if not url.startswith((server, "blob:"))] == []
