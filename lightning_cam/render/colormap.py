"""One colormap for heat: perceptually uniform and safe for color-blind readers."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Matplotlib's inferno (S. van der Walt and N. Smith, CC0) at 17 even positions from 0 to 1.
INFERNO = (
    "000004 0b0724 210c4a 3c0965 57106d 70196e 89226a a32b61 bb3755 "
    "d14644 e35932 f1711e f98d0a fcab0f f9ca32 f2e865 fcffa4"
)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor made on the host without waiting for the device."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@lru_cache
def lookup_table(device: torch.device) -> Tensor:
    """Return the colormap as (256, 3) float32 in [0, 1] on `device`."""
    points = torch.tensor(list(bytes.fromhex(INFERNO)), dtype=torch.float32).view(-1, 3) / 255
    table = F.interpolate(points.T[None], size=256, mode="linear", align_corners=True)[0].T
    return to_device(table.contiguous(), device)


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
