"""CrossFormer (Wang et al., ICLR 2022, arXiv:2108.00154), compact: a hierarchical transformer without a class token.

Tokens are embedded at several scales at once, and attend in turn to their neighbors and to tokens far away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn


class CrossScaleEmbedding(nn.Module):
    """Convolutions of several kernel sizes and one stride, side by side (section 3.1).

    The larger the kernel, the fewer channels it gives, as it costs more: a half, a quarter, an eighth and the rest.

    Args:
        in_channels: Channels in.
        out_channels: Channels out, of all kernels together.
        kernel_sizes: From the smallest; each is the stride plus an even number.
        stride: Pixels or tokens from one to the next.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int], stride: int) -> None:
        super().__init__()
        shares = [out_channels // 2 ** min(i + 1, len(kernel_sizes) - 1) for i in range(len(kernel_sizes))]
        self.projections = nn.ModuleList(
            nn.Conv2d(in_channels, share, size, stride, padding=(size - stride) // 2)
            for share, size in zip(shares, kernel_sizes, strict=True)
        )

    def forward(self, grid: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        return torch.cat([projection(grid) for projection in self.projections], dim=1)


class DynamicPositionBias(nn.Module):
    """A small network from the offset between two tokens to a bias of their attention (section 3.2.2).

    Args:
        width: Of its hidden layers.
        num_heads: Biases per offset.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, width)]
        for _ in range(2):
            layers += [nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)]
        self.network = nn.Sequential(*layers, nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, num_heads))

    def forward(self, height: int, width: int) -> Tensor:
        """The bias (heads, N, N) of the N = height * width tokens of a group for one another."""
        weight = self.network[0].weight
        rows, columns = (torch.arange(1 - size, size, device=weight.device) for size in (height, width))
        offsets = torch.cartesian_prod(rows, columns).to(weight.dtype)
        biases = self.network(offsets).view(2 * height - 1, 2 * width - 1, -1)
        y, x = torch.meshgrid(rows[height - 1 :], columns[width - 1 :], indexing="ij")
        y, x = y.flatten(), x.flatten()
        found = biases[y[:, None] - y + height - 1, x[:, None] - x + width - 1]
        return found.permute(2, 0, 1)


class Attention(nn.Module):
    """Self-attention within groups of tokens.

    Args:
        dim: Channels.
        num_heads: Heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.position_bias = DynamicPositionBias(max(dim // 4, 8), num_heads)

    def forward(self, groups: Tensor) -> Tensor:
        """From (B, groups, h, w, C) to the same."""
        _, _, height, width, _ = groups.shape
        tokens = groups.flatten(2, 3)
        # (3, B, groups, heads, N, C / heads)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.position_bias(height, width)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(2, 3).flatten(3)).view_as(groups)


class Block(nn.Module):
    """Attention among neighbors or among distant tokens, then an MLP, each after a norm (section 3.2.1).

    Args:
        dim: Channels.
        num_heads: Heads.
        grid_size: Rows and columns of tokens.
        group_size: Rows and columns of a group.
        distant: Whether a group holds tokens spread evenly over the image, or neighbors.
    """

    def __init__(self, dim: int, num_heads: int, grid_size: int, group_size: int, distant: bool) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.group_size = group_size
        self.distant = distant
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """From (B, H * W, C) to the same."""
        tokens = tokens + self._attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        count, size = self.grid_size // self.group_size, self.group_size
        if self.distant:  # rows (size, count): every count-th token is of one group
            grid = tokens.unflatten(1, (size, count, size, count)).permute(0, 2, 4, 1, 3, 5)
            mixed = self.attn(grid.flatten(1, 2)).unflatten(1, (count, count))
            return mixed.permute(0, 3, 1, 4, 2, 5).flatten(1, 4)
        grid = tokens.unflatten(1, (count, size, count, size)).transpose(2, 3)
        mixed = self.attn(grid.flatten(1, 2)).unflatten(1, (count, count))
        return mixed.transpose(2, 3).flatten(1, 4)


class CrossFormer(nn.Module):
    """Stages of blocks, each beginning with a cross-scale embedding; the mean over tokens is classified.

    Args:
        img_size: Height and width of the images; after each stage's stride a multiple of `group_size`.
        num_classes: Number of classes.
        dims: Channels of each stage.
        depths: Blocks of each stage, neighbors and distant tokens in turn.
        num_heads: Heads of each stage.
        group_size: Rows and columns of a group.

    Raises:
        ValueError: A stage's grid is no multiple of the group.

    Example:
        >>> model = CrossFormer(img_size=56, num_classes=10, dims=(16, 32), depths=(2, 2), num_heads=(2, 4))
        >>> model(torch.zeros(2, 3, 56, 56)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        img_size: int = 224,
        num_classes: int = 1000,
        *,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (1, 1, 8, 6),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        group_size: int = 7,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList()
        self.stages = nn.ModuleList()
        grid, channels = img_size, 3
        for index, (dim, depth, heads) in enumerate(zip(dims, depths, num_heads, strict=True)):
            stride = 4 if index == 0 else 2
            grid //= stride
            if grid == 0 or grid % group_size:
                raise ValueError(
                    f"img_size {img_size} gives stage {index} {grid}×{grid} tokens, no multiple of {group_size}"
                )
            kernels = (4, 8, 16, 32) if index == 0 else (2, 4)
            self.embeddings.append(CrossScaleEmbedding(channels, dim, kernels, stride))
            blocks = [Block(dim, heads, grid, group_size, distant=i % 2 == 1) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            channels = dim
        self.norm = nn.LayerNorm(channels)
        self.avgpool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """From images (B, 3, H, W) to logits (B, num_classes)."""
        grid = images
        for embedding, stage in zip(self.embeddings, self.stages, strict=True):
            grid = embedding(grid)
            tokens = stage(grid.flatten(2).transpose(1, 2))
            grid = tokens.transpose(1, 2).unflatten(2, grid.shape[2:])
        tokens = self.norm(grid.flatten(2).transpose(1, 2))
        return self.head(self.avgpool(tokens.transpose(1, 2)).flatten(1))


@register_model
def crossformer(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """What `timm.create_model("crossformer")` calls; the defaults are the paper's CrossFormer-T."""
    if pretrained:
        raise ValueError("pretrained: there are no weights for this model")
    known = {
        key: value
        for key, value in kwargs.items()
        if key not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    }
    return CrossFormer(**known)
