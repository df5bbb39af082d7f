"""The result of `explain` as one picture: an image and its maps per row."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_cam.model.normalization import Statistics, find_normalization
from lightning_cam.render import to_uint8, unnormalize
from lightning_cam.render.caption import draw_lines
from lightning_cam.render.grid import colors_or_none, evidence_or_none
from lightning_cam.render.planes import fit_planes, laid, leading, of_planes, planes_or_none, spread
from lightning_cam.render.tile import BACKGROUND, MIN_WIDTH, fit, pad_width, text_on_background

_TILE = 192  # pixels of the longer side of an image
_FONT, _GAP = 14, 4
_MOST_ROWS, _MOST_TILES = 16, 96  # so that a notebook stays small
_ORDER = {
    "slice": "slices with their share of the evidence",
    "frame": "frames with their share of the evidence",
    "instance": "instances in the order of their evidence, with its share",
}


def picture(
    images: Tensor, normalizations: Sequence[Statistics], heatmaps: Mapping[str, Tensor], lines: Sequence[str]
) -> Image.Image:
    """Draw images with their maps beside them.

    Args:
        images: (B, C, H, W), normalized.
        normalizations: What they may have been normalized with.
        heatmaps: By method, (B, h, w) in [0, 1], on the images' device; all zero where there is no evidence. Colors
            (B, 3, h, w) are drawn as they are.
        lines: What is said of each image, under it.

    Returns:
        RGB, of at most 16 images and 96 tiles, the first images; it says so if there are more.

    Example:
        >>> picture(torch.rand(2, 3, 8, 8), [], {"hirescam": torch.rand(2, 4, 4)}, ["cat", "dog"]).size
        (396, 447)
    """
    count = _rows(len(images), len(heatmaps))
    mean, std = find_normalization(images, normalizations)
    shown = fit(unnormalize(images[:count].float(), mean, std).cpu(), _TILE)
    columns = [to_uint8(shown), *(_drawn(shown, heat[:count].cpu()) for heat in heatmaps.values())]
    return _sheet(columns, list(heatmaps), lines, len(images))


def picture_of_planes(
    images: Tensor,
    normalizations: Sequence[Statistics],
    heatmaps: Mapping[str, Tensor],
    lines: Sequence[str],
    evidence: Mapping[str, Tensor],
    kind: str,
) -> Image.Image:
    """Draw volumes, videos or bags with their maps beside them: planes side by side, over their shares of the evidence.

    Args:
        images: (B, C, D, H, W), normalized.
        normalizations: What they may have been normalized with.
        heatmaps: By method, (B, d, h, w) in [0, 1], on the images' device.
        lines: What is said of each image, under it.
        evidence: By method, (B, d), the share of each plane.
        kind: What planes are. Instances of a bag stand in the order of their evidence, others in their own; of more
            than 16 the ones with most evidence are shown. The images themselves are those of the first method.

    Returns:
        RGB, as `picture` does.
    """
    count, finest = _rows(len(images), len(heatmaps)), max(shares.shape[1] for shares in evidence.values())
    of_pictures = spread(images.shape[2], finest)
    flat = images[:count, :, of_pictures.to(images.device)].transpose(1, 2)  # (count, n, C, H, W)
    mean, std = find_normalization(flat.flatten(0, 1), normalizations)
    pictures = unnormalize(flat.flatten(0, 1).float(), mean, std).unflatten(0, (count, -1)).cpu()
    columns: list[Tensor] = []
    for method, heat in heatmaps.items():
        own = spread(heat.shape[1], finest)
        shares = evidence[method][:count, own.to(heat.device)].cpu()
        chosen = leading(shares, "instance")
        chosen = chosen if kind == "instance" else chosen.sort(1).values
        shown = fit_planes(of_planes(pictures, chosen), _TILE)
        words = [
            [f"{of_pictures[k] + 1} · {shares[row, k]:.0%}" for k in of_row]
            for row, of_row in enumerate(chosen.tolist())
        ]
        if not columns:
            numbers = [[str(int(of_pictures[k]) + 1) for k in of_row] for of_row in chosen.tolist()]
            columns.append(laid(to_uint8(shown), numbers))
        columns.append(laid(planes_or_none(shown, of_planes(heat[:count, own.to(heat.device)].cpu(), chosen)), words))
    return _sheet(columns, list(heatmaps), [f"{line}; {_ORDER[kind]}" for line in lines], len(images))


def _rows(images: int, methods: int) -> int:
    return min(images, _MOST_ROWS, max(1, _MOST_TILES // (methods + 1)))


def _sheet(columns: list[Tensor], methods: Sequence[str], lines: Sequence[str], total: int) -> Image.Image:
    """The images and the columns of the methods (count, 3, h, w) uint8 under headings, a line under each image."""
    count = len(columns[0])
    tiles = F.pad(pad_width(torch.stack(columns, 1), MIN_WIDTH), (_GAP, 0, 0, 0), value=BACKGROUND)
    width = tiles.shape[-1]
    headings = F.pad(draw_lines(["image", *methods], _FONT, width - _GAP), (_GAP, 0, _GAP, 0))
    said = [*lines[:count], *([f"{count} of {total} images"] if count < total else [])]
    texts = F.pad(draw_lines(said, _FONT, len(columns) * width - _GAP), (_GAP, 0, 0, _GAP))
    rows = [text_on_background(torch.cat(list(headings), -1))]
    for tile, text in zip(tiles, texts, strict=False):
        rows += [tile.movedim(0, 2).flatten(2), text_on_background(text)]
    rows += [text_on_background(text) for text in texts[count:]]
    sheet = F.pad(torch.cat(rows, 1), (0, _GAP), value=BACKGROUND)  # at the right
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def _drawn(images: Tensor, heat: Tensor) -> Tensor:
    return colors_or_none(images, heat) if heat.ndim == 4 else evidence_or_none(images, heat)
