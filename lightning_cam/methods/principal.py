"""Methods that show the first principal component of a layer's cells.

Symbols: `A` activations and `G` gradients of the score, both `(B, C, h, w)` float32 on one device. Every
method returns `(B, h, w)`, raw and signed, and adds no forward. A principal component has no sign of its own; the rule
that fixes it is stated at `principal_projection`.

None of them tells which of two objects speaks for the class: of the relevance on two digits in one image, 0.49 to 0.54
was on the one that was asked for, 0.53 of that of the `random` control (docs/methods.md).
"""

import math

import torch
from torch import Tensor

from lightning_cam.methods.reduce import (
    centered_cells,
    dominant_eigenvector,
    principal_projection,
    with_meaningful_sign,
)
from lightning_cam.methods.registry import register_method


@register_method("eigencam", needs={"activations"}, paper="Muhammad & Yeasin 2020, arXiv:2008.00299")
def eigencam(*, activations: Tensor) -> Tensor:
    """The first principal component of the activations, the same for every class.

    `map = X v`, `X` the centered `(h*w, C)` cells of one image and `v` their first right singular vector. It
    asks the score for nothing, so it draws a plausible picture even where a layer has no influence on the
    output. Not for telling why a class was chosen, or which of two objects speaks for it: every class gets
    the same map.
    """
    return principal_projection(activations)


@register_method("eigengradcam", paper="grad-cam's EigenGradCAM, after arXiv:2008.00299")
def eigengradcam(*, activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component of gradient times activation.

    `map = X v` as for `eigencam`, with the cells of `G * A`. Depends on the class through `G`, and yet the map does not
    tell which of two objects speaks for it. Not for reading signs: negative values are the other end of the component,
    not evidence against the class. Worse than random before the MLP of a class-token transformer: blank.
    """
    return principal_projection(gradients * activations)


@register_method("segeigencam", paper="Chung & Ying 2025, doi:10.3390/app15137562")
def segeigencam(*, activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component of the activations weighted by the size of their gradient.

    `map = X v` as for `eigencam`, with the cells of `|G| * A` (eq. 10). Depends on the class through `G`, but not on
    whether a cell speaks for or against it, and the map does not tell which of two objects speaks for it. Worse than
    random before the MLP of a class-token transformer: blank.
    """
    return principal_projection(gradients.abs() * activations)


@register_method("kpcacam", needs={"activations"}, paper="Karmani et al. 2024, arXiv:2410.00267")
def kpcacam(*, activations: Tensor) -> Tensor:
    """The first component of a kernel PCA of the cells, the same for every class.

    `K[i, j] = tanh(x_i . x_j / C + 1)` over the cells `x` less their mean, centered in feature space; the
    map is `sqrt(l) u` with `l`, `u` its largest eigenvalue and eigenvector (the sigmoid kernel of
    scikit-learn's `KernelPCA`, which grad-cam uses). Not for telling why a class was chosen, or which of two
    objects speaks for it, and not for grids of thousands of cells: the kernel has one entry per pair of them.
    """
    with torch.autocast(activations.device.type, enabled=False):
        cells, scale = centered_cells(activations.float())
        cells = cells * scale[:, :, None]
        # tanh(1) is what equal cells have: taken off, as centering does anyway, they leave exact zeros.
        kernel = torch.tanh(cells @ cells.mT / cells.shape[2] + 1) - math.tanh(1)
        kernel = kernel - kernel.mean(dim=1, keepdim=True)
        kernel = kernel - kernel.mean(dim=2, keepdim=True)
        # A sigmoid kernel may have negative eigenvalues; shifted by its norm all are positive and keep their order.
        norm = torch.linalg.matrix_norm(kernel, keepdim=True)
        identity = torch.eye(kernel.shape[1], device=kernel.device)
        vector = dominant_eigenvector(kernel + norm * identity)
        eigenvalue = (vector.mT @ kernel @ vector).clamp_min(0)
        projection = (eigenvalue.sqrt() * vector).squeeze(2)
        return with_meaningful_sign(projection).unflatten(1, activations.shape[2:])
