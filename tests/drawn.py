"""Independent references for what is drawn."""

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lightning_cam.render import fonts
from lightning_cam.render.tile import BACKGROUND, TEXT

DIGITS = [str(n) for n in range(10)]


def forget_fonts():
    """Have fonts looked for anew: what can be written is remembered."""
    for cached in (fonts._load, fonts._set, fonts._runs):
        cached.cache_clear()
    fonts._INSTALLED = fonts._Installed()


def lit(mask):
    """The reference for text on its background: (h, w) uint8 -> (3, h, w) uint8."""
    gray = np.round(BACKGROUND + mask.numpy().astype(np.float32) * np.float32((TEXT - BACKGROUND) / 255))
    return torch.from_numpy(gray.astype(np.uint8)).expand(3, -1, -1)


def written(text, size, width, right=""):
    """Write `text` at the left and `right` at the right of a line, with Pillow alone, as (h, width) uint8."""
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    ascent, descent = font.getmetrics()
    line = Image.new("L", (width, ascent + descent))
    draw = ImageDraw.Draw(line)
    draw.text((0, ascent), text, 255, font, anchor="ls")
    draw.text((width, ascent), right, 255, font, anchor="rs")
    return torch.from_numpy(np.array(line))


def batch(generator, count=5, size=(32, 32), grid=(4, 4)):
    images = torch.rand(count, 3, *size, generator=generator)
    maps = torch.rand(count, *grid, generator=generator)
    labels = torch.arange(count) % 10
    probs = torch.rand(count, generator=generator)
    return images, maps, labels, probs
