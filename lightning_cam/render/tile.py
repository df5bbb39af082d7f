"""One tile: a picture of bounded size with a caption under it and a frame around both."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Okabe and Ito's blue-green and vermillion: told apart with any color vision.
RIGHT = (0, 158, 115)
WRONG = (213, 94, 0)
NEUTRAL = (110, 110, 110)
BACKGROUND = 24  # gray, in all three channels
TEXT = 235
CAPTION_MARGIN = 2  # pixels above and below the text
MIN_WIDTH = 96  # of a tile, so that a caption has room under a tall image


def resize(pictures: Tensor, height: int, width: int) -> Tensor:
    """Resize (..., H, W) to (..., height, width), bilinearly; antialiased, so that large images shrink cleanly."""
    flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
    return F.interpolate(flat, (height, width), mode="bilinear", antialias=True).view(
        *pictures.shape[:-2], height, width
    )


def fit(images: Tensor, longest: int) -> Tensor:
    """Resize (..., H, W) so that the longer side is `longest` pixels."""
    height, width = images.shape[-2:]
    factor = longest / max(height, width)
    return resize(images, max(1, round(height * factor)), max(1, round(width * factor)))


def to_uint8(pictures: Tensor) -> Tensor:
    """Round pictures in [0, 1] to uint8."""
    return (pictures * 255).round_().to(torch.uint8)


def pad_width(pictures: Tensor, width: int) -> Tensor:
    """Center uint8 pictures (..., H, W) between black bars if they are narrower than `width`."""
    missing = max(0, width - pictures.shape[-1])
    return F.pad(pictures, (missing // 2, missing - missing // 2))


def frame_colors(preds: Tensor, labels: Tensor | None, is_right: Tensor | None = None) -> Tensor:
    """Choose frames: right, wrong, or neutral where there is nothing to judge.

    Args:
        preds: (...) integers, negative where nothing was predicted.
        labels: Integers that broadcast to `preds`, negative for unknown; None if there are none.
        is_right: (...) bool, whether predictions are right; by default those that are the label.

    Returns:
        (..., 3) uint8.
    """
    right, wrong, neutral = (torch.tensor(rgb, dtype=torch.uint8) for rgb in (RIGHT, WRONG, NEUTRAL))
    if labels is None:
        return neutral.expand(*preds.shape, 3)
    is_right = preds == labels if is_right is None else is_right
    judged = torch.where(is_right.unsqueeze(-1), right, wrong)
    unknown = (labels < 0) | (preds < 0)
    return torch.where(unknown.unsqueeze(-1), neutral, judged)


def text_on_background(mask: Tensor) -> Tensor:
    """Turn a (..., h, w) uint8 text mask into a (..., 3, h, w) uint8 picture, light on dark."""
    lit = (BACKGROUND + mask.float() * ((TEXT - BACKGROUND) / 255)).round().to(torch.uint8)
    return lit.unsqueeze(-3).expand(*mask.shape[:-2], 3, *mask.shape[-2:])


def frame(pictures: Tensor, captions: Tensor, colors: Tensor, border: int) -> Tensor:
    """Put captions under pictures and frames around both.

    Args:
        pictures: (..., 3, H, W) uint8.
        captions: (..., h, w) uint8 text masks, w at most W.
        colors: (..., 3) uint8.
        border: Pixels of frame on each side.

    Returns:
        (..., 3, H + h + 2 * CAPTION_MARGIN + 2 * border, W + 2 * border) uint8.
    """
    height, width = pictures.shape[-2:]
    left = (width - captions.shape[-1]) // 2
    captions = F.pad(captions, (left, width - captions.shape[-1] - left, CAPTION_MARGIN, CAPTION_MARGIN))
    size = height + captions.shape[-2] + 2 * border, width + 2 * border
    tiles = colors[..., None, None].repeat(*(1,) * colors.ndim, *size)
    inside = tiles[..., border:-border, border:-border]
    inside[..., :height, :] = pictures
    inside[..., height:, :] = text_on_background(captions)
    return tiles
