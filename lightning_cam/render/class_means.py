"""The mean maps of classes over the looks: classes in rows, looks in columns."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.render.caption import draw_headings, draw_lines
from lightning_cam.render.colormap import colorize
from lightning_cam.render.scale import scale_common
from lightning_cam.render.tile import BACKGROUND, resize, text_on_background, to_uint8

_TILE, _NAME, _GAP = 96, 150, 3  # pixels
_FONT = 20  # 8 pixels where TensorBoard shows 5 rows of 5 tiles in 300 x 215 pixels


def class_means(maps: Tensor, names: Sequence[str], headings: Sequence[str]) -> Tensor:
    """Draw the mean map of each class at each look; the maps of one row share one scale.

    Args:
        maps: (T, C, h, w) positive relevance; NaN where a class has none at a look.
        names: Of the C classes.
        headings: Of the T looks, of one line or several.

    Returns:
        (3, H, W) uint8.

    Example:
        >>> class_means(torch.rand(2, 3, 28, 28), ["a", "b", "c"], ["epoch 0", "epoch 1"]).dtype
        torch.uint8
    """
    tiles = to_uint8(colorize(scale_common(maps)))  # (T, C, 3, h, w)
    tiles = resize(tiles.flatten(0, 1).float() / 255, _TILE, _TILE).unflatten(0, tiles.shape[:2])
    tiles = F.pad(to_uint8(tiles), (0, _GAP, 0, _GAP), value=BACKGROUND)
    body = tiles.permute(2, 1, 3, 0, 4).flatten(3, 4).flatten(1, 2)  # (3, C h, T w)
    lines = draw_lines(list(names), _FONT, _NAME - _GAP)
    above = (_TILE + _GAP - lines.shape[1]) // 2
    below = _TILE + _GAP - lines.shape[1] - above
    left = text_on_background(F.pad(lines, (_GAP, 0, above, below)).flatten(0, 1))
    words = draw_headings(headings, _FONT, _TILE + _GAP)
    top = text_on_background(F.pad(torch.cat(list(words), -1), (_NAME, 0)))
    return torch.cat([F.pad(top, (0, 0, _GAP, _GAP), value=BACKGROUND), torch.cat([left, body], -1)], -2)
