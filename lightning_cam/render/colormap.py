"""One colormap for heat: perceptually uniform and safe for color-blind readers."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor made on the host without waiting for the device."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@lru_cache
def lookup_table(device: torch.device) -> Tensor:
    """Return matplotlib's inferno as (256, 3) float32 in [0, 1] on `device`."""
    table = torch.from_numpy(colormaps["inferno"](range(256))[:, :3]).float()
    return to_device(table, device)


def colorize(heat: Tensor) -> Tensor:
    """Turn heat into colors, from black over purple and orange to pale yellow.

    Args:
        heat: (..., h, w) in [0, 1]; values outside are clipped, NaN counts as 0.

    Returns:
        (..., 3, h, w) float32 in [0, 1], on the device of `heat`.

    Example:
        >>> import torch
        >>> (colorize(torch.tensor([[0.0, 1.0]])) * 255).round().int().tolist()
        [[[0, 252]], [[0, 255]], [[4, 164]]]
    """
    index = (heat.nan_to_num(0).clamp(0, 1) * 255).round().long()
    return F.embedding(index, lookup_table(heat.device)).movedim(-1, -3).contiguous()
