"""The filmstrip: one row per image, one column per look."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.render.caption import Captions, draw_headings, draw_notes
from lightning_cam.render.grid import colors_or_none, evidence_or_none
from lightning_cam.render.planes import fit_planes, laid, planes_or_none
from lightning_cam.render.scale import scale_common, to_colors
from lightning_cam.render.tile import (
    BACKGROUND,
    MIN_WIDTH,
    fit,
    frame,
    frame_colors,
    pad_width,
    text_on_background,
    to_uint8,
)

TILE = 168  # pixels of the longer side of an image in the filmstrip
FONT_SIZE = 34  # 8 pixels where TensorBoard shows 3 rows of 7 tiles in 300 x 215 pixels
NOTE_SIZE = 20  # of words that need not be read in a thumbnail
GAP = 3


def filmstrip(
    images: Tensor,
    maps: Tensor,
    columns: Sequence[str],
    captions: Captions,
    *,
    preds: Tensor,
    probs: Tensor,
    labels: Tensor | None = None,
    notes: Sequence[str] = (),
) -> Tensor:
    """Draw how the maps of each image evolve: the image first, then its overlays in the order of time.

    The maps of one row share one scale, so that a row grows hotter as its evidence grows. Drawn is the square root of
    the value on that scale: a quarter of the row's largest value has half of the full color.

    Args:
        images: (B, 3, H, W) in [0, 1]. Or (B, n, 3, H, W), n planes that are drawn side by side.
        maps: (T, B, h, w) raw signed relevance, of planes (T, B, n, h, w), or (T, B, 3, h, w) colors from -1 to 1.
        columns: T headings, such as `epoch 3`, of one line or several.
        captions: The names of the classes.
        preds: (T, B) predicted classes, negative where nothing was predicted.
        probs: (T, B) probabilities in [0, 1] to show; a non-finite one is written as `?`.
        labels: (B,) true classes, negative where unknown; None draws neutral frames.
        notes: A few words under each image, or none.

    Returns:
        (3, H', W') uint8.

    Raises:
        ValueError: There is not one heading per look.
    """
    if len(columns) != len(maps):
        raise ValueError(
            f"columns: expected a heading for each of {len(maps)} looks, got {len(columns)}: {list(columns)}"
        )
    if images.ndim == 5:
        images = fit_planes(images, TILE)
        scaled = scale_common(maps.flatten(2, 3)).unflatten(2, maps.shape[2:4])  # the planes of an image share a scale
        looks, images = laid(planes_or_none(images, scaled.sqrt())), laid(to_uint8(images))
    else:
        images = fit(images, TILE)
        if maps.ndim == 5:
            looks = colors_or_none(images, to_colors(maps))
        else:
            looks = evidence_or_none(images, scale_common(maps).sqrt())  # weak cells show, order and scale stay
        images = to_uint8(images)
    pictures = pad_width(torch.cat([images[None], looks]), MIN_WIDTH)
    width = pictures.shape[-1] - 4
    text = captions.prediction(preds, probs, FONT_SIZE, width)
    first = torch.zeros_like(text[0])
    if labels is not None:
        label = captions.label(labels, FONT_SIZE, width)
        first = F.pad(label, (0, 0, 0, text.shape[-2] - label.shape[-2]))
    if any(notes):
        said = draw_notes(notes, NOTE_SIZE, width)
        text, first = F.pad(text, (0, 0, 0, said.shape[-2])), torch.cat([first, said], -2)
    neutral = frame_colors(preds[0], None)
    right = None if labels is None else captions.right(preds, labels)
    colors = torch.cat([neutral[None], frame_colors(preds, labels, right)])
    tiles = frame(pictures, torch.cat([first[None], text]), colors, border=3)  # (T + 1, B, 3, h, w)
    masks = draw_headings(["image", *columns], FONT_SIZE, tiles.shape[-1])
    headings = text_on_background(F.pad(masks, (0, 0, GAP, 0))[:, None])
    return F.pad(torch.cat([_sheet(headings), _sheet(tiles)], -2), (GAP, 0, 0, 0), value=BACKGROUND)


def _sheet(tiles: Tensor) -> Tensor:
    """Lay (columns, rows, 3, h, w) out as one picture, with gaps between."""
    spaced = F.pad(tiles, (0, GAP, 0, GAP), value=BACKGROUND)
    return spaced.permute(2, 1, 3, 0, 4).flatten(3, 4).flatten(1, 2)
