"""Relevance resampled to another grid."""

import torch
from torch import Tensor


def shared_out(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) on a grid that covers the same: each cell's relevance goes to those that it lies in, by area.

    The sum of relevance stays. On a grid of the same size nothing changes.

    Example:
        >>> shared_out(torch.tensor([[4.0, 2.0, 6.0]]), (1, 2))
        tensor([[5.0000, 7.0000]])
    """
    if maps.shape[-2:] == grid:
        return maps
    down, across = (_shares(size, cells).to(maps) for size, cells in zip(maps.shape[-2:], grid, strict=True))
    return down @ maps @ across.T


def _shares(size: int, cells: int) -> Tensor:
    """(cells, size): what part of each row lies in which of other cells of one height."""
    begin = torch.arange(size) * cells / size
    cell = torch.arange(cells)[:, None]
    overlap = (begin + cells / size).clamp(max=cell + 1) - begin.clamp(min=cell)
    return overlap.clamp_min(0) * size / cells
