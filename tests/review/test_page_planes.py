"""Volumes, videos and bags on the page: the slice with most evidence, frames side by side, ranked instances."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from lightning_cam.timeline import TimelineWriter
from lightning_cam.timeline.planes import Planes
from tests.review.conftest import everywhere
from tests.review.driving import frame_of, go, settle, texts, tiles, view
from tests.review.test_page_access import axe, violations  # noqa: F401  (a fixture)

SIDE, CELLS = 32, 4
GRAYS = (40, 80, 120, 160, 200, 240)  # of the planes of each image, so that they are told apart
SLICES = Planes("slice", 32, (3, 8, 13, 18, 23, 28))
FRAMES = Planes("frame", 6, (1, 2, 3, 4, 5, 6))
BAG = Planes("instance", 6, (1, 2, 3, 4, 5, 6))
STEPS = (0, 10, 20)


def pictures(count=4):
    images = np.empty((count, len(GRAYS), 3, SIDE, SIDE), np.uint8)
    images[:] = np.array(GRAYS).reshape(1, -1, 1, 1, 1)
    images[:, :, 0] += np.arange(count, dtype=np.uint8)[:, None, None, None]  # or two images would be the same
    return images


def shares_at(step, image):
    """Which share of the evidence each plane has: that of image i moves over the looks to plane i + 1."""
    shares = np.full(6, 0.02)
    shares[image + 1] = 0.5 if step == 20 else 0.2
    shares[5 - image] += 0.9 - shares.sum() + 0.1
    return shares


def maps_of(step, count=4):
    """All evidence of a plane is in its cell (0, 0), next to the border; that of its neighbor in (3, 3)."""
    maps = np.zeros((count, 6, CELLS, CELLS), np.float32)
    for image in range(count):
        maps[image, :, 0, 0] = shares_at(step, image)
    return maps


def add_run(folder, planes, steps=STEPS):
    writer = TimelineWriter(folder)
    writer.probe(pictures(), labels=[0, 1, 0, 1], class_names=["cat", "dog"], planes=planes)
    for step in steps:
        maps = maps_of(step)
        evidence = maps.sum((2, 3)) / maps.sum((1, 2, 3))[:, None]
        chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
        flat = np.ones_like(maps[:, :3])  # of a coarser method, which says the same of all planes
        writer.append(
            step, step // 10, {"attnlrp": maps, "hirescam": flat}, probabilities=chances,
            evidence={"attnlrp": evidence, "hirescam": np.full((4, 3), 1 / 3)},
        )  # fmt: skip
    writer.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("logs")
    for name, planes in (("volume", SLICES), ("video", FRAMES), ("bag", BAG)):
        add_run(logdir / name, planes)
    with everywhere(logdir) as addresses:
        yield addresses


def opened(places, open_page, run, fragment="view=grid", place="report"):
    page = open_page(f"{places[place]}#{fragment}&run={run}%2Fcam.lcam")
    page.wait_for_selector(".tile:visible" if "overview" not in fragment else ".overview canvas[aria-label]")
    settle(page)
    return page


def slide(page, index):
    page.locator("footer .plane-slider input").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", index
    )
    settle(page)


def gray(page, n, x=0.5, y=0.5):
    """The color of tile n at a place that no heat covers, red as it is in the first image."""
    color = (
        page.locator(".tile:visible canvas")
        .nth(n)
        .evaluate(
            """(canvas, [x, y]) => Array.from(canvas.getContext("2d").getImageData(
        Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data)""",
            [x, y],
        )
    )
    return color


def newest(image):
    return shares_at(20, image) / shares_at(20, image).sum()


def expected(image, step=20):
    shares = shares_at(step, image) / shares_at(step, image).sum()
    best = int(shares.argmax())
    return best, f"slice {SLICES.numbers[best]} · {round(100 * shares[best])} %"


@pytest.mark.parametrize("place", ["tab", "report"])
def test_each_volume_shows_its_slice_with_most_evidence(places, open_page, place):
    page = opened(places, open_page, "volume", place=place)
    for step, index in ((20, 2), (0, 0)):
        go(page, index)
        assert texts(page, ".third") == [expected(image, step)[1] for image in range(4)]
    page.locator("input[name=opacity]").evaluate("(i) => { i.value = 0; i.dispatchEvent(new Event('input')); }")
    go(page, 2)
    for image in range(4):
        assert abs(gray(page, image)[1] - GRAYS[expected(image)[0]]) <= 4
    assert "with most evidence" in page.inner_text("footer .plane-slider")


def test_the_second_slider_goes_through_the_slices_and_is_in_the_address(places, open_page):
    page = opened(places, open_page, "volume")
    slide(page, 5)
    told = [f"slice 23 · {round(100 * newest(image)[4])} %" for image in range(4)]
    assert texts(page, ".third") == told and "slice 23 of 32" in page.inner_text("footer .plane-slider")
    go(page, 0)  # the first one goes on working
    assert all(text.startswith("slice 23 ·") for text in texts(page, ".third")) and texts(page, ".third") != told
    page.wait_for_function("() => location.hash.includes('plane=23')")
    again = open_page(page.url)
    again.wait_for_selector(".tile:visible")
    settle(again)
    assert all(text.startswith("slice 23 ·") for text in texts(again, ".third"))
    again.keyboard.press(".")
    settle(again)
    assert "slice 28 of 32" in again.inner_text("footer .plane-slider")
    again.keyboard.press(",")
    again.keyboard.press(",")
    settle(again)
    assert again.get_by_role("slider", name="slice").get_attribute("aria-valuetext") == "slice 18 of 32"
    again.keyboard.press("m")
    settle(again)
    assert "with most evidence" in again.inner_text("footer .plane-slider")
    again.wait_for_function("() => !location.hash.includes('plane')")


def test_maps_of_neighbors_do_not_run_into_each_other(places, open_page):
    """All evidence is in the first cell of each plane: just left of that, in the plane before, there is none."""
    page = opened(places, open_page, "video")
    page.locator("input[name=opacity]").evaluate("(i) => { i.value = 1; i.dispatchEvent(new Event('input')); }")
    settle(page)
    for image in range(4):
        hot = [n for n in range(6) if newest(image)[n] > 0.3]
        for n in hot:
            row, column = divmod(n, 3)
            red, _, blue = gray(page, image, (column + 0.04) / 3, (row + 0.04) / 3)[:3]
            assert abs(red - blue) > 30  # heat
            if column:
                before = gray(page, image, (column - 0.05) / 3, (row + 0.05) / 3)[:3]
                assert np.allclose(before, GRAYS[n - 1], atol=8)  # no heat at all


def test_frames_stand_side_by_side_and_one_can_be_chosen(places, open_page):
    page = opened(places, open_page, "video")
    assert texts(page, ".third") == [""] * 4
    page.locator("input[name=opacity]").evaluate("(i) => { i.value = 0; i.dispatchEvent(new Event('input')); }")
    settle(page)
    for n, value in enumerate(GRAYS):
        row, column = divmod(n, 3)
        assert abs(gray(page, 0, (column + 0.5) / 3, (row + 0.4) / 3)[1] - value) <= 4
    assert gray(page, 0, 0.5, 0.9)[3] == 0  # nothing stands in the last row
    slide(page, 2)
    assert texts(page, ".third") == [f"frame 2 · {round(100 * newest(image)[1])} %" for image in range(4)]
    assert abs(gray(page, 0)[1] - GRAYS[1]) <= 4


def test_instances_of_a_bag_stand_in_the_order_of_their_evidence(places, open_page):
    page = opened(places, open_page, "bag")
    page.locator("input[name=opacity]").evaluate("(i) => { i.value = 0; i.dispatchEvent(new Event('input')); }")
    for step, index in ((20, 2), (0, 0)):
        go(page, index)
        for image in range(4):
            shares = shares_at(step, image) / shares_at(step, image).sum()
            order = np.argsort(-shares, kind="stable")
            for n, k in enumerate(order):
                row, column = divmod(n, 3)
                assert abs(gray(page, image, (column + 0.5) / 3, (row + 0.3) / 3)[1] - GRAYS[k]) <= 4
            assert texts(page, ".third")[image] == f"instance {order[0] + 1} · {round(100 * shares[order[0]])} %"


def test_looks_side_by_side_show_the_same_slice(places, open_page):
    page = opened(places, open_page, "volume", "view=film&image=1")
    best = expected(1)[0]
    shares = [shares_at(step, 1)[best] / shares_at(step, 1).sum() for step in STEPS]
    assert texts(page, ".third") == [f"slice {SLICES.numbers[best]} · {round(100 * share)} %" for share in shares]
    assert "slice with most evidence at the newest look" in page.inner_text(".tiles .note")
    page = opened(places, open_page, "volume", "view=overview")
    assert "slice with most evidence at the newest look" in page.inner_text(".overview h3 >> nth=1")
    page.hover(".overview .matrix-field > canvas >> nth=0", position={"x": 9, "y": 9})
    best = expected(0)[0]
    assert page.inner_text(".overview .matrix-told >> nth=0").endswith(
        f"slice {SLICES.numbers[best]} · {round(100 * shares_at(0, 0)[best] / shares_at(0, 0).sum())} %"
    )


@pytest.mark.parametrize("name", ["diff", "methods", "pair", "runs"])
def test_all_views_show_the_chosen_slice(places, open_page, name):
    page = opened(places, open_page, "volume")
    view(page, name)
    if name == "runs":
        for box in page.locator(".runs input").all():
            box.set_checked("volume" in (box.evaluate("(b) => b.parentElement.innerText")))
    slide(page, 3)
    told = texts(page, ".third")
    assert len(told) >= 4 and all(text.startswith("slice 13 ·") for text in told)


def test_the_enlarged_tile_has_the_slider_too_and_says_the_ranks(places, open_page):
    page = opened(places, open_page, "volume")
    tiles(page).nth(1).click()
    page.wait_for_selector("dialog[open]")
    settle(page)
    assert expected(1)[1] in page.inner_text("dialog .hint >> nth=0")
    shares = newest(1)
    ranked = np.argsort(-shares, kind="stable")[:5]
    words = ", ".join(f"{SLICES.numbers[k]} ({round(100 * shares[k])} %)" for k in ranked)
    assert f"slices by evidence: {words}" in page.inner_text("dialog")
    page.keyboard.press(".")
    settle(page)
    assert "slice 3 ·" in page.inner_text("dialog .hint >> nth=0")
    page.get_by_role("dialog").get_by_role("slider", name="slice").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert "slice 8 ·" in page.inner_text("dialog .hint >> nth=0")
    page.locator("dialog [role=application]").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    said = page.inner_text("dialog [role=status]")
    assert said.endswith("slice 8, row 1, column 1")
    assert float(said.split()[0]) == pytest.approx(maps_of(20)[1, 1, 0, 0], abs=0.5 / 127)


def test_what_is_saved_says_the_slices(places, open_page, tmp_path):
    page = opened(places, open_page, "bag")
    page.click(".save summary")
    for text, suffix in (("picture (PNG)", "png"), ("numbers of the tiles (CSV)", "csv"), ("animation", "webp")):
        with page.expect_download() as download:
            page.click(f"text={text}")
        download.value.save_as(tmp_path / f"saved.{suffix}")
    lines = (tmp_path / "saved.csv").read_text(encoding="utf-8-sig").splitlines()
    assert "instances all, by evidence" in lines[0]
    for image, row in enumerate(csv.DictReader(lines[1:])):
        order = np.argsort(-newest(image), kind="stable")
        assert row["planes"].split() == [str(k + 1) for k in order]
        shares = [float(share) for share in row["evidence_of_planes"].split()]
        np.testing.assert_allclose(shares, newest(image)[order], atol=1e-4)
    with Image.open(tmp_path / "saved.png") as picture, Image.open(tmp_path / "saved.webp") as film:
        assert picture.width > 200 and film.n_frames == 3


def test_in_tensorboard_too(places, open_page):
    page = open_page(f"{places['tensorboard']}&p.cam_timeline.at=view%3Dgrid%26run%3Dvolume%252Fcam.lcam")
    frame = frame_of(page)
    frame.wait_for_selector(".tile:visible")
    settle(frame)
    assert texts(frame, ".third") == [expected(image)[1] for image in range(4)]


def test_why_blocks_are_not_shown_is_said_and_images_have_no_slider(places, open_page):
    page = open_page(f"{places['report']}#view=depth&run=volume%2Fcam.lcam")
    page.wait_for_function("() => document.querySelector('.message')?.innerText.includes('no maps of single blocks')")


@pytest.mark.parametrize("width", [390, 1500])
def test_nothing_is_cut_off_at_any_width(places, open_page, width):
    page = opened(places, open_page, "volume")
    page.set_viewport_size({"width": width, "height": 900})
    slide(page, 3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("footer .plane-slider button").bounding_box()
    assert box["x"] + box["width"] <= width
    assert json.dumps(texts(page, ".third")).count("slice 13") == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(places, open_page, axe, theme):  # noqa: F811
    for run, name in (("volume", "slice"), ("bag", "instance")):
        page = open_page(f"{places['report']}#view=grid&run={run}%2Fcam.lcam&plane=2", color_scheme=theme)
        page.wait_for_selector(".tile:visible")
        assert page.get_by_role("slider", name=name, exact=True).count() == 1
        assert violations(page, axe) == []
        page.get_by_role("button", name="most evidence" if run == "volume" else "all", exact=True).click()
        tiles(page).first.click()
        page.wait_for_selector("dialog[open]")
        assert violations(page, axe) == []
