"""How concentrated a map is, and how uneven its tokens are. Nothing here needs the position of the object."""

import math

import torch
from torch import Tensor


def entropy(maps: Tensor) -> Tensor:
    """Entropy of the positive relevance, as a fraction of the largest that the grid allows.

    `-sum_i p[i] log p[i] / log(h * w)` with `p = relu(map) / sum(relu(map))`: 0 where one cell holds everything, 1
    where all cells hold the same. Divided by its maximum, it can be compared between grids.

    Args:
        maps: `(B, h, w)` raw signed relevance.

    Returns:
        `(B,)` in [0, 1]. A map without positive relevance points nowhere and counts as evenly spread, 1; on a grid of
        one cell it is 0; a non-finite map gives NaN.

    Example:
        >>> entropy(torch.tensor([[[1.0, 1.0, 0.0, -2.0]]]))
        tensor([0.5000])
    """
    shares = _shares(maps)
    return torch.special.entr(shares).sum(dim=1) / max(math.log(shares.shape[1]), 1e-12)


def gini(maps: Tensor) -> Tensor:
    """Gini index of the positive relevance: 0 for an even map, toward 1 for a sparse one.

    `sum_i (2 i - n - 1) x[i] / (n sum_i x[i])` over the `n` values `x` in rising order, times `n / (n - 1)` so that a
    single lit cell gives exactly 1 on any grid (after Chalasani et al. 2020, arXiv:1810.06583).

    Args:
        maps: `(B, h, w)` raw signed relevance.

    Returns:
        `(B,)` in [0, 1]; 0 for a map without positive relevance and for a grid of one cell; NaN for a non-finite map.

    Example:
        >>> gini(torch.tensor([[[0.0, 0.0, 5.0, -1.0]], [[2.0, 2.0, 2.0, 2.0]]]))
        tensor([1., 0.])
    """
    shares = _shares(maps).sort(dim=1).values
    n = shares.shape[1]
    ranks = torch.arange(1, n + 1, device=maps.device, dtype=maps.dtype)
    return ((2 * ranks - n - 1) * shares).sum(dim=1) / max(n - 1, 1)


def _shares(maps: Tensor) -> Tensor:
    """Positive relevance as a distribution over cells `(B, h*w)`; uniform where there is none."""
    energy = maps.relu().flatten(1)
    # By the maximum first: the sum of tiny or huge maps could leave float32's range.
    largest = energy.amax(dim=1, keepdim=True)
    energy = torch.where(largest == 0, 1.0, energy / largest)
    return energy / energy.sum(dim=1, keepdim=True)


def outlier_token_norm(activations: Tensor) -> Tensor:
    """Norm of the largest token as a multiple of the median token's.

    Large pretrained transformers store global information in a few background tokens of outsized norm, which then
    light up in maps (Darcet et al. 2024, arXiv:2309.16588). Read it on a block's output: a LayerNorm evens norms out.

    Args:
        activations: `(B, C, h, w)`.

    Returns:
        `(B,)`, at least 1: around 2 without outliers, above 5 with them. 1 where all tokens are zero.

    Example:
        >>> outlier_token_norm(torch.tensor([[[[1.0, 1.0, 8.0]]]]))
        tensor([8.])
    """
    norms = activations.float().norm(dim=1).flatten(1)
    largest = norms.amax(dim=1)
    # The upper median: with it an even number of tokens needs no averaging and the ratio is at least 1.
    upper_median = norms.sort(dim=1).values[:, norms.shape[1] // 2]
    return torch.where(largest == 0, 1.0, largest / upper_median)
