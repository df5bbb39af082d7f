"""Read image files of any kind as 8-bit RGB, for the probe's folder and the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}  # of files that are images
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow has others, some of which start programs
_MAX_BYTES = 2**30  # of a file: some formats are read as a whole before their header is looked at
_SAMPLES, _MOST_BANDS = 277, 4  # the tag of a TIFF that says how many bands it has; RGB and one more are read
_STRIP = 2**20  # pixels whose depth is changed at once


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and in those below it, in order of their paths.

    Links to files are followed, those to folders are not: they may lead in a circle. A folder that cannot be listed is
    passed over.
    """
    found, folders = [], [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry))
                    elif is_image_file(Path(entry)):
                        found.append(Path(entry))
        except OSError:
            continue
    return sorted(found)


def is_image_file(path: Path) -> bool:
    """Whether a path has the suffix of an image and leads to a regular file: no folder, pipe or device."""
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def read_image(file: Path) -> Image.Image:
    """Read an image of any mode as 8-bit RGB, upright.

    EXIF rotation is applied, what is transparent is laid on white, 16-bit gray keeps its upper 8 bits. Gray of 32 bits
    and of floats has no range of its own: it is stretched from its smallest to its largest finite value, NaN is black.

    Args:
        file: A JPEG, PNG, WebP, BMP, GIF or TIFF, whatever its suffix; of an animation the first picture.

    Raises:
        OSError: There is no such file, it is no image, damaged, larger than 1 GiB, of more than four bands, or has more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS`, which is 89,478,485 unless set otherwise.
    """
    if not os.path.isfile(file):  # a pipe would be waited for, a device never ends
        raise OSError("it is not a regular file" if os.path.exists(file) else "there is no such file")
    if os.path.getsize(file) > _MAX_BYTES:
        raise OSError(f"the file is larger than {_MAX_BYTES >> 30} GiB")
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            _check_size(opened)
            _check_bands(getattr(opened, "tag_v2", {}).get(_SAMPLES, 1))
            ImageOps.exif_transpose(opened, in_place=True)
            return _as_rgb(opened)
    except OSError as error:
        _check_bands(_bands_in(file), error)
        raise
    # Pillow's plugins raise whatever a damaged file leads them to: SyntaxError, ValueError, struct.error, zlib.error.
    except Exception as error:
        raise OSError(f"it cannot be read ({type(error).__name__}: {error})") from error


def _check_size(image: Image.Image) -> None:
    """Refuse what Pillow only warns of: a file of a few KB can hold pixels that take gigabytes."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise OSError(
            f"{image.width}×{image.height} pixels are more than the limit of {Image.MAX_IMAGE_PIXELS:,}; resize the "
            "image"
        )


def _check_bands(count: int, cause: Exception | None = None) -> None:
    """Refuse a TIFF of several bands: of some of them Pillow would read the first three alone."""
    if count > _MOST_BANDS:
        raise OSError(
            f"it has {count} bands; image files of up to four bands are read here, and tensors of any number of bands "
            "are explained in Python: lightning_cam.explain"
        ) from cause


def _bands_in(file: Path) -> int:
    """How many bands a file has that Pillow does not read, if it is a TIFF; else 1."""
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
            tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2:3] == b"+" else start[:8])  # + is a BigTIFF
            opened.seek(tags.next)
            tags.load(opened)
            return int(tags.get(_SAMPLES, 1))
    except Exception:  # it is none, or damaged
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image with as few copies at once as there can be: it may be large."""
    if image.mode.startswith("I;16"):
        return _gray(image, 0, 65535)
    if image.mode in ("I", "F"):
        ranges = [(f.min(), f.max()) for _, v in _strips(image) if (f := v[np.isfinite(v)]).size]
        return _gray(image, min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image)
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray(image: Image.Image, low: float, high: float) -> Image.Image:
    """Show gray of any depth from `low`, black, to `high`, white."""
    factor = 255 / (high - low) if high > low else 0
    picture = Image.new("L", image.size)
    for top, values in _strips(image):
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        picture.paste(Image.fromarray(((values - low) * factor).round().astype(np.uint8)), (0, top))
    return picture.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a gray image, some at a time as (rows, width) float64, each time with the number of the first."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.asarray(strip).astype(np.float64)
