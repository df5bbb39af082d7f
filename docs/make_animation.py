"""Make docs/demo.webp, the picture at the top of README.md, from the two runs of `make demo`.

python -m docs.make_animation                  # takes the newest runs under demo_logs
python -m docs.make_animation --logs elsewhere
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from examples.demo import RUNS
from lightning_cam import read_timeline
from lightning_cam.render import fonts, scale_common
from lightning_cam.render.caption import wrap
from lightning_cam.render.colormap import colorize
from lightning_cam.timeline.reader import Timeline

TITLES = {"clean": "Trained on clean pictures", "planted": "The same pictures, a © on each tomato"}
SHOWN = {"tomato": 3, "apple": 1, "lemon": 1, "pear": 1}  # how many images of a class
COLUMNS, TILE, GAP, MARGIN = 3, 144, 4, 14
PANEL = COLUMNS * TILE + (COLUMNS - 1) * GAP
TITLE, TEXT, LINES = 17, 13, 7  # font sizes, and lines of text below the images
MAX_BYTES = 300_000
BLACK, GRAY, RED, GREEN = "#1f2328", "#59636e", "#cf222e", "#1a7f37"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=Path("demo_logs"), help="the folder of both runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "demo.webp")
    options = parser.parse_args(arguments)
    panels = [frames(name, read_timeline(newest(options.logs / name))) for name in RUNS]
    pictures = [side_by_side(together) for together in zip(*panels, strict=True)]
    durations = [700] * (len(pictures) - 1) + [6000]
    pictures[0].save(
        options.output, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=72, method=6
    )
    size = options.output.stat().st_size
    assert size < MAX_BYTES, f"{options.output} has {size} bytes"
    print(f"{options.output}: {size / 1000:.0f} kB")


def newest(folder: Path) -> Path:
    """The run of the highest version in a folder."""
    return max(folder.glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def frames(name: str, timeline: Timeline) -> list[Image.Image]:
    """One panel per look: title, images under their heat, epoch and accuracy, and what was found."""
    names = np.array(timeline.class_names)[timeline.labels]
    chosen = [index for label, count in SHOWN.items() for index in np.flatnonzero(names == label)[:count]]
    maps = scale_common(torch.from_numpy(timeline.maps["attnlrp"][:, chosen])).sqrt()  # weak cells show
    images = torch.from_numpy(timeline.images[chosen].copy()).permute(0, 3, 1, 2) / 255
    images = F.interpolate(images, (TILE, TILE), mode="bicubic", antialias=True).clamp(0, 1)
    found = {entry.step: entry.findings for entry in timeline.findings}
    panels = []
    for look, step in enumerate(timeline.steps.tolist()):
        heat = F.interpolate(maps[look][:, None], (TILE, TILE), mode="bilinear")[:, 0]
        # Not the overlay of the other pictures, which is darker so that weak heat shows on white objects, too.
        tiles = torch.lerp(images, colorize(heat), 0.85 * heat.sqrt()[:, None])
        tiles = (tiles * 255).byte().permute(0, 2, 3, 1).numpy()
        shortcuts = [entry.text for entry in found.get(step, []) if entry.status == "confirmed"]
        panels.append(panel(TITLES[name], tiles, moment(timeline, look), shortcuts, step in found))
    return panels


def moment(timeline: Timeline, look: int) -> str:
    """Epoch and accuracy of a look."""
    if timeline.epochs[look] < 0:
        return "before training"
    return f"epoch {timeline.epochs[look]} · validation accuracy {timeline.metrics['val_acc'][look]:.2f}"


def panel(title: str, tiles: np.ndarray, moment: str, shortcuts: list[str], was_searched: bool) -> Image.Image:
    """Draw one panel; `tiles` are (N, TILE, TILE, 3) uint8."""
    rows = -(-len(tiles) // COLUMNS)
    top, below = 30, 30 + rows * (TILE + GAP) + 6
    picture = Image.new("RGB", (PANEL, below + 26 + LINES * 18), "white")
    draw = ImageDraw.Draw(picture)
    write(draw, (0, 2), title, TITLE, BLACK)
    for number, tile in enumerate(tiles):
        place = number % COLUMNS * (TILE + GAP), top + number // COLUMNS * (TILE + GAP)
        picture.paste(Image.fromarray(tile), place)
    write(draw, (0, below), moment, TEXT, GRAY)
    color = RED if shortcuts else GREEN
    text = shortcuts[0] if shortcuts else "No shortcut found." if was_searched else ""
    for number, line in enumerate(wrap(text, TEXT, PANEL)):
        write(draw, (0, below + 24 + 18 * number), line, TEXT, color)
    return picture


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: str) -> None:
    """Write one line; `place` is its upper left corner."""
    draw.text(place, text, color, fonts.load(fonts.DEJAVU, size))


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    """Put panels next to each other, with a margin around each."""
    height = max(panel.height for panel in panels) + 2 * MARGIN
    picture = Image.new("RGB", (sum(panel.width + 2 * MARGIN for panel in panels), height), "white")
    for number, own in enumerate(panels):
        picture.paste(own, (MARGIN + number * (PANEL + 2 * MARGIN), MARGIN))
    return picture


if __name__ == "__main__":
    main()
