"""Slices of volumes, frames of videos or instances of bags that images of a record consist of."""

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np

KINDS = ("slice", "frame", "instance")
_MOST = 2**16


@dataclass(frozen=True)
class Planes:
    """What each image of a record consists of, and of which of that there are pictures and maps.

    Args:
        kind: "slice" of a volume, "frame" of a video, or "instance" of a bag.
        count: How many each image has.
        numbers: Of those with a picture, from 1 on, in order.

    Example:
        >>> Planes("slice", 32, (5, 13, 21, 29)).columns
        2
    """

    kind: str
    count: int
    numbers: tuple[int, ...]

    @property
    def columns(self) -> int:
        """How many pictures stand in a row where they are stored side by side."""
        return ceil(sqrt(len(self.numbers)))

    def as_json(self) -> dict[str, Any]:
        """What the JSON of the probe images says of them."""
        return {"kind": self.kind, "count": self.count, "numbers": list(self.numbers)}


def planes_in(value: Any) -> Planes | None:
    """What `as_json` gave; None if it cannot be that.

    Example:
        >>> planes_in({"kind": "frame", "count": 8, "numbers": [1, 4]})
        Planes(kind='frame', count=8, numbers=(1, 4))
        >>> planes_in({"kind": "frame", "count": 8, "numbers": [4, 9]})
    """
    if type(value) is not dict or value.get("kind") not in KINDS:
        return None
    count, numbers = value.get("count"), value.get("numbers")
    if type(count) is not int or type(numbers) is not list or not all(type(number) is int for number in numbers):
        return None
    rises = all(before < after for before, after in zip([0, *numbers], [*numbers, count + 1], strict=True))
    return Planes(value["kind"], count, tuple(numbers)) if numbers and rises and count <= _MOST else None


def laid_out(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures (n, H, W, C) side by side in rows of `columns`, (rows * H, columns * W, C); empty places are 0."""
    count, height, width, channels = pictures.shape
    rows = ceil(count / columns)
    whole = np.zeros((rows * columns, height, width, channels), pictures.dtype)
    whole[:count] = pictures
    laid = whole.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return laid.reshape(rows * height, columns * width, channels)


def taken_apart(images: np.ndarray, planes: Planes) -> np.ndarray:
    """The pictures (B, n, H, W, C) of images (B, rows * H, columns * W, C) that `laid_out` made.

    Example:
        >>> pictures = np.arange(5).reshape(5, 1, 1, 1)
        >>> planes = Planes("slice", 5, (1, 2, 3, 4, 5))
        >>> taken_apart(laid_out(pictures, planes.columns)[None], planes).ravel()
        array([0, 1, 2, 3, 4])
    """
    columns, count = planes.columns, len(planes.numbers)
    rows = ceil(count / columns)
    height, width = images.shape[1] // rows, images.shape[2] // columns
    total, channels = len(images), images.shape[-1]
    cut = images[:, : rows * height, : columns * width].reshape(total, rows, height, columns, width, channels)
    return cut.swapaxes(2, 3).reshape(total, rows * columns, height, width, channels)[:, :count]
