"""Image files of any kind as 8-bit RGB: what the probe's folder and the command line read."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # of files that are images


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and in those below it, in order of their paths."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def read_image(file: Path) -> Image.Image:
    """Read an image of any mode as 8-bit RGB, upright.

    EXIF rotation is applied, what is transparent is laid on white, 16-bit gray keeps its upper 8 bits. Gray of 32 bits
    and of floats has no range of its own: it is stretched from its smallest to its largest value.

    Args:
        file: Any file that Pillow reads; of an animation the first picture.

    Raises:
        OSError: The file is no image, or broken.
    """
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            return _gray(np.asarray(image) / 257)
        if image.mode in ("I", "F"):
            return _gray(_stretch(np.asarray(image, np.float64)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image.convert("RGB")


def _gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
