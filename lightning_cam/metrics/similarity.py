"""Similarity of two maps of one image: across epochs, methods, or before and after randomizing weights."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Cosine between two maps, signs included; blind to their magnitude.

    Args:
        maps: `(B, h, w)` raw signed relevance.
        others: `(B, h, w)`, the maps to compare with, image by image.

    Returns:
        `(B,)` in [-1, 1]; 0 where either map is all zero, NaN where either is non-finite.

    Example:
        >>> cosine_similarity(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]]))
        tensor([0.9600])
    """
    return (_unit_length(maps.flatten(1)) * _unit_length(others.flatten(1))).sum(dim=1)


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's correlation: whether two maps rank the cells the same, whatever their values.

    Args:
        maps: `(B, h, w)` raw signed relevance.
        others: `(B, h, w)`, the maps to compare with, image by image.

    Returns:
        `(B,)` in [-1, 1], equal values sharing their mean rank; 0 where either map is constant, NaN where either is
        non-finite.

    Example:
        >>> rank_correlation(torch.tensor([[[1.0, 2.0, 30.0]]]), torch.tensor([[[0.1, 0.2, 0.3]]]))
        tensor([1.0000])
    """
    first, second = _ranks(maps.flatten(1)), _ranks(others.flatten(1))
    correlation = (_unit_length(first) * _unit_length(second)).sum(dim=1)
    finite = maps.flatten(1).isfinite().all(dim=1) & others.flatten(1).isfinite().all(dim=1)
    return torch.where(finite, correlation, torch.nan)


def shared_evidence(maps: Tensor, others: Tensor) -> Tensor:
    """How much of the positive relevance of two maps is at the same places.

    `sum_i min(p[i], q[i])` over the cells of the coarser grid, `p` and `q` the maps' positive relevance divided by its
    sum. What one map sees and the other does not counts against it, wherever it lies.

    Args:
        maps: `(B, h, w)` raw signed relevance.
        others: `(B, h', w')`, the maps to compare with, image by image.

    Returns:
        `(B,)` in [0, 1]; 0 where either map has no positive relevance, NaN where either is non-finite.

    Example:
        >>> shared_evidence(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 1.0]]]))
        tensor([0.7500])
    """
    grid = min(maps.shape[1], others.shape[1]), min(maps.shape[2], others.shape[2])
    shares = []
    for each in (maps, others):
        energy = F.adaptive_avg_pool2d(each.relu(), grid).flatten(1)
        shares.append(energy / energy.sum(1, keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny))
    return torch.minimum(*shares).sum(1)


def _unit_length(rows: Tensor) -> Tensor:
    """Rows of length one; zeros stay zeros, however small or large the others are."""
    tiny = torch.finfo(rows.dtype).tiny
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(tiny)


def _ranks(rows: Tensor) -> Tensor:
    """Centerd ranks within each row, the mean rank for equal values."""
    ordered = rows.sort(dim=1).values
    below = torch.searchsorted(ordered, rows.contiguous())
    up_to = torch.searchsorted(ordered, rows.contiguous(), right=True)
    return (below + up_to).to(rows.dtype) / 2 - rows.shape[1] / 2
