"""The result of `explain` as one picture: an image and its maps per row."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_cam.model.normalization import Statistics, find_normalization
from lightning_cam.model.parts import NOTHING
from lightning_cam.render import to_uint8, unnormalize
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.grid import colors_or_none, evidence_or_none, said_missing
from lightning_cam.render.tile import BACKGROUND, MIN_WIDTH, fit, pad_width, text_on_background

_TILE = 192  # pixels of the longer side of an image
_FONT, _GAP = 14, 4
_MOST_ROWS, _MOST_TILES = 16, 96  # so that a notebook stays small


def picture(
    images: Tensor,
    normalizations: Sequence[Statistics],
    heatmaps: Mapping[str, Tensor],
    lines: Sequence[str],
    preds: Tensor | None = None,
) -> Image.Image:
    """Draw images with their maps beside them.

    Args:
        images: (B, C, H, W), normalized.
        normalizations: What they may have been normalized with.
        heatmaps: By method, (B, h, w) in [0, 1], on the images' device; all zero where there is no evidence. Colors
            (B, 3, h, w) are drawn as they are.
        lines: What is said of each image, under it.
        preds: (B,) the class of the part that is explained, negative where there is none; None of whole images.

    Returns:
        RGB, of at most 16 images and 96 tiles, the first images; it says so if there are more.

    Example:
        >>> picture(torch.rand(2, 3, 8, 8), [], {"hirescam": torch.rand(2, 4, 4)}, ["cat", "dog"]).size
        (396, 447)
    """
    count = min(len(images), _MOST_ROWS, max(1, _MOST_TILES // (len(heatmaps) + 1)))
    mean, std = find_normalization(images, normalizations)
    shown = fit(unnormalize(images[:count].float(), mean, std).cpu(), _TILE)
    there = torch.zeros(count) if preds is None else preds[:count].cpu()
    drawn = (_drawn(shown, heat[:count].cpu()) for heat in heatmaps.values())
    columns = [to_uint8(shown), *(said_missing(one, shown, there, NOTHING) for one in drawn)]
    tiles = F.pad(pad_width(torch.stack(columns, 1), MIN_WIDTH), (_GAP, 0, 0, 0), value=BACKGROUND)
    width = tiles.shape[-1]
    headings = F.pad(draw_lines(["image", *heatmaps], _FONT, width - _GAP), (_GAP, 0, _GAP, 0))
    said = [*lines[:count], *([f"{count} of {len(images)} images"] if count < len(images) else [])]
    texts = F.pad(draw_lines(said, _FONT, len(columns) * width - _GAP), (_GAP, 0, 0, _GAP))
    rows = [text_on_background(torch.cat(list(headings), -1))]
    for tile, text in zip(tiles, texts, strict=False):
        rows += [tile.movedim(0, 2).flatten(2), text_on_background(text)]
    rows += [text_on_background(text) for text in texts[count:]]
    sheet = F.pad(torch.cat(rows, 1), (0, _GAP), value=BACKGROUND)  # at the right
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def _drawn(images: Tensor, heat: Tensor) -> Tensor:
    return colors_or_none(images, heat) if heat.ndim == 4 else evidence_or_none(images, heat)
