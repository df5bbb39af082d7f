"""What the review costs: writing the record, opening the page, redrawing it.

Opening is measured in Chromium, from the request for the page to all tiles of all runs drawn, with picture bytes
beside the records. Redrawing is one step of the slider with 32 tiles in view: the script's own time, and that time
with every tile read back, so that nothing of the drawing is left for later.

    python -m benchmarks.review
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lightning_cam.timeline import TimelineWriter, read_timeline
from lightning_cam.timeline.blocks import HEAD, BlockMaps
from lightning_cam.timeline.report import write_report
from tests.review.conftest import ARGUMENTS, chromium, tensorboard
from tests.review.records import Run, photos

# Step the slider and redraw at once, 100 times; with `flush` read a pixel of every tile after each.
_REDRAW = """async (flush) => {
  const slider = document.querySelector(".player input[type=range]");
  const canvases = [...document.querySelectorAll(".tile canvas")];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const times = [];
  for (let n = 0; n < 100; n++) {
    slider.value = n % Number(slider.max);
    slider.dispatchEvent(new Event("input"));
    await frame();
    await frame();
    let time = performance.getEntriesByName("cam-redraw")[0].duration;
    if (flush) {
      const start = performance.now();
      for (const canvas of canvases) canvas.getContext("2d").getImageData(0, 0, 1, 1);
      time += performance.now() - start;
    }
    times.push(time);
  }
  return times;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="picture bytes in each run's event file")
    arguments = parser.parse_args()
    print(f"writing a look of 16 images: {writing()}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        for runs, looks, images in ((2, 100, 16), (4, 500, 64)):
            with tempfile.TemporaryDirectory() as folder:
                paths = records(Path(folder), runs, looks, images, arguments.megabytes)
                label = f"{runs} runs x {looks} looks x {images} images"
                started = time.perf_counter()
                read_timeline(paths[0])
                print(f"{label}: one run as arrays in {time.perf_counter() - started:.2f} s")
                print(f"{label}: page open after {opening(browser, Path(folder), runs * images):.2f} s")
                if images == 16:
                    print(f"{label}: report of one run {write_report(paths[0]).stat().st_size / 1e6:.2f} MB")
        with tempfile.TemporaryDirectory() as folder:
            records(Path(folder), 1, 1000, 64, 0)
            print(f"overview of 1,000 looks x 64 images: {overview(browser, Path(folder))}")
        with tempfile.TemporaryDirectory() as folder:
            records(Path(folder), 1, 101, 32, 0)
            for line in redrawing(browser, Path(folder)):
                print(line)
        browser.close()


def writing(looks: int = 300) -> str:
    """Append looks of 16 maps of 14 x 14 and 1,000 classes."""
    rng = np.random.default_rng(0)
    maps = {"hirescam": rng.normal(size=(16, 14, 14)).astype(np.float32)}
    shares = rng.dirichlet(np.ones(1000), 16).astype(np.float32)
    metrics = {f"cam/hirescam/{name}": 0.123456 for name in ("entropy", "share_inside", "pointing_game")}
    with tempfile.TemporaryDirectory() as folder:
        writer = TimelineWriter(folder)
        path = writer.probe(photos(16, 224)[0], labels=np.arange(16))
        before = path.stat().st_size
        times = []
        for step in range(looks):
            started = time.perf_counter()
            writer.append(step, 0, maps, probabilities=shares, metrics=metrics)
            times.append(1e3 * (time.perf_counter() - started))
        size = (path.stat().st_size - before) / looks
    return f"{spread(times)}, {size:.0f} bytes"


def records(folder: Path, runs: int, looks: int, images: int, megabytes: int) -> list[Path]:
    """Write runs with what 12 blocks read, each with an event file full of pictures beside the record."""
    paths, names = [], [*(f"blocks.{n}" for n in range(12)), HEAD]
    for n in range(runs):
        run = Run(folder / f"run_{n}", seed=n, count=images, size=224, grid=14, methods=["hirescam"]).looks(looks)
        rng = np.random.default_rng(n)
        for step in [*(run.steps[2**k - 1] for k in range(looks.bit_length())), run.steps[-1]]:
            maps = [rng.normal(size=(images, 14, 14)) for _ in names]
            run.writer.add_blocks(BlockMaps(step, names, {"hirescam": maps}))
        writer = EventFileWriter(str(run.folder))
        for step in range(megabytes):
            picture = Summary.Image(encoded_image_string=np.random.default_rng(step).bytes(1 << 20))
            writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag="cam", image=picture)])))
        writer.close()
        paths.append(run.path)
    return paths


def opening(browser: Browser, logdir: Path, tiles: int) -> float:
    """Seconds until the page shows all runs side by side."""
    with tensorboard(logdir) as address:
        page = new_page(browser, logdir, view="runs")
        started = time.perf_counter()
        page.goto(f"{address}/data/plugin_entry.html?name=cam_timeline")
        page.wait_for_function("n => document.querySelectorAll('.tile:not([hidden])').length >= n", arg=tiles)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return time.perf_counter() - started


def overview(browser: Browser, logdir: Path) -> str:
    """Time until the overview of one run is there, reading the record included."""
    with tensorboard(logdir) as address:
        page = new_page(browser, logdir)
        started = time.perf_counter()
        page.goto(f"{address}/data/plugin_entry.html?name=cam_timeline#view=overview")
        page.wait_for_function("() => document.querySelector('.matrix canvas[aria-label]')?.height > 300")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return f"open after {time.perf_counter() - started:.2f} s"


def redrawing(browser: Browser, logdir: Path) -> list[str]:
    """Times of one redraw of 32 tiles."""
    with tensorboard(logdir) as address:
        page = new_page(browser, logdir, size=128)
        page.goto(f"{address}/data/plugin_entry.html?name=cam_timeline#view=grid")
        page.wait_for_selector(".tile")
        return [
            f"redrawing 32 tiles, {what}: {spread(page.evaluate(_REDRAW, flush))}"
            for what, flush in (("script", False), ("script and pixels", True))
        ]


def new_page(browser: Browser, logdir: Path, **state: Any) -> Any:
    """A page in a fresh profile that begins with this state and is large enough for 32 tiles."""
    page = browser.new_context(viewport={"width": 1600, "height": 1200}).new_page()
    key = json.dumps(f"lightning-cam {logdir}")
    page.add_init_script(f"localStorage.setItem({key}, {json.dumps(json.dumps(state))})")
    return page


def spread(milliseconds: list[float]) -> str:
    median = statistics.median(milliseconds)
    return f"median {median:.2f} ms, 95 % below {np.quantile(milliseconds, 0.95):.2f} ms"


if __name__ == "__main__":
    main()
