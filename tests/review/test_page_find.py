"""Finding images: by class, prediction, confusion, evidence; and an order that stays while the slider moves."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.report import write_report
from tests.review.driving import go, settle, texts, tiles, view
from tests.review.records import Run, maps_at

CLASSES = ("<i>cat", "dog", "owl")
LOOKS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("logs"), seed=3, class_names=CLASSES)
    for t in range(LOOKS):
        maps = {name: maps_at(t / LOOKS, run.centers, seed=10 * t + n) for n, name in enumerate(run.methods)}
        if t == 4:
            maps["hirescam"][2] = -1  # nothing speaks for its class
            maps["gradcam"][5] = maps["hirescam"][5, ::-1, ::-1]
        run.look(10 * t, t / LOOKS, maps)
    return run


@pytest.fixture
def page(run, open_page):
    page = open_page(write_report(run.folder).as_uri())
    page.wait_for_selector(".tile")
    return page


def choose(page, name, label):
    page.select_option(f"select[name={name}]", label=label)
    settle(page)


def shown(page):
    return texts(page, ".first")


def test_by_prediction_and_by_confusion(page, run):
    go(page, 1)
    best = run.shares[1].argmax(1)
    choose(page, "predicted", CLASSES[best[0]])
    assert shown(page) == [CLASSES[label] for label in run.labels[best == best[0]]]
    assert f"{(best == best[0]).sum()} of 8 images" in page.inner_text(".counted")
    page.click(".counted button")
    settle(page)
    assert tiles(page).count() == 8 and page.inner_text(".counted").strip() == "8 images"
    options = page.locator("select[name=confusion] option").all_inner_texts()
    counts = {(int(a), int(b)): ((run.labels == a) & (best == b)).sum() for a in range(3) for b in range(3) if a != b}
    assert sorted(options[1:]) == sorted(
        f"{CLASSES[a]} as {CLASSES[b]} ({count})" for (a, b), count in counts.items() if count
    )
    choose(page, "confusion", options[1])
    a, b = max(counts, key=lambda pair: (counts[pair], -pair[0], -pair[1]))
    assert shown(page) == [CLASSES[a]] * counts[a, b]
    assert page.locator("i").count() == 0
    page.evaluate("history.back()")
    page.wait_for_function("() => document.querySelectorAll('.tile:not([hidden])').length === 8")


def test_without_evidence_says_why_and_what_another_method_shows(page, run):
    go(page, 4)
    choose(page, "show", "without evidence")
    assert shown(page) == [CLASSES[run.labels[2]]]
    described = tiles(page).first.get_attribute("aria-description")
    explained = CLASSES[run.shares[4][2].argmax()]
    assert described == f"No positive evidence for {explained}. Methods with evidence: gradcam."
    tiles(page).first.locator("canvas").hover()
    assert page.inner_text(".tiles .tip") == described


def test_where_methods_disagree(page, run):
    go(page, 4)
    choose(page, "show", "methods disagree (2)")
    positive = {name: maps.clip(0).reshape(8, -1) for name, maps in run.maps[4].items()}
    share = {name: maps / np.maximum(maps.sum(1, keepdims=True), 1e-9) for name, maps in positive.items()}
    shared = np.minimum(share["hirescam"], share["gradcam"]).sum(1)
    assert shown(page) == [CLASSES[run.labels[i]] for i in sorted(np.argsort(shared)[:2])]


def test_an_order_stays_while_the_slider_moves_until_it_is_asked_for_anew(page, run):
    def order(t):
        return np.argsort([shares[label] for shares, label in zip(run.shares[t], run.labels, strict=True)])

    go(page, 2)
    choose(page, "sort", "probability")
    page.click("input[name=fit]")

    def indices():
        # the canvases of the probe images differ: the film of each says which one it is
        return [text.split("\n")[0] for text in tiles(page).evaluate_all("all => all.map((one) => one.ariaLabel)")]

    before = indices()
    assert before == [CLASSES[run.labels[i]] for i in order(2)]
    assert page.is_hidden("button >> text=sort again")
    go(page, 6)
    assert indices() == before
    page.click("button >> text=sort again")
    settle(page)
    assert indices() == [CLASSES[run.labels[i]] for i in order(6)]
    view(page, "methods")
    assert tiles(page).count() == 3 * 8


def test_each_metric_has_a_sentence(page):
    page.set_viewport_size({"width": 600, "height": 900})
    settle(page)
    page.click(".more")
    settle(page)
    for chart in page.locator(".chart").all():
        assert len(chart.locator(".words").inner_text()) > 15
    assert "chance is 1 over the number of classes" in page.locator(".chart").first.inner_text()
