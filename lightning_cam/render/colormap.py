"""One colormap for heat: perceptually uniform and safe for color-blind readers."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor


@lru_cache
def lookup_table() -> Tensor:
    """Return matplotlib's inferno as (256, 3) float32 in [0, 1]."""
    return torch.from_numpy(colormaps["inferno"](range(256))[:, :3]).float()


def colorize(heat: Tensor) -> Tensor:
    """Turn heat into colors, from black over purple and orange to pale yellow.

    Args:
        heat: (..., h, w) in [0, 1]; values outside are clipped, NaN counts as 0.

    Returns:
        (..., 3, h, w) float32 in [0, 1].

    Example:
        >>> import torch
        >>> (colorize(torch.tensor([[0.0, 1.0]])) * 255).round().int().tolist()
        [[[0, 252]], [[0, 255]], [[4, 164]]]
    """
    index = (heat.nan_to_num(0).clamp(0, 1) * 255).round().long()
    return F.embedding(index, lookup_table()).movedim(-1, -3).contiguous()
