"""What was found is said in the overview, with links to what it names, and in one line above the tiles."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.timeline.report import write_report
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, place, settle, texts
from tests.review.records import Run

SENTENCE = (
    "Class <b>cat</b>: 82 % of the evidence lies at the lower border. The model uses this mark: it is a shortcut."
)
CONFUSED = "owl is mistaken for dog in 5 of 9 images at step 20."


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    run = Run(logdir / "a", class_names=["<b>cat</b>", "dog", "owl"]).looks(3)
    found = [
        FoundEntry("shortcut", SENTENCE, "confirmed", 10, [0], [3, 17], {}),
        FoundEntry("confused", CONFUSED, "measured", 20, [2, 1], [], {}),
    ]
    run.writer.add_findings(Found(10, [FoundEntry("nothing", "Nothing unusual.", "measured", None, [], [], {})]))
    maps, picture = np.ones((20, 28, 28)), np.full((3, 40, 40), 90, np.uint8)
    run.writer.add_findings(Found(20, found, {0: maps[0], 1: maps[1]}, np.arange(20), maps, [], {3: picture}))
    with tensorboard(logdir) as address:
        yield {"tab": address + ENTRY, "report": write_report(logdir, logdir / "report.html").as_uri()}


@pytest.mark.parametrize("where", ["tab", "report"])
def test_sentences_stand_in_the_overview_and_lead_to_what_they_name(places, open_page, where):
    page = open_page(f"{places[where]}#view=overview")
    items = page.locator(".found li")
    items.first.wait_for()
    assert SENTENCE in items.first.inner_text() and CONFUSED in items.nth(1).inner_text()
    assert "validation images 3, 17" in items.first.inner_text()
    assert page.locator(".overview b").count() == 0 and page.locator(".found li.confirmed").count() == 1
    assert items.first.locator("canvas").count() == 3  # the maps of these images, and the picture of one
    picture = "canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data].slice(0, 3)"
    page.wait_for_function(f"() => ({picture})(document.querySelector('.found canvas.picture'))[0] > 0")
    assert all(abs(value - 90) < 4 for value in items.first.locator("canvas.picture").evaluate(picture))
    assert items.nth(1).locator("button").all_inner_texts() == ["owl", "dog", "20"]
    items.first.locator("button", has_text="step 10").click()
    settle(page)
    assert place(page) == 10 and page.inner_text(".findings").startswith("Nothing unusual.")
    page.click(".findings button")
    settle(page)
    items.first.locator("button", has_text="<b>cat</b>").click()
    settle(page)
    assert set(texts(page, ".first")) == {"<b>cat</b>"} and place(page) == 10
    page.click("[data-view=overview]")
    items.nth(1).locator("button", has_text="owl").click()
    settle(page)
    assert page.locator("select[name=show]").input_value() == "predicted wrong" and place(page) == 20


def test_one_line_above_the_tiles_says_the_first(places, open_page):
    page = open_page(places["tab"])
    page.wait_for_selector(".findings span.confirmed")
    assert page.inner_text(".findings") == f"{SENTENCE}\nall 2 findings"
    assert page.locator(".findings b").count() == 0
    assert page.locator(".findings").bounding_box()["height"] < 45


def test_a_record_without_findings_shows_no_room_for_them(tmp_path, open_page):
    Run(tmp_path / "a").looks(2)
    address = write_report(tmp_path, tmp_path / "report.html").as_uri()
    page = open_page(address)
    page.wait_for_selector(".tile")
    assert page.locator(".findings").is_hidden()
    page = open_page(f"{address}#view=overview")
    page.wait_for_selector(".overview canvas")
    assert page.locator(".overview h3", has_text="What was found").is_hidden()
