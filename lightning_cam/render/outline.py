"""The line around what a mask covers."""

import torch
import torch.nn.functional as F
from torch import Tensor

TRUE = (255, 255, 255)
PREDICTED = (0, 224, 255)  # told from heat and from white with any color vision
_SIDES = {TRUE: 3, PREDICTED: 2}  # pixels; where both run together, the one drawn last leaves some of the other


def outlined(pictures: Tensor, masks: Tensor, color: tuple[int, int, int]) -> Tensor:
    """Draw a line along the inner border of masks.

    Args:
        pictures: (B, 3, H, W) uint8.
        masks: (B, h, w) bool, of any size.
        color: Red, green, blue.

    Returns:
        (B, 3, H, W) uint8.

    Example:
        >>> picture = outlined(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), torch.ones(1, 3, 3) > 0, TRUE)
        >>> picture[0, 0, 4].tolist()
        [255, 255, 255, 0, 0, 0, 255, 255, 255]
    """
    inside = F.interpolate(masks[:, None].float(), pictures.shape[-2:], mode="nearest")
    side = 2 * _SIDES.get(color, 2) + 1
    padded = F.pad(1 - inside, [side // 2] * 4, value=1.0)  # what lies outside the image is outside
    border = (inside > 0) & (F.max_pool2d(padded, side, stride=1) > 0)
    paint = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)
    return torch.where(border, paint, pictures)
