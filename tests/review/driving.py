"""How the tests drive the page, and what they read from it."""

from __future__ import annotations

import re

import numpy as np
from matplotlib import colormaps

from tests.review.records import GRID

ENTRY = "/data/plugin_entry.html?name=cam_timeline"


IN_TENSORBOARD = "/#cam_timeline"


def frame_of(page, where="tensorboard"):
    """What the page of CAM Timeline is in: TensorBoard's frame, once it is there, or the page itself."""
    if where != "tensorboard":
        return page
    return page.wait_for_selector("iframe[src*=plugin_entry]", state="attached", timeout=60_000).content_frame()


def tiles(page):
    return page.locator(".tile:visible")


def texts(page, selector):
    return page.locator(f".tile:visible {selector}").all_inner_texts()


def set_range(page, name, value):
    page.locator(f"input[name={name}]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    settle(page)


def settle(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def go(page, index):
    page.locator(".player input[type=range]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", index
    )
    settle(page)


def view(page, name):
    page.click(f"[data-view={name}]")
    settle(page)


def place(page):
    return int(re.search(r"step ([\d,]+)", page.inner_text(".place"))[1].replace(",", ""))


def message(page, part):
    """The page's message, once it has `part`: it first says that a record is being read."""
    page.wait_for_function("part => document.querySelector('.message')?.innerText.includes(part)", arg=part)
    return page.inner_text(".message")


def pixels(page, n, row, column):
    """The color in the middle of a cell of tile n."""
    return (
        page.locator(".tile:visible canvas")
        .nth(n)
        .evaluate(
            """(canvas, [row, column, grid]) => Array.from(canvas.getContext("2d").getImageData(
            Math.floor((column + 0.5) / grid * canvas.width),
            Math.floor((row + 0.5) / grid * canvas.height), 1, 1).data).slice(0, 3)""",
            [row, column, GRID],
        )
    )


def inferno(share):
    """The color of a share of the scale, between 17 of matplotlib's: the page keeps so many."""
    points = np.rint(255 * colormaps["inferno"](np.linspace(0, 1, 17))[:, :3])
    return [np.interp(share * 16, np.arange(17), points[:, c]) for c in range(3)]
