"""Methods specific to transformers: they read attention, not a layer's activations.

Symbols: `A_l` the attention of block `l` after the softmax, `(B, heads, N, N)` with queries in rows, `E_h`
the mean over heads, `r` the share `(B, N)` of each token in what the head reads (all on the class token, or
even over the patches), `I` the identity. Each is called once for the model and returns `(B, h, w)` float32
on the token grid, never negative. All ask for attention over all tokens: where it stays inside windows, or
the grid shrinks between blocks (Swin and other pyramids), the blocks' matrices cannot be multiplied or
averaged, and the methods do not apply.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cam.methods.registry import register_method

if TYPE_CHECKING:
    from lightning_cam.resolve.layout import TokenLayout


@register_method(
    "attention_rollout",
    needs={"attentions", "readout", "token_layout"},
    cost="0, plus attention recomputed where it is fused",
    paper="Abnar & Zuidema 2020, arXiv:2005.00928",
)
def attention_rollout(*, attentions: list[Tensor], readout: Tensor, token_layout: "TokenLayout") -> Tensor:
    """Attention multiplied through all blocks, with half of each token's weight staying on the token.

    `R = prod_l (E_h A_l + I) / 2`, last block leftmost; the map is `r R` at the patches. The same for every
    class, and blind to what the values and the MLPs do with what is attended. Not for telling why a class
    was chosen.
    """
    relevance = readout[:, None, :]
    for attention in reversed(attentions):
        relevance = (relevance @ attention.mean(dim=1) + relevance) / 2
    return _at_patches(relevance.squeeze(1), token_layout)


@register_method(
    "gae",
    needs={"attentions", "attention_gradients", "readout", "token_layout"},
    cost="0, plus one backward pass through the whole model",
    paper="Chefer et al. 2021, ICCV, arXiv:2103.15679",
)
def gae(
    *, attentions: list[Tensor], attention_gradients: list[Tensor], readout: Tensor, token_layout: "TokenLayout"
) -> Tensor:
    """Attention weighted by its gradient and followed through all blocks (generic attention explainability).

    `R = I`, then block by block `R <- R + E_h relu(G_l * A_l) R`, `G_l = d score / d A_l` (eqs. 5 and 6); the map is
    `r (R - I)` at the patches: the identity only adds what is the same for all of them. Speaks of tokens at the input,
    through all blocks at once: not for asking what one layer knows.
    """
    readout = readout[:, None, :]
    relevance = torch.zeros_like(readout)
    for attention, gradient in zip(reversed(attentions), reversed(attention_gradients), strict=True):
        relevance = relevance + (relevance + readout) @ (gradient * attention).relu().mean(dim=1)
    return _at_patches(relevance.squeeze(1), token_layout)


@register_method(
    "legrad",
    needs={"block_attention_gradients", "token_layout"},
    cost="0, plus one backward pass through each block with the head",
    paper="Bousselham et al. 2025, ICCV, arXiv:2404.03214",
)
def legrad(*, block_attention_gradients: list[Tensor], token_layout: "TokenLayout") -> Tensor:
    """How much each block's score would rise if more attention went to a patch.

    `map[j] = mean_l mean_h mean_i relu(d s_l / d A_l[h, i, j])` over blocks, heads and queries, at the
    patches; `s_l` is the score of block `l`'s own output, its tokens averaged and given to the final norm
    and the head. Not for models whose head does not understand the earlier blocks' features: their scores
    mean little there.
    """
    per_block = [gradient.relu().mean(dim=(1, 2)) for gradient in block_attention_gradients]
    return _at_patches(torch.stack(per_block).mean(dim=0), token_layout)


def _at_patches(relevance: Tensor, token_layout: "TokenLayout") -> Tensor:
    """`(B, N)` over tokens -> `(B, h, w)`."""
    return token_layout.to_grid(relevance[:, :, None]).squeeze(1)
