"""What the page says of itself: what a color, a bar or a filter means here, and how to get more to compare."""

from __future__ import annotations

import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import pixels, set_range, settle, tiles, view
from tests.review.records import Run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One run with one method, and one that has no look."""
    logdir = tmp_path_factory.mktemp("alone")
    Run(logdir / "failed")
    Run(logdir / "whole", methods=["hirescam"]).looks(3)
    with tensorboard(logdir) as address:
        yield address


def overlay(page):
    return page.locator(".group", has=page.locator("select[name=scale]"))


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("per image", "Full color: a change by the map's largest value, separately for each look."),
        ("over time", "Full color: a change by the 99th percentile of this image's largest values at all steps."),
        ("common", "Full color: a change by the 99th percentile of the largest values of all images at all steps: "),
    ],
)
def test_full_color_of_a_difference_is_a_change(page, scale, said):
    page.select_option("select[name=scale]", label=scale)
    settle(page)
    assert "a change" not in overlay(page).inner_text()
    view(page, "diff")
    assert said in overlay(page).inner_text()


def test_a_difference_is_of_what_speaks_for_the_class_and_offers_no_choice(page):
    view(page, "diff")
    set_range(page, "opacity", 1)
    assert not page.is_visible("input[name=signed]")
    places = [(n, row, column) for n in range(8) for row in (0, 7) for column in (0, 7)]
    before = [pixels(page, *place) for place in places]
    view(page, "grid")
    page.check("input[name=signed]")
    view(page, "diff")
    assert [pixels(page, *place) for place in places] == before
    view(page, "grid")
    assert page.is_checked("input[name=signed]")


def test_the_bar_at_the_right_of_a_tile_is_explained(page):
    assert "Bar at the right of a tile" in overlay(page).inner_text()


def test_the_images_that_changed_most_are_explained(page):
    hint = page.get_by_text("The quarter of the images whose maps change most from look to look.")
    assert not hint.is_visible()
    page.select_option("select[name=show]", label="changed most (2)")
    settle(page)
    assert hint.is_visible() and tiles(page).count() == 2


@pytest.mark.parametrize(
    ("name", "part"), [("runs", "under the same log directory"), ("methods", 'methods=["hirescam", "gradcam"]')]
)
def test_with_nothing_to_compare_the_page_says_how_to_get_it(page, name, part):
    view(page, name)
    assert page.inner_text(".message").count(part) == 1
    assert tiles(page).count() == 2 * 8
    view(page, "grid")
    assert page.is_hidden(".message")
