"""What models state about the grid of their tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_cam.resolve.layout import TokenLayout


def stated_layout(model: nn.Module, name: str, options: list[TokenLayout]) -> TokenLayout | None:
    """The layout that a module above the layer states: timm's `patch_embed.grid_size`, `num_prefix_tokens`.

    Args:
        model: The model.
        name: Of the layer.
        options: What the shape allows.
    """
    for parent in _parents(model, name):
        prefix = getattr(parent, "num_prefix_tokens", None)
        grid = getattr(getattr(parent, "patch_embed", None), "grid_size", None)
        if isinstance(prefix, int) and isinstance(grid, tuple):
            stated = TokenLayout("NLC", (int(grid[0]), int(grid[1])), prefix)
            return stated if stated in options else None
    return None


def table_of_offsets(model: nn.Module, name: str, options: list[TokenLayout]) -> TokenLayout | None:
    """The layout whose distances an attention next to the layer has written down.

    LeViT and its kin keep an integer table (tokens, tokens) of which pairs of tokens share a bias: those with the
    same distance in rows and columns. It tells the grid and its order where their attention drowns any pattern.

    Args:
        model: The model.
        name: Of the layer.
        options: What the shape allows.
    """
    for parent in _parents(model, name):
        tables = [b for b in parent.buffers() if not b.is_floating_point() and b.ndim == 2]
        for option in options:
            if any(_has_distances_of(table, option) for table in tables):
                return option
        if tables:
            return None
    return None


def _has_distances_of(table: Tensor, layout: TokenLayout) -> bool:
    h, w = layout.grid_size
    if table.shape != (h * w, h * w) or layout.num_prefix_tokens or layout.num_suffix_tokens:
        return False
    if layout.format not in ("NLC", "LNC", "NHWC", "NCHW", "B C (H W)", "(B H W) C"):
        return False
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    distance = (place[:, None] - place[None]).abs()
    expected = (distance[..., 0] * w + distance[..., 1]).flatten()
    pairs = torch.stack([table.cpu().flatten().long(), expected], 1).unique(dim=0)
    # One to one: equal entries for equal distances, different ones for different ones.
    return len(pairs) == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique())


def _parents(model: nn.Module, name: str) -> Iterator[nn.Module]:
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)
