"""Regions or objects of the images that maps are about: what a look says of them."""

import math
from typing import NamedTuple

import numpy as np

_LONGEST = 64  # pixels of a stored prediction's longer side


class PartsSeen(NamedTuple):
    """What one look says of the part that each row is about.

    Args:
        classes: (B,) int, -1 where there is none.
        amounts: (B,) float in [0, 1]: share of the image's area, or probability.
        overlaps: (B,) float, intersection over union with the truth; NaN where that is not known.
        predicted: (B, H, W) bool, where the part was predicted.
    """

    classes: np.ndarray
    amounts: np.ndarray
    overlaps: np.ndarray
    predicted: np.ndarray

    def encoded(self) -> tuple[list[np.ndarray], tuple[int, int]]:
        """Overlaps and packed bits of the predictions, made smaller, as a look stores them; and their size."""
        _, *size = self.predicted.shape
        factor = max(1.0, max(size) / _LONGEST)
        rows, columns = (
            ((np.arange(max(1, round(side / factor))) + 0.5) * side / max(1, round(side / factor))).astype(int)
            for side in size
        )
        small = self.predicted[:, rows][:, :, columns]
        bits = np.packbits(small.reshape(len(small), -1).astype(bool), axis=1)
        return [np.asarray(self.overlaps, "<f4"), bits], (len(rows), len(columns))


def num_bytes(size: tuple[int, int]) -> int:
    """What a row takes, its overlap and its bits."""
    return 4 + math.ceil(math.prod(size) / 8)


def decoded(raw: np.ndarray, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps (T, B) float32 and predictions (T, B, h, w) bool of the bytes (T, n) of looks.

    Example:
        >>> seen = PartsSeen(np.array([1]), np.array([0.5]), np.array([0.25]), np.eye(3)[None] > 0)
        >>> arrays, size = seen.encoded()
        >>> raw = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)[None]
        >>> overlaps, predicted = decoded(raw, 1, size)
        >>> float(overlaps[0, 0]), predicted[0, 0].astype(int).tolist()
        (0.25, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    """
    overlaps = raw[:, : 4 * count].copy().view("<f4")
    bits = np.unpackbits(raw[:, 4 * count :].reshape(len(raw), count, -1), axis=2)[:, :, : math.prod(size)]
    return overlaps, bits.reshape(len(raw), count, *size).astype(bool)
