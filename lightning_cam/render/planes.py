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
    columns = count if count <= _MOST_IN_A_ROW else ceil(sqrt(count))
    rows = ceil(count / columns)
    planes = F.pad(planes, (0, 0, 0, 0, 0, rows * columns - count))
    laid = planes.unflatten(-3, (rows, columns)).transpose(-3, -2)  # (..., rows, h, columns, w)
    return laid.reshape(*planes.shape[:-3], rows * height, columns * width)


def maps_side_by_side(maps: Tensor, shown: int) -> Tensor:
    """Maps (..., d, h, w) of all planes as one of those that are shown."""
    return side_by_side(maps.index_select(-3, spread(maps.shape[-3], shown).to(maps.device)))
