"""The scales of the page are those of the pictures that the logger gets, value by value."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from lightning_cam.render import has_evidence, scale_common, scale_per_image
from tests.review.conftest import tensorboard
from tests.review.driving import inferno, pixels, set_range, settle, tiles
from tests.review.records import GRID, Run

COUNT = 4
PLACES = [(n, row, column) for n in range(COUNT) for row, column in ((0, 0), (2, 5), (7, 3))]


def made_up_maps(seed):
    """Maps as of attention, positive everywhere; of a gradient method, of both signs; and with one value everywhere."""
    rng = np.random.default_rng(seed)
    return {
        "positive": rng.uniform(0.5, 1, (COUNT, GRID, GRID)).astype(np.float32),
        "mixed": rng.normal(size=(COUNT, GRID, GRID)).astype(np.float32),
        "constant": np.full((COUNT, GRID, GRID), 0.3 + seed, np.float32),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("scales"), count=COUNT)
    for seed in (0, 1):
        run.look(10 * seed, 0.5, made_up_maps(seed))
    return run


@pytest.fixture(scope="module")
def server(run):
    with tensorboard(run.folder) as address:
        yield address


@pytest.fixture
def page(page):
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    return page


def choose(page, method, scale="per image"):
    page.select_option("select[name=method]", label=method)
    page.select_option("select[name=scale]", label=scale)
    settle(page)


def drawn(page):
    """The colors at PLACES without the map and with it."""
    colors = []
    for opacity in (0, 1):
        set_range(page, "opacity", opacity)
        colors.append(np.array([pixels(page, *place) for place in PLACES], float))
    return colors


@pytest.mark.parametrize("method", ["positive", "mixed"])
@pytest.mark.parametrize("scale", ["per image", "over time"])
def test_tiles_are_colored_as_the_logged_pictures_are(page, run, method, scale):
    choose(page, method, scale)
    maps = torch.from_numpy(np.stack([maps[method] for maps in run.maps]))
    heat = (scale_per_image if scale == "per image" else scale_common)(maps)[-1].numpy()
    ground, colors = drawn(page)
    for place, bare, color in zip(PLACES, ground, colors, strict=True):
        share = float(heat[place])
        assert np.allclose(color, bare + (np.array(inferno(share)) - bare) * share, atol=7), place  # 1/127 of the map


def test_the_pointer_tells_the_share_of_the_scale_that_is_drawn(page, run):
    choose(page, "positive")
    maps = run.maps[-1]["positive"]
    heat = scale_per_image(torch.from_numpy(maps)).numpy()
    box = tiles(page).nth(1).locator("canvas").bounding_box()
    lowest = np.unravel_index(maps[1].argmin(), maps[1].shape)
    for row, column in ((2, 5), lowest):
        page.mouse.move(box["x"] + (column + 0.5) / GRID * box["width"], box["y"] + (row + 0.5) / GRID * box["height"])
        value, share = re.search(r"([\d.e-]+) · (\d+) % of the scale", page.inner_text(".tiles .tip")).groups()
        assert float(value) == pytest.approx(maps[1, row, column], abs=0.01)
        assert int(share) == pytest.approx(100 * heat[1, row, column], abs=2)


def test_a_map_with_one_value_everywhere_has_no_shape_to_show(page, run):
    assert not has_evidence(scale_per_image(torch.from_numpy(run.maps[-1]["constant"]))).any()
    missing = page.locator(".tile[data-missing='no evidence']")
    choose(page, "constant")
    assert missing.count() == COUNT
    choose(page, "constant", "over time")
    assert missing.count() == 0
    assert np.allclose(drawn(page)[1], inferno(1), atol=2)
    choose(page, "constant")
    page.check("input[name=signed]")
    settle(page)
    assert missing.count() == 0


def test_a_difference_still_counts_from_zero(page):
    page.click("[data-view=diff]")
    choose(page, "constant")
    assert page.locator(".tile[data-missing='no evidence']").count() == 0
