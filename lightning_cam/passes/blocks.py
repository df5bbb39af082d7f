"""Statistics of a model's blocks from the shared pass: how their attention is spread, and outlier tokens."""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

_FEW = 2  # images are looked at


@dataclass
class BlockStatistics:
    """Numbers of each attention, in the order in which they run; each a list of () float32 on the model's device.

    Distance and largest share are about attention over all patches of the grid, and stay empty where it is in windows
    or over fewer keys than queries.

    Args:
        batch_size: Of the pass.
        grid_size: Of the patches.
        attention_entropy: Entropy of what a query attends to, as a fraction of the largest possible: 0 one token, 1 all
            alike; mean over heads and queries.
        attention_distance: Mean distance in cells between a patch and the patches it attends to (Dosovitskiy et al.
            2021, arXiv:2010.11929, fig. 7), mean over heads.
        attention_largest_share: Share of all attention that the patch gets which gets most.
        outlier_token_norm: Norm of the largest patch that comes to the norm before each attention, as a multiple of the
            median patch's (Darcet et al. 2024, arXiv:2309.16588); above 5, tokens stand out.
    """

    batch_size: int
    grid_size: tuple[int, ...]
    attention_entropy: list[Tensor] = field(default_factory=list)
    attention_distance: list[Tensor] = field(default_factory=list)
    attention_largest_share: list[Tensor] = field(default_factory=list)
    outlier_token_norm: list[Tensor] = field(default_factory=list)

    def by_name(self) -> dict[str, Tensor]:
        """By their names, those that there are, (L,) float32; of the tokens no more than of attentions."""
        names = "attention_entropy", "attention_distance", "attention_largest_share", "outlier_token_norm"
        found = {name: getattr(self, name)[: len(self.attention_entropy)] for name in names}
        return {name: torch.stack(values) for name, values in found.items() if values}

    @torch.no_grad()
    def see_tokens(self, tokens: Tensor) -> None:
        """Look at what is normalized, the last time before each attention."""
        patches = self._patches(tokens, 1) if tokens.ndim == 3 and len(tokens) == self.batch_size else None
        if patches is not None:
            norms = patches[:_FEW].float().norm(dim=-1)
            del self.outlier_token_norm[len(self.attention_entropy) :]
            self.outlier_token_norm.append((norms.amax(1) / norms.median(1).values).mean())

    @torch.no_grad()
    def see_fused(self, query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None) -> None:
        """Work out the attention that a fused kernel hides, of a few images."""
        if is_causal or query.shape[-3] != key.shape[-3]:
            return
        rows = self._rows(query)
        query, key = query.detach()[:rows], key.detach()[:rows]
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if mask is not None:
            mask = mask[:rows] if mask.ndim == query.ndim and len(mask) > 1 else mask
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.detach()
        self._note(scores.float().softmax(-1))

    @torch.no_grad()
    def see_weights(self, weights: Tensor) -> None:
        """Look at attention (..., queries, keys) after its softmax, of a few images."""
        self._note(weights.detach()[: self._rows(weights)].float())

    def _note(self, weights: Tensor) -> None:
        keys = weights.shape[-1]
        self.attention_entropy.append(torch.special.entr(weights).sum(-1).mean() / max(math.log(keys), 1e-12))
        special = keys - math.prod(self.grid_size)
        if weights.shape[-2] != keys or not 0 <= special <= 32 or keys == special:
            return
        to_patches = weights[..., special:]
        by_image = to_patches.reshape(min(_FEW, self.batch_size), -1, *to_patches.shape[-2:])  # all heads of each
        self.attention_largest_share.append(by_image.mean((1, 2)).amax(-1).mean())
        among = to_patches[..., special:, :]
        far = (among * _distances(self.grid_size, among.device)).sum(-1) / among.sum(-1).clamp_min(1e-12)
        self.attention_distance.append(far.mean())

    def _rows(self, tensor: Tensor) -> int:
        """Rows of the first axis, which may hold heads or windows too, that belong to the first images."""
        return max(1, len(tensor) * _FEW // self.batch_size)

    def _patches(self, tokens: Tensor, axis: int) -> Tensor | None:
        special = tokens.shape[axis] - math.prod(self.grid_size)
        return tokens.detach().narrow(axis, special, math.prod(self.grid_size)) if 0 <= special <= 32 else None


@lru_cache(maxsize=4)
def _distances(grid_size: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, h * w) float32: between the centers of cells."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid_size)
    places = torch.cartesian_prod(rows, columns)
    return torch.cdist(places, places).to(device)
