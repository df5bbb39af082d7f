"""What is shown stands in the address: in the tab alone, in TensorBoard's frame, in the report from disk."""

from __future__ import annotations

import pytest

from tests.review.conftest import everywhere
from tests.review.driving import frame_of, go, place, settle, texts, tiles, view
from tests.review.records import Run

HOSTILE = "a&step=0#<b>"
CLIPBOARD = ["clipboard-read", "clipboard-write"]


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    Run(logdir / "b", seed=1).looks(6)
    Run(logdir / HOSTILE, seed=2).looks(6)
    return logdir


@pytest.fixture(scope="module")
def places(logdir):
    with everywhere(logdir) as addresses:
        yield addresses


def inside(page, where):
    """The frame that the page of CAM Timeline is in, once it shows something."""
    frame = frame_of(page, where)
    frame.wait_for_function("() => document.querySelector('.lead')?.innerText || document.querySelector('.tile')")
    return frame


def wait_for_view(frame, name):
    frame.wait_for_selector(f"[data-view={name}][aria-selected=true]")
    frame.wait_for_function("() => document.querySelector('.place').textContent.startsWith('step ')")
    settle(frame)


@pytest.mark.parametrize("where", ["tab", "tensorboard", "report"])
def test_a_link_leads_to_what_is_shown(places, open_page, where):
    page = open_page(places[where], permissions=CLIPBOARD)
    frame = inside(page, where)
    view(frame, "grid")
    frame.select_option("select[name=timeline]", label=HOSTILE)
    frame.wait_for_function("run => document.querySelector('select[name=timeline]').title === run", arg=HOSTILE)
    frame.select_option("select[name=method]", label="gradcam")
    frame.select_option("select[name=label]", label="dog")
    go(frame, 2)
    frame.click(".copy")
    frame.wait_for_selector(".copy >> text=link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(places[where].split("#")[0])
    there = inside(open_page(link), where)
    there.wait_for_function("() => document.querySelector('.place').textContent.startsWith('step 20 ')")
    settle(there)
    assert there.locator("select[name=timeline]").get_attribute("title") == HOSTILE
    assert there.locator("select[name=method]").input_value() == "gradcam"
    assert set(texts(there, ".first")) == {"dog"} and place(there) == 20
    assert there.locator("b", has_text="&step").count() == 0


@pytest.mark.parametrize("where", ["tab", "tensorboard", "report"])
def test_back_goes_to_what_was_shown_before(places, open_page, where):
    page = open_page(places[where])
    frame = inside(page, where)
    view(frame, "grid")
    go(frame, 3)
    view(frame, "film")
    frame.locator(".thumbs button").nth(4).click()
    settle(frame)
    for selected in ("film", "grid"):
        frame.evaluate("history.back()")
        wait_for_view(frame, selected)
    frame.wait_for_function("() => document.querySelector('.place').textContent.startsWith('step 30 ')")
    frame.evaluate("history.forward()")
    wait_for_view(frame, "film")
    assert place(frame) == 30


def test_a_reload_and_an_address_typed_by_hand_are_followed(places, open_page):
    page = open_page(places["tab"] + "#view=methods&step=20&run=b%2Fcam.lcam")
    wait_for_view(page, "methods")
    assert place(page) == 20
    page.reload()
    wait_for_view(page, "methods")
    assert place(page) == 20
    page.evaluate("location.hash = 'view=grid&step=40&show=wrong'")
    wait_for_view(page, "grid")
    assert place(page) == 40 and page.locator("select[name=show]").input_value() == "predicted wrong"


def test_an_address_that_cannot_be_so_opens_the_page_as_ever(places, open_page):
    page = open_page(places["tab"] + "#view=__proto__&run=nowhere&method=none&step=1e99&image=-3&class=x")
    inside(page, "tab")
    view(page, "grid")
    assert tiles(page).count() == 8 and place(page) == 50


def test_what_is_chosen_before_the_records_are_listed_stays(places, open_page):
    """The answer to the first request is held back until another view was chosen."""
    page, held = open_page("about:blank"), []
    page.route("**/timelines*", lambda route: route.continue_() if held and held[-1] is None else held.append(route))
    page.goto(places["tab"] + "#view=grid")
    page.click("[data-view=diff]")
    for route in [*held]:
        route.continue_()
    held.append(None)
    page.wait_for_selector(".tile")
    assert page.get_attribute("[data-view=diff]", "aria-selected") == "true"
