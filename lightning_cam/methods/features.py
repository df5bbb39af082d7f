"""Methods that show what features hold, and ask no score: of networks trained without classes, and of any other.

Symbols: `F` the features `(B, C, h, w)` float32 that a network ends with, on their grid, `i` a cell; `c` the class
token there, `(B, C)`, or the mean over the cells where the output reads no such token. They read the shared forward,
and alone they need no graph of it.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.methods.reduce import dominant_eigenvector
from lightning_cam.methods.registry import DoesNotApply, register_method

if TYPE_CHECKING:
    from lightning_cam.resolve.layout import TokenLayout

_COLORS = 3
_DEVIATIONS = 2.0  # of a component that have a full color
_EPS = 1e-6
_STEPS = 48  # of an iteration that converges from 1e-6 in 36


@register_method(
    "cls_attention",
    needs={"last_attention", "class_token", "token_layout"},
    paper="Caron et al. 2021, ICCV, arXiv:2104.14294",
)
def cls_attention(*, last_attention: Tensor, class_token: int | None, token_layout: "TokenLayout") -> Tensor:
    """What the class token attends to in the last block, mean over heads.

    `map[i] = mean_h A[h, c, i]`, never negative; what of the attention goes to the class token itself and to registers
    is left out. Says where the last block gathers from, not what for. Not for convolutional networks, for attention in
    windows and for networks whose output reads no class token.

    Raises:
        DoesNotApply: There is no class token.

    Example:
        >>> from lightning_cam.resolve.layout import TokenLayout
        >>> attention = torch.tensor([[[[0.5, 0.2, 0.3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]])
        >>> cls_attention(last_attention=attention, class_token=0, token_layout=TokenLayout("NLC", (1, 2), 1))
        tensor([[[0.2000, 0.3000]]])
    """
    if class_token is None:
        raise DoesNotApply("its output reads no class token")
    return token_layout.to_grid(last_attention[:, :, class_token].mean(1)[:, :, None])[:, 0]


@register_method(
    "cls_similarity", needs={"features", "summary"}, paper="Caron et al. 2021, ICCV, arXiv:2104.14294, as a picture"
)
def cls_similarity(*, features: Tensor, summary: Tensor) -> Tensor:
    """How much the features of a place are like those that stand for the whole image.

    `map[i] = cos(F[i], c)` in [-1, 1]: similarity to the class token, or to the mean over places in a network without
    one. High where the summary of the image comes from, if the network keeps both in one space. Not for telling what
    a place is like.

    Example:
        >>> features = torch.tensor([[[[1.0, 0.0, -2.0]], [[0.0, 3.0, 0.0]]]])
        >>> cls_similarity(features=features, summary=torch.tensor([[1.0, 0.0]]))
        tensor([[[ 1.,  0., -1.]]])
    """
    return F.cosine_similarity(features, summary[:, :, None, None], dim=1)


def principal_colors(features: Tensor) -> Tensor:
    """The first three principal components of the cells of all images together, as colors.

    With `X` the `(B*h*w, C)` cells less their mean and `v_1, v_2, v_3` its first right singular vectors, a cell's color
    is `x . v_k / (2 s_k)`, `s_k` being the standard deviation of the component: -1 is no red (green, blue), 0 half of
    it, 1 all, and what is beyond is drawn as these. So all images share one basis, and a cell's color says which cells
    of whatever image it is like. Each component has the sign in which the cell that stands out most is positive, see
    `aligned` for what makes looks comparable. A component that cells do not differ in is 0.

    `v_k` come from repeated squaring of the smaller Gram matrix, each of what the ones before have left: nothing waits
    for the device.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 3, h, w) float32, 1 where a component is two standard deviations above its mean.

    Example:
        >>> cells = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 1, 2, 2)
        >>> principal_colors(cells)[0, :, :, 0]
        tensor([[ 0.5000, -0.5000],
                [ 0.0000,  0.0000],
                [ 0.0000,  0.0000]])
    """
    with torch.autocast(features.device.type, enabled=False):
        cells = features.double().movedim(1, -1).flatten(0, -2)
        magnitude = cells.abs().amax()
        cells = cells - cells.mean(0)
        scale = cells.abs().amax()
        # What centering leaves of equal cells is rounding.
        cells = cells / torch.where(scale <= _EPS * magnitude, torch.inf, scale)
        first, colors = None, []
        for _ in range(_COLORS):
            projection = _first_projection(cells)
            length = projection.norm()
            first = length if first is None else first
            unit = projection / torch.where(length <= _EPS * first, torch.inf, length)
            cells = cells - unit[:, None] * (unit @ cells)
            stands_out = torch.where(-unit.amin() > unit.amax(), -unit, unit)
            colors.append(stands_out * (len(cells) ** 0.5 / _DEVIATIONS))
        grid = (len(features), *features.shape[2:])
        return torch.stack([color.view(grid) for color in colors], 1).float()


@register_method("pca", needs={"features"}, whole=principal_colors, paper="Oquab et al. 2024, TMLR, arXiv:2304.07193")
def pca(*, features: Tensor) -> Tensor:
    """The first three principal components of the features as colors: what is like what, over images and looks.

    The components are those of all images together, see `principal_colors`, so this returns the features for them. Like
    colors are like features. Which color a thing has means nothing, and neither do edges of a color where the
    components explain little. Not for telling what the network goes by.
    """
    return features


def aligned(colors: Tensor, before: Tensor) -> Tensor:
    """Colors in the basis of a look before: turned so that the cells of both are as near to each other as they can be.

    Principal components have no sign, they change places where two of them explain alike, and training turns the space
    of features. `R = argmin ||colors R - before||` over all rotations and reflections of the three components
    (Schoenemann 1966, doi:10.1007/BF02289451) takes that away: features that are only turned have the same colors, and
    so have those of a network that has not changed. `R` is the orthogonal factor of `colors^T before`, by Newton and
    Schulz's iteration, so that nothing waits for the device.

    Args:
        colors: (B, 3, h, w) of a look.
        before: (B, 3, h, w) of another one, of the same images.

    Example:
        >>> before = torch.tensor([[[[0.5, -0.5]], [[1.0, 1.0]], [[0.2, 0.3]]]])
        >>> turned = torch.stack([-before[:, 1], before[:, 0], before[:, 2]], 1)
        >>> bool(torch.allclose(aligned(turned, before), before, atol=1e-6))
        True
    """
    with torch.autocast(colors.device.type, enabled=False):
        cells, others = (one.double().movedim(1, -1).flatten(0, -2) for one in (colors, before))
        cross = cells.T @ others
        # A component that one of both looks lacks says nothing of the basis, and keeps its place.
        cross = cross + _EPS * cross.norm().clamp_min(_EPS) * torch.eye(_COLORS, dtype=cross.dtype, device=cross.device)
        basis = cross / cross.norm()
        for _ in range(_STEPS):
            basis = 1.5 * basis - 0.5 * basis @ basis.T @ basis
        turned = (cells @ basis).view(len(colors), *colors.shape[2:], _COLORS).movedim(-1, 1)
    # Of a network that went wrong there is no basis to go on with.
    return torch.where(cross.isfinite().all(), turned.float(), colors)


def _first_projection(cells: Tensor) -> Tensor:
    """(n, C), centered -> (n,): each cell on the first principal component."""
    if cells.shape[0] <= cells.shape[1]:
        vector = dominant_eigenvector((cells @ cells.T)[None])[0, :, 0]
        direction = vector @ cells
        return cells @ (direction / direction.norm().clamp_min(torch.finfo(cells.dtype).tiny))
    return cells @ dominant_eigenvector((cells.T @ cells)[None])[0, :, 0]
