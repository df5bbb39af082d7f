"""The page and the report on records that are damaged, of hostile names, and long."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lightning_cam.timeline.format import encode_record
from lightning_cam.timeline.report import write_report
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, message, settle, tiles, view
from tests.review.records import GRID, Run, records_in

NAMES = (
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "__proto__",
    "constructor",
    "line\nbreak\x00\x1b[31m",
    "\u202egnp.exe",
    "x" * 10_000,
    "🐈‍⬛" * 50,
    "שלום",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A TensorBoard, and the report, of runs whose folders, classes, methods, metrics and callbacks have such names."""
    logdir = tmp_path_factory.mktemp("hostile <b>&amp;")
    for n, name in enumerate(NAMES[:4] + NAMES[5:6]):
        folder = logdir / name.replace("/", "∕")
        run = Run(folder, class_names=NAMES, methods=NAMES, count=len(NAMES), seed=n)
        for step in (0, 10):
            run.look(step, 0.5)
            run.writer.add_metrics(step, dict.fromkeys(NAMES, step))
    with tensorboard(logdir) as address:
        yield address + ENTRY, write_report(logdir).as_uri()


@pytest.mark.parametrize("place", [0, 1], ids=["tab", "report"])
def test_hostile_names_are_text_and_leave_the_page_usable(hostile, open_page, place):
    page = open_page(hostile[place])
    page.wait_for_selector(".tile")
    scripts = page.locator("script").count()
    for name in ("film", "diff", "runs", "methods", "grid"):
        view(page, name)
        assert page.locator(".message").is_hidden()
        assert tiles(page).count() >= 2
        width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert width <= 1400 and height <= 900
        assert page.locator("footer").bounding_box()["height"] <= 0.45 * 900 + 1
        for heading in page.locator(".headings div").all():
            assert heading.bounding_box()["height"] < 450
    assert page.locator("select[name=method] option").count() == len(NAMES)
    for index in range(len(NAMES)):
        page.select_option("select[name=method]", index=index)
        settle(page)
        assert page.locator(".tile[data-missing='not recorded']").count() == 0
    tiles(page).nth(6).click()
    page.wait_for_selector("dialog[open]")
    settle(page)
    assert page.locator("dialog").bounding_box()["height"] <= 0.95 * 900
    assert page.locator("img").count() == 0 and page.locator("script").count() == scripts
    assert page.evaluate("[Object.keys(Object.prototype).length, {}.step]") == [0, None]


def test_a_damaged_look_is_left_out_and_said(tmp_path, open_page):
    path = Run(tmp_path / "run").looks(4).path
    data = bytearray(path.read_bytes())
    (*_, third, _, _) = [end for head, _, end in records_in(bytes(data)) if head["kind"] != "metrics"]
    data[third + 100] ^= 1
    path.write_bytes(data)
    with tensorboard(tmp_path) as address:
        page = open_page(address + ENTRY)
        page.wait_for_selector(".tile")
        assert "1 look is damaged and skipped" in message(page, "damaged")
        assert "of 3" in page.inner_text(".place")


def test_a_long_record_larger_than_what_the_server_hands_out_at_once_is_shown_without_a_freeze(tmp_path, open_page):
    run = Run(tmp_path, count=1, methods=["hirescam"], size=16).looks(1)
    data = run.path.read_bytes()
    (probe, _, begin), (head, body, _) = [*records_in(data)][:2]
    assert probe["kind"] == "probe" and len(body) > GRID
    rng = np.random.default_rng(0)
    total = 30_000
    metrics = rng.random((total, 10))
    records = [
        encode_record({**head, "step": t, "metrics": {f"metric_{n}": x for n, x in enumerate(metrics[t])}}, bytes(body))
        for t in range(total)
    ]
    run.path.write_bytes(data[:begin] + b"".join(records))
    assert run.path.stat().st_size > 2 * 2**22
    with tensorboard(tmp_path) as address:
        page = open_page(address + ENTRY)
        page.wait_for_function("() => document.querySelector('.place')?.textContent.includes('of 30000')")
        page.wait_for_selector(".chart")
        assert page.locator(".chart").count() >= 10
        points = page.locator(".plot .line").last.get_attribute("points")
        assert len(points.split()) <= 4 * 481
        for name in ("film", "diff", "methods", "grid"):
            view(page, name)
        for key in ("Home", "ArrowRight", "End"):
            page.keyboard.press(key)
            settle(page)
        assert page.evaluate("performance.getEntriesByName('cam-redraw').at(-1).duration") < 500


def test_the_page_says_what_the_server_leaves_out(tmp_path, open_page):
    Run(tmp_path / "logs").looks(1)
    (tmp_path / "logs" / "x.lcam").symlink_to("/dev/zero")
    with tensorboard(tmp_path / "logs") as address:
        page = open_page(address + ENTRY)
        page.wait_for_selector(".tile")
        assert message(page, "Skipped").endswith("outside the log directory: x.lcam.")


def test_a_report_is_written_beside_a_pipe_and_in_a_folder_whose_name_is_no_text(tmp_path, open_page):
    folder = tmp_path / os.fsdecode(b"</title><b>\xff".replace(b"/", b"_"))
    Run(folder / "run").looks(1)
    os.mkfifo(folder / "pipe.lcam")
    page = open_page(write_report(folder, tmp_path / "report.html").as_uri())
    page.wait_for_selector(".tile")
    assert page.title() == "CAM Timeline · <_title><b>\\xff"
