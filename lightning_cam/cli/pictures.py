"""What is drawn for one image: overlays of its size, and the contact sheet."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_cam.render import color_overlay, no_evidence, overlay
from lightning_cam.render.caption import draw_lines, line_height, text_width
from lightning_cam.render.outline import PREDICTED, outlined
from lightning_cam.render.tile import BACKGROUND

_STRIP = 2**20  # pixels that are drawn at once, so that a large picture needs little memory
_WORDS = 1024  # pixels of the longer side that words are written at before it is enlarged
_FINE = 1024  # pixels of the longer side that a line around a part is drawn at before it is enlarged
_UNSEEN = 0.25  # brightness of what a crop cut off
_TILE = 224
_GAP = 6
_FONT = 14
_COLUMNS = 8  # then the sheet goes on below


def draw_overlay(
    image: Image.Image,
    heat: Tensor,
    box: tuple[int, int, int, int],
    evidence: bool,
    outline: Tensor | None = None,
    words: str = "no evidence",
) -> Image.Image:
    """Lay heat over the part of a picture that the model saw; the rest is dimmed.

    Args:
        image: RGB, any size.
        heat: (h, w) float32 in [0, 1] on the CPU, or colors (3, h, w).
        box: Left, top, right, bottom of that part in pixels; it may reach over the border.
        evidence: Whether the map says anything.
        outline: (H, W) bool, of that part what a line is drawn around.
        words: What is said where it says nothing.

    Returns:
        RGB of the picture's size.

    Example:
        >>> red = Image.new("RGB", (4, 2), "red")
        >>> draw_overlay(red, torch.zeros(1, 1), (0, 0, 2, 2), True).getpixel((3, 0))
        (64, 0, 0)
    """
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
    drawn = image.point([round(value * _UNSEEN) for value in range(256)] * 3)
    if not evidence:
        seen = image.crop((left, top, right, bottom))
        small = seen.copy()
        small.thumbnail((_WORDS, _WORDS))
        drawn.paste(_to_image(no_evidence(_to_pixels(small), words)).resize(seen.size), (left, top))
        return drawn
    planes = heat if heat.ndim == 3 else heat[None]
    wide = [_resized(plane.T, box[2] - box[0], range(left - box[0], right - box[0])).T for plane in planes]
    rows = max(1, _STRIP // (right - left))
    for start in range(top, bottom, rows):
        stop = min(start + rows, bottom)
        part = range(start - box[1], stop - box[1])
        large = torch.stack([_resized(columns, box[3] - box[1], part) for columns in wide])
        pixels = _to_pixels(image.crop((left, start, right, stop)))
        over = color_overlay(pixels, large) if heat.ndim == 3 else overlay(pixels, large[0])
        drawn.paste(_to_image(over), (left, start))
    if outline is not None and outline.any():
        _draw_outline(drawn, outline, box)
    return drawn


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], caption: str) -> Image.Image:
    """Put pictures of one image side by side, methods as columns, each under its name.

    Args:
        pictures: Name and picture, all of one size.
        caption: A line under all.
    """
    width, height = pictures[0][1].size
    scale = _TILE / max(width, height)
    tile = max(1, round(width * scale)), max(1, round(height * scale))
    line = line_height(_FONT)
    column = max(tile[0], *(text_width(name, _FONT) for name, _ in pictures))
    columns = min(len(pictures), _COLUMNS)
    rows = -(-len(pictures) // columns)
    row = line + tile[1] + _GAP
    sheet = Image.new("RGB", (columns * (column + _GAP) + _GAP, rows * row + line + 2 * _GAP), (BACKGROUND,) * 3)
    for index, (name, picture) in enumerate(pictures):
        left, top = _GAP + index % columns * (column + _GAP), _GAP + index // columns * row
        _write(sheet, name, (left, top), column)
        sheet.paste(picture.resize(tile, Image.Resampling.BICUBIC), (left, top + line))
    _write(sheet, caption, (_GAP, _GAP + rows * row), sheet.width - 2 * _GAP)
    return sheet


def _draw_outline(image: Image.Image, outline: Tensor, box: tuple[int, int, int, int]) -> None:
    """Draw a line around a mask (H, W) that lies in a box; it is as fine as a picture of moderate size needs."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, _FINE / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    line = outlined(torch.zeros(1, 3, *size, dtype=torch.uint8), outline[None], PREDICTED).any(1)[0]
    mask = Image.fromarray((line.byte() * 255).numpy()).resize((width, height), Image.Resampling.NEAREST)
    image.paste(PREDICTED, (box[0], box[1]), mask)


def _write(sheet: Image.Image, text: str, at: tuple[int, int], width: int) -> None:
    mask = Image.fromarray(draw_lines([text], _FONT, width)[0].numpy())
    sheet.paste((235, 235, 235), at, mask)


def _resized(heat: Tensor, size: int, rows: range) -> Tensor:
    """Some rows of heat (h, w) resized to (size, w) bilinearly, as `F.interpolate` does: all at once may be large."""
    place = ((torch.arange(rows.start, rows.stop) + 0.5) * (len(heat) / size) - 0.5).clamp(0, len(heat) - 1)
    above = place.long()
    below = (above + 1).clamp(max=len(heat) - 1)
    return torch.lerp(heat[above], heat[below], (place - above)[:, None])


def _to_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
