"""Overlay a heatmap on an image, or mark that there is no evidence to show."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.render.caption import text_mask
from lightning_cam.render.colormap import colorize

PALENESS = 0.4  # how far an image is turned to gray under heat: 0 leaves it, 1 is gray
BRIGHTNESS = 0.8  # of the image under heat


def overlay(images: Tensor, heat: Tensor, opacity: float = 0.85) -> Tensor:
    """Lay heat over images: the hotter, the more opaque, so that cold regions show the image.

    Opacity is that of the square root of heat, and the image is drawn darker and with paler colors, so that weak heat
    is seen on a white object, and an orange object is not mistaken for heat.

    Args:
        images: (..., 3, H, W) in [0, 1].
        heat: (..., H, W) in [0, 1].
        opacity: How much of the image the hottest spot hides, in [0, 1].

    Returns:
        (..., 3, H, W) in [0, 1].

    Example:
        >>> import torch
        >>> overlay(torch.ones(1, 3, 1, 1), torch.zeros(1, 1, 1)).flatten()
        tensor([0.8000, 0.8000, 0.8000])
    """
    heat = heat.nan_to_num(0).clamp(0, 1).to(images)
    quiet = BRIGHTNESS * torch.lerp(images, images.mean(-3, keepdim=True), PALENESS)
    return torch.lerp(quiet, colorize(heat).to(images), opacity * heat.sqrt().unsqueeze(-3))


def color_overlay(images: Tensor, colors: Tensor, opacity: float = 0.85) -> Tensor:
    """Lay colors over images, as opaque as the hottest heat everywhere: no color is less than another.

    Args:
        images: (..., 3, H, W) in [0, 1].
        colors: (..., 3, H, W) in [0, 1].
        opacity: How much of the image they hide, in [0, 1].

    Returns:
        (..., 3, H, W) in [0, 1].

    Example:
        >>> import torch
        >>> color_overlay(torch.ones(1, 3, 1, 1), torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).flatten()
        tensor([0.1200, 0.5450, 0.9700])
    """
    quiet = BRIGHTNESS * torch.lerp(images, images.mean(-3, keepdim=True), PALENESS)
    return torch.lerp(quiet, colors.to(images), opacity)


def no_evidence(images: Tensor, words: str = "no evidence") -> Tensor:
    """Draw images whose map says nothing, or which have none: gray, dimmed, hatched, with words that say so.

    Args:
        images: (..., 3, H, W) in [0, 1].
        words: A few.

    Returns:
        (..., 3, H, W) in [0, 1], all three channels equal.
    """
    height, width = images.shape[-2:]
    gray = 0.5 * images.mean(-3, keepdim=True)
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    hatched = gray + 0.12 * ((x + y) % 12 < 2)
    text = text_mask(words, min(28, max(8, width // 8)))
    text = F.pad(text, (4, 4, 4, 4))[:height, :width]
    top, left = (height - text.shape[0]) // 2, (width - text.shape[1]) // 2
    hatched[..., top : top + text.shape[0], left : left + text.shape[1]] = text / 255
    return hatched.expand_as(images)
