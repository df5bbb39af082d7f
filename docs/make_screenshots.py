"""Make the pictures of docs/review.md: train two small runs, open TensorBoard, look at each view.

python -m docs.make_screenshots            # trains for a few minutes on a CPU
python -m docs.make_screenshots --logs DIR # takes runs that are there
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from playwright.sync_api import Frame, Page, sync_playwright

from examples.classifier import Classifier
from examples.data import DigitsOnPhotos
from examples.demo import SMALL_VIT
from lightning_cam import TransformerCAMCallback
from lightning_cam.timeline.timelapse import write_timelapse
from tests.review.conftest import ARGUMENTS, chromium, tensorboard

IMAGES = Path(__file__).parent / "images"
MAX_BYTES = 300_000
# In words, or a caption would read "7 88 %".
CLASS_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def train(logs: Path, weight_decay: float, epochs: int = 10) -> None:
    """Train a small vision transformer with two looks an epoch."""
    seed_everything(0, verbose=False)
    classifier = Classifier(
        "vit_tiny_patch16_224", img_size=56, model_kwargs=SMALL_VIT, lr=1.5e-3, weight_decay=weight_decay
    )
    callback = TransformerCAMCallback(
        methods=["attnlrp", "hirescam", "gradcam"], num_samples=24, class_names=CLASS_NAMES
    )
    trainer = Trainer(
        callbacks=[callback],
        max_epochs=epochs,
        val_check_interval=0.5,
        logger=TensorBoardLogger(logs, name="", version=f"weight_decay_{weight_decay:g}"),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(classifier, DigitsOnPhotos())


def open_tab(page: Page, address: str) -> Frame:
    """Open the tab as a user would and wait for its tiles."""
    page.goto(f"{address}/#cam_timeline")
    frame = page.wait_for_selector("iframe[src*=plugin_entry]", state="attached", timeout=120_000).content_frame()
    frame.wait_for_selector(".overview canvas")
    return frame


def overview(page: Page, frame: Frame) -> None:
    """What a run came to."""


def grid(page: Page, frame: Frame) -> None:
    """All images at the newest look."""
    frame.click("[data-view=grid]")
    page.mouse.move(640, 250)  # shows the value there


def filmstrip(page: Page, frame: Frame) -> None:
    """One image at all looks."""
    frame.click("[data-view=film]")
    frame.click(".thumbs button:nth-child(2)")


def depth(page: Page, frame: Frame) -> None:
    """What each block reads of one image, in early looks little."""
    frame.click("[data-view=depth]")
    frame.check("input[name=squareRoot]")
    frame.click(".thumbs button:nth-child(2)")
    frame.wait_for_selector(".depth canvas[aria-label]")


def difference(page: Page, frame: Frame) -> None:
    """What has changed since the first look."""
    frame.uncheck("input[name=squareRoot]")
    frame.click("[data-view=diff]")


def methods(page: Page, frame: Frame) -> None:
    """One column per method."""
    frame.click("[data-view=methods]")


def enlarged(page: Page, frame: Frame) -> None:
    """One tile, large."""
    frame.click("[data-view=grid]")
    frame.click(".tile >> nth=1")
    frame.wait_for_selector("dialog[open]")


def runs(page: Page, frame: Frame) -> None:
    """One column per run, in the dark theme."""
    page.keyboard.press("Escape")
    page.evaluate("document.body.classList.add('dark-mode')")  # what TensorBoard's own switch does
    frame.click("[data-view=runs]")
    frame.wait_for_function("() => document.querySelectorAll('.headings div').length === 3")


SHOTS: list[Callable[[Page, Frame], None]] = [overview, grid, filmstrip, depth, difference, methods, enlarged, runs]


def save(screenshot: bytes, path: Path) -> None:
    """Save as JPEG, text still sharp, small enough for a repository."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    picture.save(path, quality=86, subsampling=0, optimize=True)
    _check_size(path)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    assert size < MAX_BYTES, f"{path} has {size} bytes"
    print(f"{path}: {size / 1000:.0f} kB")


def main() -> None:
    """Train if need be, then take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="runs to show in place of training")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        logs = arguments.logs or Path(folder)
        if not any(logs.rglob("*.lcam")):
            for weight_decay in (0.05, 1):
                train(logs, weight_decay)
        browser: Any = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        with tensorboard(logs) as address:
            frame = open_tab(page, address)
            for shot in SHOTS:
                shot(page, frame)
                page.wait_for_timeout(1000)
                save(page.screenshot(), IMAGES / f"review_{shot.__name__}.jpg")
        browser.close()
        record = max(logs.rglob("*.lcam"), key=lambda path: path.stat().st_mtime)
        _check_size(write_timelapse(record, IMAGES / "review_timelapse.webp"))


if __name__ == "__main__":
    main()
