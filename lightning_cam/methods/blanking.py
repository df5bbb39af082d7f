"""Methods that compare the image with a blank one, at once or cell by cell: slow references for the other methods.

Symbols: `x` the image, `x0` the blank one (0, the mean color of normalized images), `s` the score, `i` a cell of the
token grid. They return `(B, h, w)`, raw and signed, on the grid of the last target layer.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.methods.perturbation import MICRO_BATCH, rows_of
from lightning_cam.methods.registry import register_method

if TYPE_CHECKING:
    from lightning_cam.resolve.layout import TokenLayout

STEPS = 32


@register_method(
    "occlusion",
    needs={"images", "scores", "score_images", "token_layout"},
    cost="one per cell",
    paper="Zeiler & Fergus 2014, ECCV, arXiv:1311.2901",
)
def occlusion(
    *,
    images: Tensor,
    scores: Tensor,
    score_images: Callable[[Tensor, Tensor], Tensor],
    token_layout: "TokenLayout",
    micro_batch: int = MICRO_BATCH,
) -> Tensor:
    """How much the score drops when a cell is blanked.

    `map[i] = s(x) - s(x with cell i blank)`. Says what one cell is worth as long as all others are there: not for
    evidence that several cells hold alike, each of which can be missed.
    """
    height, width = token_layout.grid_size
    lost = []
    for image, cell in rows_of(len(images), height * width, micro_batch, images.device):
        hole = (cell[:, None] == torch.arange(height * width, device=cell.device)).view(-1, 1, height, width)
        kept = 1 - F.interpolate(hole.to(images.dtype), size=images.shape[-2:], mode="nearest-exact")
        lost.append(scores[image] - score_images(images[image] * kept, image).float())
    return torch.cat(lost).view(len(images), height, width)


@register_method(
    "integrated_gradients",
    needs={"images", "gradient_images", "token_layout"},
    cost=f"{STEPS}, plus as many backward passes through the whole model",
    paper="Sundararajan et al. 2017, ICML, arXiv:1703.01365",
)
def integrated_gradients(
    *,
    images: Tensor,
    gradient_images: Callable[[Tensor, Tensor], Tensor],
    token_layout: "TokenLayout",
    steps: int = STEPS,
) -> Tensor:
    """The gradient along the path from a blank image to the image, which adds up to the difference of their scores.

    `(x - x0) * mean_t ds/dx(x0 + t (x - x0))`, `t` in the middle of each of `steps` parts of [0, 1], summed over
    channels and the pixels of each cell. Not for saturated models with few steps: what happens between two of them is
    not seen.
    """
    image = torch.arange(len(images), device=images.device)
    total = torch.zeros_like(images, dtype=torch.float32)
    for step in range(steps):
        total += gradient_images(images * ((step + 0.5) / steps), image)
    relevance = (images.float() * total).sum(dim=1) / steps
    height, width = token_layout.grid_size
    # Pixels on the border of two cells belong to the nearest one, as in `occlusion`.
    rows = _cell_of(images.shape[2], height, images.device)
    columns = _cell_of(images.shape[3], width, images.device)
    return torch.einsum("byx,yh,xw->bhw", relevance, rows, columns)


def _cell_of(pixels: int, cells: int, device: torch.device) -> Tensor:
    """(pixels, cells) float32, 1 where a pixel belongs to a cell."""
    index = torch.arange(cells, dtype=torch.float32, device=device)
    return (F.interpolate(index[None, None], size=pixels, mode="nearest-exact")[0, 0, :, None] == index).float()
