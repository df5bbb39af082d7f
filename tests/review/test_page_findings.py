"""What was found is the first thing on the page, in TensorBoard and in the report."""

from __future__ import annotations

from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.timeline.report import write_report
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, place, settle
from tests.review.records import Run

SENTENCE = "Class <b>cat</b>: 82 % of the evidence lies at the lower border. The model uses this mark: a shortcut."


def test_sentences_stand_first_and_lead_to_their_step(tmp_path, open_page):
    run = Run(tmp_path / "a")
    run.looks(3)
    nothing = FoundEntry("nothing", "Nothing unusual.", "measured", None, [], [], {})
    finding = FoundEntry("shortcut", SENTENCE, "confirmed", 10, [0], [3, 17], {})
    run.writer.add_findings(Found(10, [nothing]))
    run.writer.add_findings(Found(20, [finding]))
    report = write_report(tmp_path, tmp_path / "report.html")
    with tensorboard(tmp_path) as address:
        for target in (address + ENTRY, report.as_uri()):
            page = open_page(target)
            page.wait_for_selector(".tile")
            section = page.locator(".findings")
            assert section.bounding_box()["y"] < page.locator("main").bounding_box()["y"]
            assert SENTENCE in section.inner_text() and "validation images 3, 17" in section.inner_text()
            assert section.locator("b").count() == 0 and section.locator("li.confirmed").count() == 1
            section.locator("button").click()
            settle(page)
            assert place(page) == 10 and "Nothing unusual." in section.inner_text()


def test_a_record_without_findings_shows_no_room_for_them(tmp_path, open_page):
    Run(tmp_path / "a").looks(2)
    page = open_page(write_report(tmp_path, tmp_path / "report.html").as_uri())
    page.wait_for_selector(".tile")
    assert page.locator(".findings").is_hidden()
