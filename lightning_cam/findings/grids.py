"""Maps and pictures on grids of the image: shares of evidence, appearance of cells, names of places."""

from __future__ import annotations

import numpy as np

SIDE = 28  # cells a side of maps that are kept
_MOST_CELLS = 14  # a side of the grid that is searched
_EDGE = 1e-9


def resample(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bring maps to another grid; what a cell holds is spread evenly over its area, and sums stay.

    Args:
        maps: (..., h, w).
        rows: Of the result.
        columns: Of the result.

    Returns:
        (..., rows, columns) float64.

    Example:
        >>> resample(np.array([[4.0, 0.0]]), 2, 2).tolist()
        [[2.0, 0.0], [2.0, 0.0]]
    """
    down, across = overlap(maps.shape[-2], rows), overlap(maps.shape[-1], columns)
    return np.einsum("ri,...ij,cj->...rc", down, maps, across, optimize=True)


def overlap(cells: int, others: int) -> np.ndarray:
    """Which part of each of `cells` equal parts of a line lies in each of `others`: (others, cells)."""
    edges, bounds = np.arange(cells + 1) / cells, np.arange(others + 1) / others
    low = np.maximum(edges[None, :-1], bounds[:-1, None])
    high = np.minimum(edges[None, 1:], bounds[1:, None])
    return (high - low).clip(min=0) * cells


def shares(maps: np.ndarray) -> np.ndarray:
    """Positive relevance as shares of each map (n, h, w) that add up to one; all zero where there is none.

    Example:
        >>> shares(np.array([[[3.0, 1.0, -5.0]], [[0.0, -1.0, 0.0]]])).tolist()
        [[[0.75, 0.25, 0.0]], [[0.0, 0.0, 0.0]]]
    """
    finite = np.isfinite(maps).all((1, 2), keepdims=True)
    energy = np.where(finite, maps, 0).clip(min=0).astype(np.float64)
    largest = energy.max((1, 2), keepdims=True)
    energy = energy / np.where(largest > 0, largest, 1)
    total = energy.sum((1, 2), keepdims=True)
    return energy / np.where(total > 0, total, 1)


def has_evidence(maps: np.ndarray) -> np.ndarray:
    """(n,) bool, which maps of shares (n, h, w) hold any."""
    return np.asarray(maps.reshape(len(maps), -1).any(1))


def search_grid(rows: int, columns: int) -> tuple[int, int]:
    """The grid on which places are searched: the map's own where it has at most 14 cells a side."""
    return min(rows, _MOST_CELLS), min(columns, _MOST_CELLS)


def appearance(pictures: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """What each cell looks like: mean color and, per channel, how much it varies within the cell.

    Args:
        pictures: (n, 3, H, W) uint8.
        grid: Rows and columns.

    Returns:
        (n, rows, columns, 6) float32 in [0, 1].
    """
    pixels = pictures.astype(np.float32) / 255
    cell = pixels.shape[-2] / grid[0] * (pixels.shape[-1] / grid[1])
    mean = resample(pixels, *grid) / cell
    square = resample(pixels**2, *grid) / cell
    spread = np.sqrt((square - mean**2).clip(min=0))
    return np.moveaxis(np.concatenate([mean, spread], 1), 1, -1).astype(np.float32)


def grown(seed: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The allowed cells (..., h, w) bool that hang together with the seed's, over sides or corners."""
    found = seed & allowed
    while True:
        wider = neighbors(found) & allowed
        if (wider == found).all():
            return found
        found = wider


def neighbors(cells: np.ndarray) -> np.ndarray:
    """The cells (..., h, w) bool and those beside them."""
    padded = np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(1, 1), (1, 1)])
    height, width = cells.shape[-2:]
    return np.logical_or.reduce([padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)])


def place_name(cells: np.ndarray) -> str:
    """The name of a place (h, w) bool: a corner, a border, a stripe, or the ninth of the image that it is in.

    Example:
        >>> place_name(np.eye(4, dtype=bool) & (np.arange(4) < 1))
        'the upper left corner'
    """
    rows, columns = np.nonzero(cells)
    height, width = cells.shape
    top, bottom, left, right = (
        rows.min() / height,
        (rows.max() + 1) / height,
        columns.min() / width,
        (columns.max() + 1) / width,
    )
    vertical = "upper" if bottom <= 1 / 3 + _EDGE else "lower" if top >= 2 / 3 - _EDGE else ""
    horizontal = "left" if right <= 1 / 3 + _EDGE else "right" if left >= 2 / 3 - _EDGE else ""
    touches = (top < _EDGE or bottom > 1 - _EDGE), (left < _EDGE or right > 1 - _EDGE)
    if vertical and horizontal and all(touches):
        return f"the {vertical} {horizontal} corner"
    if vertical and touches[0]:
        return f"the {vertical} border"
    if horizontal and touches[1]:
        return f"the {horizontal} border"
    if right - left > 0.8 and bottom - top <= 1 / 3 + _EDGE:
        return f"a stripe across the {_side((top + bottom) / 2, ('upper part', 'middle', 'lower part'))}"
    if bottom - top > 0.8 and right - left <= 1 / 3 + _EDGE:
        return f"a stripe down the {_side((left + right) / 2, ('left part', 'middle', 'right part'))}"
    outer = np.ones_like(cells)
    outer[1:-1, 1:-1] = False
    if not (cells & ~outer).any():
        return "the border"
    down = _side((rows.mean() + 0.5) / height, ("upper", "", "lower"))
    side = _side((columns.mean() + 0.5) / width, ("left", "", "right"))
    return f"the {' '.join(filter(None, (down, side)))} part" if down or side else "the center"


def _side(position: float, names: tuple[str, str, str]) -> str:
    return names[min(int(position * 3), 2)]
