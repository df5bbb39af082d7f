"""What is shown is taken along: as a picture, an animation, tables; with captions that say what they are of."""

from __future__ import annotations

import csv
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from tests.review.conftest import everywhere
from tests.review.driving import frame_of, go, inferno, set_range, settle, view
from tests.review.records import Run

HOSTILE = '=HYPERLINK("x"),<b>'
CLASSES = (HOSTILE, "dog", "owl")
LOOKS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("logs") / "a run", seed=1, class_names=CLASSES).looks(LOOKS)


@pytest.fixture(scope="module")
def places(run):
    with everywhere(run.folder.parent) as addresses:
        yield addresses


def inside(page, where):
    frame = frame_of(page, where)
    frame.click("[data-view=grid]")
    frame.wait_for_selector(".tile")
    return frame


def save(page, frame, entry):
    if not frame.evaluate("document.querySelector('.save').open"):
        frame.click(".save summary")
    with page.expect_download() as download:
        frame.click(f".save-menu button >> text={entry}")
    frame.wait_for_function("() => document.querySelector('.save-menu [role=status]').textContent.startsWith('saved ')")
    return download.value.suggested_filename, download.value.path().read_bytes()


def table(data):
    (caption,), *rows = csv.reader(io.StringIO(data.decode("utf-8-sig")))
    return caption, [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


@pytest.mark.parametrize("where", ["tab", "tensorboard", "report"])
def test_tables_have_the_numbers_and_say_what_they_are_of(places, run, open_page, where):
    page = open_page(places[where], accept_downloads=True)
    frame = inside(page, where)
    go(frame, 2)
    name, data = save(page, frame, "numbers of the tiles (CSV)")
    caption, rows = table(data)
    assert name == "a_run_grid_20.csv"
    assert caption == "# a run · hirescam · step 20 · epoch 2 · scale per image"
    assert [int(row["image"]) for row in rows] == list(range(1, 9)) and {row["step"] for row in rows} == {"20"}
    assert rows[0]["label"] == f"'{HOSTILE}"  # no formula
    best = run.shares[2].argmax(1)
    assert [row["predicted"].lstrip("'") for row in rows] == [CLASSES[k] for k in best]
    assert np.allclose([float(row["probability"]) for row in rows], run.shares[2].max(1), atol=1e-4)
    largest = run.maps[2]["hirescam"].max((1, 2))
    assert np.allclose([float(row["largest_value"]) for row in rows], largest, rtol=1e-6)
    name, data = save(page, frame, "metrics (CSV)")
    caption, rows = table(data)
    assert name == "a_run_grid_20.metrics.csv" and "steps 0 to 50" in caption
    assert [int(row["step"]) for row in rows] == run.steps
    assert np.allclose([float(row["val_acc"]) for row in rows], np.arange(LOOKS) / (LOOKS - 1))


@pytest.mark.parametrize("where", ["tab", "report"])
def test_a_picture_has_the_tiles_and_a_caption(places, run, open_page, where):
    page = open_page(places[where], accept_downloads=True)
    frame = inside(page, where)
    frame.uncheck("input[name=smooth]")
    frame.uncheck("input[name=outlines]")
    set_range(frame, "opacity", 1)
    set_range(frame, "size", 160)
    name, data = save(page, frame, "picture (PNG)")
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert name == "a_run_grid_50.png"
    values = run.maps[-1]["hirescam"][0]
    row, column = (int(k) for k in np.unravel_index(values.argmax(), values.shape))
    color = picture.getpixel((14 + int((column + 0.5) * 20), 14 + int((row + 0.5) * 20)))
    assert np.allclose(color, inferno(1), atol=4)
    caption = np.asarray(picture)[-32:-12]
    assert len(np.unique(caption.reshape(-1, 3), axis=0)) > 5  # there are letters
    view(frame, "methods")
    _, data = save(page, frame, "picture (PNG)")
    assert Image.open(io.BytesIO(data)).height > 8 * 100


@pytest.mark.parametrize("shown", ["grid", "film", "overview"])
def test_an_animation_has_a_frame_for_each_step(places, open_page, shown):
    page = open_page(places["report"], accept_downloads=True)
    frame = inside(page, "report")
    view(frame, shown)
    settle(frame)
    frame.select_option(".player select", label="4 / s")
    name, data = save(page, frame, "animation over the steps (WebP)")
    picture = Image.open(io.BytesIO(data))
    assert name.endswith(".webp") and picture.n_frames == LOOKS and picture.is_animated
    frames = []
    for n in range(LOOKS):
        picture.seek(n)
        frames.append(np.asarray(picture.convert("RGB"), float))
        assert picture.info["duration"] == 250
    assert all(np.abs(a - b).max() > 20 for a, b in itertools.pairwise(frames))
