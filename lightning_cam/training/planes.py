"""Of volumes, videos and bags what the pictures of a look show: a slice, frames side by side, ranked instances."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_cam.render.planes import leading, of_planes, plane_words, spread
from lightning_cam.timeline.planes import Planes

MOST_KEPT = 64  # planes of an image that there are pictures and maps of, evenly spaced


class Pictures(NamedTuple):
    """What is drawn of each image.

    Args:
        images: (B, 3, H, W), or with several planes of each image (B, n, 3, H, W).
        maps: (..., B, h, w), or (..., B, n, h, w).
        notes: What is said under each image; nothing where there is no evidence.
        lines: And under each of several planes.
    """

    images: Tensor
    maps: Tensor
    notes: list[str]
    lines: list[list[str]]


def kept(maps: Tensor) -> Tensor:
    """Maps (B, d, h, w) without those planes that would be too many."""
    count = maps.shape[1]
    return maps if count <= MOST_KEPT else maps[:, spread(count, MOST_KEPT).to(maps.device)]


def pictures_by_evidence(images: Tensor, maps: Tensor, evidence: Tensor, planes: Planes) -> Pictures:
    """Choose what is drawn of each image by the evidence of its planes.

    Args:
        images: (B, n, 3, H, W), all planes that there are pictures of.
        maps: (..., B, d * h, w), d planes below one another.
        evidence: (B, d), the share of each plane.
        planes: Which these are.
    """
    of_pictures = evidence[:, spread(evidence.shape[1], images.shape[1])]  # several may belong to one plane of a map
    chosen = leading(of_pictures, planes.kind)
    own = spread(evidence.shape[1], images.shape[1])[chosen]
    apart = maps.unflatten(-2, (evidence.shape[1], -1))
    picked = apart.movedim((-4, -3), (0, 1))[torch.arange(len(own))[:, None], own].movedim((0, 1), (-4, -3))
    words = [
        [plane_words(planes.kind, planes.numbers[k], share) for k, share in zip(row, shares, strict=True)]
        for row, shares in zip(chosen.tolist(), of_pictures.gather(1, chosen).tolist(), strict=True)
    ]
    if planes.kind == "slice":
        return Pictures(of_planes(images, chosen)[:, 0], picked.select(-3, 0), [row[0] for row in words], [])
    if planes.kind == "frame":
        return Pictures(of_planes(images, chosen), picked, [], [])
    short = [[text.removeprefix(f"{planes.kind} ") for text in row] for row in words]
    return Pictures(of_planes(images, chosen), picked, [row[0] for row in words], short)
