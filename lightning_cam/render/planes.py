"""Slices of volumes and frames of videos laid side by side, as one picture and one map."""

from math import ceil, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_PLANES = 16  # that are shown of an image
_MOST_IN_A_ROW = 3  # of so few planes that they need no second row


def spread(count: int, shown: int) -> Tensor:
    """(shown,) int64: which of `count` planes stand for equal parts of them.

    Example:
        >>> spread(8, 4)
        tensor([1, 3, 5, 7])
    """
    return ((torch.arange(shown) + 0.5) * count / shown).long()


def side_by_side(planes: Tensor) -> Tensor:
    """Lay planes (..., n, h, w) out in rows, (..., rows * h, columns * w); what is left of the last row is 0.

    Example:
        >>> side_by_side(torch.arange(6).view(6, 1, 1))
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    count, height, width = planes.shape[-3:]
    rows, columns = _rows_and_columns(count)
    planes = F.pad(planes, (0, 0, 0, 0, 0, rows * columns - count))
    laid = planes.unflatten(-3, (rows, columns)).transpose(-3, -2)  # (..., rows, h, columns, w)
    return laid.reshape(*planes.shape[:-3], rows * height, columns * width)


def taken_apart(laid: Tensor, count: int) -> Tensor:
    """The planes (..., n, h, w) that `side_by_side` laid out.

    Example:
        >>> planes = torch.rand(2, 5, 3, 4)
        >>> torch.equal(taken_apart(side_by_side(planes), 5), planes)
        True
    """
    rows, columns = _rows_and_columns(count)
    height, width = laid.shape[-2] // rows, laid.shape[-1] // columns
    planes = laid.unflatten(-1, (columns, width)).unflatten(-3, (rows, height)).transpose(-3, -2)
    return planes.flatten(-4, -3)[..., :count, :, :]


def maps_side_by_side(maps: Tensor, shown: int) -> Tensor:
    """Maps (..., d, h, w) of all planes as one of those that are shown."""
    return side_by_side(maps.index_select(-3, spread(maps.shape[-3], shown).to(maps.device)))


def _rows_and_columns(count: int) -> tuple[int, int]:
    columns = count if count <= _MOST_IN_A_ROW else ceil(sqrt(count))
    return ceil(count / columns), columns
