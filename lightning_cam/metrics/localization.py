"""How much of a map is on the object: share of relevance inside, pointing game.

All work on the token grid. Where the object is, is said once as the coverage `(B, h, w)`: the fraction of each cell's
area that a box or mask covers. In each metric a non-finite map gives NaN, so that it is never taken for a bad but
valid one; a box that lies outside the image, or is empty, covers nothing and gives 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def box_coverage(boxes: Tensor, grid_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Fraction of each cell's area that lies in the image's box.

    Args:
        boxes: `(B, 4)`, integer or float: x1, y1, x2, y2 in pixels of the image, x2 and y2 exclusive.
        grid_size: rows and columns of the token grid.
        image_size: height and width of the image in pixels.

    Returns:
        `(B, h, w)` float32 in [0, 1] on the device of `boxes`. What lies outside the image counts nowhere.

    Raises:
        ValueError: if `boxes` is not `(B, 4)`.

    Example:
        >>> box_coverage(torch.tensor([[2, 0, 8, 4]]), (2, 2), (8, 8))
        tensor([[[0.5000, 1.0000],
                 [0.0000, 0.0000]]])
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: expected (B, 4), x1, y1, x2, y2 in pixels, got shape {tuple(boxes.shape)}")
    x1, y1, x2, y2 = boxes.float().unbind(dim=1)
    rows = _interval_coverage(y1, y2, grid_size[0], image_size[0])
    columns = _interval_coverage(x1, x2, grid_size[1], image_size[1])
    return rows[:, :, None] * columns[:, None, :]


def _interval_coverage(start: Tensor, end: Tensor, cells: int, length: int) -> Tensor:
    """Fraction of each of `cells` equal parts of [0, length] covered by [start, end]: `(B, cells)`."""
    edges = torch.arange(cells + 1, device=start.device) * (length / cells)
    overlap = torch.minimum(end[:, None], edges[1:]) - torch.maximum(start[:, None], edges[:-1])
    return overlap.clamp_min(0) / (length / cells)


def mask_coverage(masks: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Fraction of each cell's pixels that lie in the image's mask.

    Args:
        masks: `(B, H, W)`, any dtype; pixels that are not 0 belong to the object.
        grid_size: rows and columns of the token grid. Where they do not divide H and W, neighboring cells share
            the pixels on their border, as in adaptive pooling.

    Returns:
        `(B, h, w)` float32 in [0, 1] on the device of `masks`.

    Raises:
        ValueError: if `masks` is not `(B, H, W)`.

    Example:
        >>> mask_coverage(torch.tensor([[[0, 2], [0, 2], [0, 2], [0, 0]]]), (2, 2))
        tensor([[[0.0000, 1.0000],
                 [0.0000, 0.5000]]])
    """
    if masks.dim() != 3:
        raise ValueError(f"masks: expected (B, H, W), got shape {tuple(masks.shape)}")
    return F.adaptive_avg_pool2d((masks != 0).float(), grid_size)


def share_inside(maps: Tensor, coverage: Tensor) -> Tensor:
    """Share of the positive relevance that lies inside the object (energy-based pointing game).

    `sum_i relu(map[i]) * coverage[i] / sum_i relu(map[i])` (Wang et al. 2020, arXiv:1910.01279, with a
    cell's relevance spread evenly over its area). Relevance spread at random scores the object's share of the image.

    Args:
        maps: `(B, h, w)` raw signed relevance.
        coverage: `(B, h, w)` from `box_coverage` or `mask_coverage`.

    Returns:
        `(B,)` in [0, 1]; 0 for a map without positive relevance.

    Example:
        >>> share_inside(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[1.0, 0.0, 1.0]]]))
        tensor([0.7500])
    """
    energy = maps.relu()
    total = energy.sum(dim=(1, 2))
    return (energy * coverage).sum(dim=(1, 2)) / total.clamp_min(torch.finfo(maps.dtype).tiny)


def pointing_game(maps: Tensor, coverage: Tensor) -> Tensor:
    """Whether the cell with the highest relevance lies on the object.

    A hit is a cell covered at least half as much as the best covered one, so that an object smaller than a cell can
    be hit too (after Zhang et al. 2016, arXiv:1608.00507; a cell stands in for their tolerance of 15 pixels).

    Args:
        maps: `(B, h, w)` raw signed relevance. The first cell counts where several share the maximum.
        coverage: `(B, h, w)` from `box_coverage` or `mask_coverage`.

    Returns:
        `(B,)` float32: 1 for a hit, 0 for a miss and for a map without positive relevance.

    Example:
        >>> pointing_game(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[0.9, 1.0, 0.0]]]))
        tensor([1.])
    """
    flat = maps.flatten(1)
    peak = flat.argmax(dim=1, keepdim=True)
    covered = coverage.flatten(1)
    at_peak = covered.gather(1, peak).squeeze(1)
    best = covered.amax(dim=1)
    hit = (at_peak >= best / 2) & (best > 0) & (flat.amax(dim=1) > 0)
    return torch.where(flat.isfinite().all(dim=1), hit.float(), torch.nan)
