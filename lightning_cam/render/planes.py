"""Slices of volumes, frames of videos and instances of bags: which are shown, and several of them as one picture."""

from collections.abc import Sequence
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.render.caption import draw_lines
from lightning_cam.render.overlay import no_evidence, overlay
from lightning_cam.render.scale import has_evidence
from lightning_cam.render.tile import BACKGROUND, fit, resize, text_on_background, to_uint8

MOST_PLANES = 16  # that stand side by side in a picture
_MOST_IN_A_ROW = 3  # of so few planes that they need no second row
_LEAST_FONT = 9
_GAP = 2  # pixels between planes


def spread(count: int, shown: int) -> Tensor:
    """(shown,) int64: which of `count` planes stand for equal parts of them.

    Example:
        >>> spread(8, 4)
        tensor([1, 3, 5, 7])
    """
    return ((torch.arange(shown) + 0.5) * count / shown).long()


def evidence_of(maps: Tensor) -> Tensor:
    """Which share each plane has in the positive relevance of its image.

    Args:
        maps: (..., d, h, w) raw signed relevance.

    Returns:
        (..., d) float32 that add up to 1; 0 where nothing is positive, or a value is not finite.

    Example:
        >>> evidence_of(torch.tensor([[[[3.0, -9.0]], [[0.0, 1.0]]]]))
        tensor([[0.7500, 0.2500]])
    """
    sums = maps.float().relu().sum((-2, -1))
    return (sums / sums.sum(-1, keepdim=True)).nan_to_num(0, posinf=0)


def leading(evidence: Tensor, kind: str, most: int = MOST_PLANES) -> Tensor:
    """Which planes of each image a picture shows, in order.

    Args:
        evidence: (B, n) shares in the evidence.
        kind: "slice", of which the one with most evidence is shown, the middle one where there is none; "instance",
            whose order is that of their evidence; or "frame", of which an even selection is shown.
        most: How many, at most.

    Returns:
        (B, k) int64.

    Example:
        >>> leading(torch.tensor([[0.1, 0.3, 0.6]]), "instance", 2)
        tensor([[2, 1]])
    """
    count, device = evidence.shape[1], evidence.device
    if kind == "frame":
        return spread(count, min(most, count)).to(device).expand(len(evidence), -1)
    if kind == "instance":
        return evidence.argsort(dim=1, descending=True, stable=True)[:, :most]
    middle = torch.full_like(evidence[:, 0], count // 2, dtype=torch.int64)
    return torch.where(evidence.amax(1) > 0, evidence.argmax(1), middle)[:, None]


def of_planes(planes: Tensor, chosen: Tensor) -> Tensor:
    """Of images with planes (B, n, ...) those that are chosen, (B, k) int64, as (B, k, ...)."""
    return planes[torch.arange(len(planes), device=planes.device)[:, None], chosen]


def plane_words(kind: str, number: int, share: float) -> str:
    """What is said of a plane.

    Example:
        >>> plane_words("instance", 5, 0.344), plane_words("slice", 12, 0.0)
        ('instance 5 · 34%', 'slice 12')
    """
    return f"{kind} {number}" + (f" · {share:.0%}" if share > 0 else "")


def side_by_side(planes: Tensor) -> Tensor:
    """Lay planes (..., n, h, w) out in rows, (..., rows * h, columns * w); what is left of the last row is 0.

    Example:
        >>> side_by_side(torch.arange(6).view(6, 1, 1))
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    count, height, width = planes.shape[-3:]
    columns = _columns(count)
    rows = ceil(count / columns)
    planes = F.pad(planes, (0, 0, 0, 0, 0, rows * columns - count))
    laid = planes.unflatten(-3, (rows, columns)).transpose(-3, -2)  # (..., rows, h, columns, w)
    return laid.reshape(*planes.shape[:-3], rows * height, columns * width)


def fit_planes(planes: Tensor, longest: int) -> Tensor:
    """Resize planes (B, n, 3, H, W), so that the longer side of all of an image, side by side, is about `longest`."""
    return fit(planes, max(1, longest // _columns(planes.shape[1]) - _GAP))


def planes_or_none(planes: Tensor, heat: Tensor) -> Tensor:
    """Overlay each plane with its own map; all planes of images that have no evidence in any are marked.

    Each map is resized by itself, so that none bleeds into the plane beside it.

    Args:
        planes: (B, n, 3, H, W) in [0, 1].
        heat: (..., B, n, h, w) in [0, 1], any resolution.

    Returns:
        (..., B, n, 3, H, W) uint8.
    """
    drawable = has_evidence(heat.flatten(-3, -2))[..., None, None, None, None]
    heat = resize(heat.float(), *planes.shape[-2:])
    return torch.where(drawable, to_uint8(overlay(planes, heat)), to_uint8(no_evidence(planes)))


def laid(planes: Tensor, lines: Sequence[Sequence[str]] = ()) -> Tensor:
    """Pictures of planes (..., n, 3, H, W) uint8 side by side, (..., 3, H', W').

    Args:
        planes: The pictures.
        lines: For each of B images n texts, to be written under its planes, which are (B, n, 3, H, W) then.
    """
    if lines:
        width = planes.shape[-1]
        size = max(_LEAST_FONT, width // 6)
        texts = torch.stack([text_on_background(draw_lines(of_image, size, width)) for of_image in lines])
        planes = torch.cat([planes, texts], -2)
    planes = F.pad(planes, (0, _GAP, 0, _GAP), value=BACKGROUND)
    return side_by_side(planes.transpose(-4, -3))


def _columns(count: int) -> int:
    return count if count <= _MOST_IN_A_ROW else ceil(sqrt(count))
