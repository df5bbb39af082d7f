"""The overlay grid: one captioned tile per image."""

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from lightning_cam.render.caption import Captions, draw_notes
from lightning_cam.render.outline import PREDICTED, TRUE, outlined
from lightning_cam.render.overlay import color_overlay, no_evidence, overlay
from lightning_cam.render.planes import fit_planes, laid, planes_or_none
from lightning_cam.render.scale import has_evidence
from lightning_cam.render.tile import BACKGROUND, MIN_WIDTH, fit, frame, frame_colors, pad_width, resize, to_uint8

TILE = 224  # pixels of the longer side of an image in the grid
FONT_SIZE = 28  # at least 7 pixels where TensorBoard shows a picture of 4 x 2 tiles in 300 x 215 pixels
COLUMNS = 4


def evidence_or_none(images: Tensor, heat: Tensor) -> Tensor:
    """Overlay the maps that say something, mark those that do not.

    Args:
        images: (..., 3, H, W) in [0, 1].
        heat: (..., h, w) in [0, 1], any resolution; all zero or non-finite where there is no evidence.

    Returns:
        (..., 3, H, W) uint8.
    """
    drawable = has_evidence(heat)[..., None, None, None]
    heat = resize(heat.float(), *images.shape[-2:])
    return torch.where(drawable, to_uint8(overlay(images, heat)), to_uint8(no_evidence(images)))


def colors_or_none(images: Tensor, colors: Tensor) -> Tensor:
    """Overlay maps of colors, mark those that are not finite.

    Args:
        images: (..., 3, H, W) in [0, 1].
        colors: (..., 3, h, w) in [0, 1], any resolution.

    Returns:
        (..., 3, H, W) uint8.
    """
    drawable = colors.isfinite().flatten(-3).all(-1)[..., None, None, None]
    colors = resize(colors.nan_to_num(0).float(), *images.shape[-2:])
    return torch.where(drawable, to_uint8(color_overlay(images, colors)), to_uint8(no_evidence(images)))


def overlay_grid(
    images: Tensor,
    heat: Tensor,
    captions: Captions,
    *,
    preds: Tensor,
    probs: Tensor,
    labels: Tensor | None = None,
    notes: Sequence[str] = (),
    lines: Sequence[Sequence[str]] = (),
    truth: Tensor | None = None,
    predicted: Tensor | None = None,
    columns: int = COLUMNS,
    tile: int = TILE,
    font_size: int = FONT_SIZE,
) -> Tensor:
    """Draw each image under its heat, with a caption, framed by right or wrong, at most four in a row up to 16.

    Args:
        images: (B, 3, H, W) in [0, 1]; small ones are enlarged, large ones reduced. Or (B, n, 3, H, W), n planes that
            are drawn side by side.
        heat: (B, h, w) in [0, 1], any resolution, of planes (B, n, h, w); a map that is all zero or has non-finite
            values is marked as "no evidence". Or colors (B, 3, h, w) in [0, 1], drawn as they are.
        captions: The names of the classes.
        preds: (B,) predicted classes, negative where nothing was predicted.
        probs: (B,) probabilities in [0, 1] to show; a non-finite one is written as `?`.
        labels: (B,) true classes, negative where unknown; None draws neutral frames.
        notes: A few words under each image, or none; if there are none under any, no line is left free for them.
        lines: For each image what is written under each of its planes.
        truth: (B, h, w) bool, drawn in outline: what is true of the image's places.
        predicted: (B, h, w) bool, likewise: what was predicted.
        columns: How many tiles stand in a row, of up to 16.
        tile: Pixels of the longer side of an image.
        font_size: Of the captions.

    Returns:
        (3, H', W') uint8.
    """
    if images.ndim == 5:
        pictures = laid(planes_or_none(fit_planes(images, tile), heat), lines)
    else:
        images = fit(images, tile)
        pictures = colors_or_none(images, heat) if heat.ndim == 4 else evidence_or_none(images, heat)
    for masks, color in ((truth, TRUE), (predicted, PREDICTED)):
        pictures = pictures if masks is None else outlined(pictures, masks, color)
    pictures = pad_width(pictures, MIN_WIDTH)
    width = pictures.shape[-1] - 8
    if labels is None:
        text = captions.prediction(preds, probs, font_size, width)
    else:
        text = captions.label_and_prediction(labels, preds, probs, font_size, width)
    if any(notes):
        text = torch.cat([text, draw_notes(notes, font_size, width)], -2)
    right = None if labels is None else captions.right(preds, labels)
    tiles = frame(pictures, text, frame_colors(preds, labels, right), border=4)
    return make_grid(tiles, nrow=max(columns, math.ceil(math.sqrt(len(tiles)))), padding=4, pad_value=BACKGROUND)


def encode_jpeg(picture: Tensor, quality: int = 90) -> bytes:
    """Encode a picture as JPEG.

    Args:
        picture: (3, H, W) uint8 on the host.
        quality: 1 to 100.

    Returns:
        The bytes of the file.

    Example:
        >>> import torch
        >>> encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8))[:3].hex()
        'ffd8ff'
    """
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return file.getvalue()
