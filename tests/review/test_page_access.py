"""The page without a mouse and without eyes: axe-core finds nothing, and all can be reached by keys."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_cam.timeline.blocks import BlockMaps
from lightning_cam.timeline.found import Found, FoundEntry
from lightning_cam.timeline.report import write_report
from tests.missing import skip_what_needs
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY, IN_TENSORBOARD, frame_of, place, set_range, settle, tiles, view
from tests.review.records import CLASSES, Run

VIEWS = ("overview", "grid", "film", "depth", "diff", "runs", "methods", "pair")


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, which a package of Python's carries."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        skip_what_needs("no axe-core here: accessibility cannot be tested (pip install axe-playwright-python)")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    Run(logdir / "slow", seed=2).looks(6)
    run = Run(logdir / "fast", seed=1).looks(6)
    for step in (20, 50):
        text = f"Class cat: 90 % at the border, since step {step}."
        found = [
            FoundEntry("shortcut", text, "confirmed", 20, [0], [3, 17], {}),
            FoundEntry("confused", f"owl is mistaken for dog, 5 of 9, step {step}.", "measured", step, [2, 1], [], {}),
        ]
        maps = np.ones((18, 28, 28))
        run.writer.add_findings(Found(step, found, dict(enumerate(maps[:3])), np.arange(18), maps))
        rows = [np.ones((8, 4, 4)) * n for n in range(3)]
        run.writer.add_blocks(BlockMaps(step, ["blocks.0", "blocks.1", "head"], {"hirescam": rows}))
    return run


@pytest.fixture(scope="module")
def server(run):
    with tensorboard(run.folder.parent) as address:
        yield address


@pytest.fixture(scope="module")
def report(run):
    return write_report(run.folder.parent, run.folder.parent / "report.html").as_uri()


def violations(page, axe):
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [(one["id"], node["html"][:200], node["failureSummary"]) for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", ["tab", "report"])
def test_axe_finds_no_violation_in_any_view(server, report, open_page, axe, theme, place):
    page = open_page({"tab": server + ENTRY, "report": report}[place], color_scheme=theme)
    for name in VIEWS:
        view(page, name)
        page.wait_for_selector(
            {"overview": ".overview canvas", "depth": ".depth canvas[aria-label]"}.get(name, ".tile")
        )
        assert page.get_attribute("html", "data-theme") == theme
        assert violations(page, axe) == [], name
    view(page, "grid")
    page.click(".save summary")
    assert violations(page, axe) == []
    page.keyboard.press("Escape")
    tiles(page).first.click()
    page.wait_for_selector("dialog[open]")
    assert violations(page, axe) == []


@pytest.mark.parametrize("width", [390, 2560])
def test_axe_finds_no_violation_at_any_width(report, open_page, axe, width):
    page = open_page(f"{report}#view=overview")
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_selector(".overview canvas")
    assert violations(page, axe) == []
    if width < 700:
        page.click(".controls summary")
        assert violations(page, axe) == []


def test_tabs_are_one_stop_and_arrows_open_them(report, open_page):
    page = open_page(report)
    page.wait_for_selector(".tile")
    before = place(page)
    page.focus("[data-view=grid]")
    for key, expected in (("ArrowRight", "film"), ("ArrowLeft", "grid"), ("ArrowLeft", "overview"), ("End", "pair")):
        page.keyboard.press(key)
        settle(page)
        assert page.get_attribute(f"[data-view={expected}]", "aria-selected") == "true"
        assert page.evaluate("document.activeElement.dataset.view") == expected
        assert page.get_attribute("#view", "aria-labelledby") == f"tab-{expected}"
    assert place(page) == before
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.role") != "tab"


def test_tiles_are_one_stop_of_the_tab_key_and_arrows_go_between_them(report, open_page, run):
    page = open_page(report)
    page.wait_for_selector(".tile")
    set_range(page, "size", 176)
    assert page.locator(".tile[tabindex='0']").count() == 1
    number = "() => [...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
    columns = page.evaluate(
        "() => { const tops = [...document.querySelectorAll('.tile')].map((tile) => tile.offsetTop);"
        " return tops.filter((top) => top === tops[0]).length; }"
    )
    page.locator(".tile[tabindex='0']").focus()
    before = place(page)
    for key, expected in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowUp", 1), ("End", 7), ("Home", 0)):
        page.keyboard.press(key)
        assert page.evaluate(number) == min(expected, 7), key
        assert page.locator(".tile[tabindex='0']").count() == 1
    assert place(page) == before
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")  # opens, and does not play
    settle(page)
    assert page.inner_text("dialog h2") == CLASSES[run.labels[1]]
    assert page.get_attribute(".play", "aria-label") == "play"
    page.keyboard.press("Escape")
    assert page.evaluate(number) == 1


def test_the_stop_goes_on_where_its_tile_is_filtered_away(report, open_page):
    page = open_page(report)
    page.wait_for_selector(".tile")
    page.locator(".tile").last.focus()
    page.select_option("select[name=label]", label="dog")
    settle(page)
    assert page.locator(".tile:visible[tabindex='0']").count() == 1


def test_values_of_cells_are_said_without_a_mouse(report, open_page, run):
    page = open_page(report)
    tiles(page).nth(2).click()
    page.wait_for_selector("dialog[open]")
    assert page.get_by_role("dialog", name=CLASSES[run.labels[2]]).count() == 1
    page.locator("dialog [role=application]").focus()
    before = place(page)
    values = run.maps[-1]["hirescam"][2]
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):  # the first one only shows where it begins
        page.keyboard.press(key)
    settle(page)
    said = page.inner_text("dialog [role=status]")
    assert said.endswith("row 3, column 2") and place(page) == before
    step = 1.01 * np.abs(values).max() / 127  # that values are stored in, the least of them as one whole step
    assert float(re.match(r"\S+", said)[0]) == pytest.approx(float(values[2, 1]), abs=float(step))


def test_keys_work_as_soon_as_the_tab_is_there(server, open_page):
    page = open_page(server + IN_TENSORBOARD)
    frame = frame_of(page)
    frame.wait_for_selector(".overview canvas")
    page.keyboard.press("ArrowLeft")
    settle(frame)
    assert place(frame) == 40
