"""Pictures as files, as they are stored in a record."""

import io
from typing import Any

import numpy as np

from lightning_cam.timeline.format import MOST_SIDE
from lightning_cam.timeline.planes import Planes, laid_out

_TIMES = 2  # the longest side of a stored image, of all planes of one side by side


def encode(pixels: np.ndarray, file_format: str, longest_side: int, **options: Any) -> bytes:
    """Pixels (H, W) or (H, W, 3) as a file, made smaller where a side is longer."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((min(longest_side, MOST_SIDE),) * 2)
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def stored_picture(image: np.ndarray, longest_side: int, planes: Planes | None) -> bytes:
    """An image (H, W, 3) as WebP, or planes (n, H, W, 3) side by side.

    Each plane is made smaller by itself, so that none runs into the one beside it.
    """
    from PIL import Image

    if planes is None:
        return encode(image, "WEBP", longest_side, quality=85)
    side, columns = min(_TIMES * longest_side, MOST_SIDE), planes.columns
    pictures = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
    for picture in pictures:
        picture.thumbnail((side // columns, side // columns))
    return encode(laid_out(np.stack([np.asarray(picture) for picture in pictures]), columns), "WEBP", side, quality=85)
