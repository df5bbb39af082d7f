"""What stands under a tile: names that do not fit, names that are numbers, what is true in words, values."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_cam.timeline import TimelineWriter
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, set_range, settle, texts
from tests.review.records import Run

PLACES = (
    "at the bottom, left",
    "at the bottom, right",
    "somewhere else, and far from the others",
    "top",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("captions")
    Run(logdir / "digits", class_names=[str(digit) for digit in range(8)]).looks(3)
    Run(logdir / "places", class_names=PLACES).looks(3)
    maps, images = {"hirescam": np.ones((2, 4, 4))}, np.zeros((2, 3, 64, 64), np.uint8)
    values = TimelineWriter(logdir / "values")
    values.probe(images, texts=["3.5", "1.25"])
    values.append(1, 0, maps, values=np.array([3.25, -0.0625]))
    several = TimelineWriter(logdir / "several")
    several.probe(images, class_names=["cat", "dog", "owl"], texts=["cat, owl", "none"])
    several.append(1, 0, maps, probabilities=np.array([[0.9, 0.2, 0.8], [0.1, 0.3, 0.2]]))
    with tensorboard(logdir) as address:
        yield address


def open_run(open_page, server, run):
    page = open_page(server + ENTRY)
    page.wait_for_selector(".tile")
    page.select_option("select[name=timeline]", label=run)
    page.wait_for_function("run => document.querySelector('select[name=timeline]').title === run", arg=run)
    page.wait_for_function("() => document.querySelector('.message').hidden")
    settle(page)
    return page


def test_a_class_that_is_a_number_does_not_run_into_its_probability(server, open_page):
    page = open_run(open_page, server, "digits")
    for second in texts(page, ".second"):
        assert re.fullmatch(r"[✓✗] \d · >?\d+ %", second)


@pytest.mark.parametrize("size", [96, 176, 320])
def test_names_are_cut_where_they_can_be_told_apart(server, open_page, size):
    page = open_run(open_page, server, "places")
    set_range(page, "size", size)
    first = texts(page, ".first")[:4]
    titles = [page.locator(".tile:visible .first").nth(n).get_attribute("title") for n in range(4)]
    assert tuple(titles) == PLACES
    assert first[0].endswith("left") and first[1].endswith("right") and first[3] == "top"
    assert first[2] == PLACES[2] or PLACES[2].startswith(first[2].removesuffix("…"))  # like no other: cut at its end
    assert ("…" in first[0]) == (size < 176)
    predicted = [text.split(" · ")[0] for text in texts(page, ".second")[:4]]
    assert predicted[0].endswith("left") and predicted[1].endswith("right")
    probability = re.compile(r" · >?\d+ %$")
    for second in page.locator(".tile:visible .second").all():
        assert bool(probability.search(second.inner_text())) == (size > 96)  # a narrow tile leaves it to the bar
        assert probability.search(second.get_attribute("title"))
    cut_by_the_browser = "(lines) => lines.filter((line) => line.scrollWidth > line.clientWidth).length"
    assert page.locator(".tile:visible .caption div").evaluate_all(cut_by_the_browser) == 0


def test_a_predicted_value_stands_before_the_true_one(server, open_page):
    page = open_run(open_page, server, "values")
    assert texts(page, ".first") == ["image 1", "image 2"]
    assert texts(page, ".second") == ["3.25 → 3.5", "-0.0625 → 1.25"]
    page.locator(".tile:visible canvas").first.click()
    page.locator("dialog[open]", has_text="value: 3.25 → 3.5").wait_for()


def test_what_is_true_stands_in_words_where_a_label_does_not_say_it(server, open_page):
    page = open_run(open_page, server, "several")
    assert texts(page, ".first") == ["cat, owl", "none"]
    assert texts(page, ".second") == ["cat · 90 %", "dog · 30 %"]
