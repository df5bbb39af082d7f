"""Methods that follow the score down through the whole depth, to where tokens begin.

Symbols: `E` the embedding `(B, C, h, w)` float32 (the output of the patch embedding in a plain vision transformer)
beyond its bias, which is the same for all images and says nothing of this one; `G` what a backward pass brings there in
which some operations follow rules of their own, so that relevance is conserved: what flows out of an operation is what
flowed into it. Every method returns `sum_k E[k, i] * G[k, i]`, raw and signed, `(B, h, w)` on the grid of the
embedding, added up in cells so that neither side has more than 28. All add a backward through the whole model, and
share the forward pass and its graph with the other methods.
"""

from math import ceil

from torch import Tensor

from lightning_cam.methods.cells import shared_out
from lightning_cam.methods.registry import register_method

_MOST_CELLS = 28  # along each side
_COST = "0, plus one backward pass through the whole model"


@register_method(
    "attnlrp",
    needs={"embedding", "attnlrp_gradients"},
    cost=_COST,
    paper="Achtibat et al. 2024, ICML, arXiv:2402.05602",
)
def attnlrp(*, embedding: Tensor, attnlrp_gradients: Tensor) -> Tensor:
    """Relevance split between the factors of each product, from the score down to the patches.

    Norm statistics are held fixed (prop. 3.4), activation functions pass relevance on as it is (eq. 9), and each factor
    of a product, queries and keys, attention weights and values, gets half of it (prop. 3.3); a softmax keeps its
    gradient (prop. 3.1). Linear layers follow the 0-rule, not the gamma-rule that the paper tunes for vision
    transformers. Leads by the measurements of docs/methods.md. Not for telling what the last block still sees: it asks
    the whole depth.

    Example:
        >>> import torch
        >>> attnlrp(embedding=torch.tensor([[[[1.0, 2.0]]]]), attnlrp_gradients=torch.tensor([[[[3.0, -1.0]]]]))
        tensor([[[ 3., -2.]]])
    """
    return _in_cells(embedding, attnlrp_gradients)


@register_method(
    "libragrad",
    needs={"embedding", "libragrad_gradients"},
    cost=_COST,
    paper="Mehri et al. 2025, CVPR, arXiv:2411.16760",
)
def libragrad(*, embedding: Tensor, libragrad_gradients: Tensor) -> Tensor:
    """Input times gradient, with the paths pruned whose gradients are unbalanced.

    Norm statistics, gates of activation functions and attention weights are held fixed; other products share their
    relevance evenly. Not for telling classes apart whose evidence is where the model attends to: queries and keys get
    nothing.
    """
    return _in_cells(embedding, libragrad_gradients)


@register_method(
    "lrp_ln", needs={"embedding", "lrp_ln_gradients"}, cost=_COST, paper="Ali et al. 2022, ICML, arXiv:2202.07304"
)
def lrp_ln(*, embedding: Tensor, lrp_ln_gradients: Tensor) -> Tensor:
    """Conservative propagation with only the LN-rule: norm statistics are held fixed, the rest is the gradient.

    `LRP (LN)` in the paper. Not conservative through attention, whose products count what they multiply twice.
    """
    return _in_cells(embedding, lrp_ln_gradients)


@register_method(
    "lrp_ah_ln", needs={"embedding", "lrp_ah_ln_gradients"}, cost=_COST, paper="Ali et al. 2022, ICML, arXiv:2202.07304"
)
def lrp_ah_ln(*, embedding: Tensor, lrp_ah_ln_gradients: Tensor) -> Tensor:
    """Conservative propagation: norm statistics and attention weights are held fixed.

    `LRP (AH+LN)` in the paper (eqs. 9 and 10). Queries and keys get nothing, as with `libragrad`.
    """
    return _in_cells(embedding, lrp_ah_ln_gradients)


def _in_cells(embedding: Tensor, gradients: Tensor) -> Tensor:
    """Relevance `(B, h, w)`, summed over channels and in cells where the grid is finer than a record needs."""
    relevance = (embedding * gradients).sum(dim=1)
    height, width = relevance.shape[-2:]  # each plane of a volume by itself
    side = ceil(max(height, width) / _MOST_CELLS)
    return shared_out(relevance, (ceil(height / side), ceil(width / side)))
