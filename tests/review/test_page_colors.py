"""Maps of colors on the page: each cell has its own color, as opaque as is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.review.conftest import tensorboard
from tests.review.driving import pixels, set_range, settle, tiles
from tests.review.records import GRID, Run

COUNT = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("colors"), count=COUNT)
    for step in (0, 10):
        colors = np.random.default_rng(step).uniform(-1, 1, (COUNT, 3, GRID, GRID)).astype(np.float32)
        run.look(step, 0.5, {"pca": colors})
    return run


@pytest.fixture(scope="module")
def server(run):
    with tensorboard(run.folder) as address:
        yield address


def test_a_cell_has_its_color(page, run):
    page.uncheck("input[name=smooth]")
    page.uncheck("input[name=outlines]")
    places = [(n, row, column) for n in range(COUNT) for row, column in ((0, 0), (2, 5), (7, 3))]
    drawn = {}
    for opacity in (0, 0.5, 1):
        set_range(page, "opacity", opacity)
        settle(page)
        drawn[opacity] = np.array([pixels(page, *place) for place in places], float)
    expected = np.array([127.5 * (run.maps[-1]["pca"][n, :, row, column] + 1) for n, row, column in places])
    assert np.allclose(drawn[1], expected, atol=3)
    assert np.allclose(drawn[0.5], (drawn[0] + expected) / 2, atol=4)
    tiles(page).nth(1).hover()
    page.wait_for_function("document.querySelector('.tip').innerText.includes('red')")
