"""Methods that show the first principal component of a layer's cells.

Symbols: `A` activations and `G` gradients of the score, both `(B, C, h, w)` float32 on one device. Every
method
returns `(B, h, w)`, raw and signed, and adds no forward. A principal component has no sign of its own; the rule that
fixes it is stated at `principal_projection`.
"""

from torch import Tensor

from lightning_cam.methods.reduce import principal_projection
from lightning_cam.methods.registry import register_method


@register_method("eigencam", needs={"activations"}, paper="Muhammad & Yeasin 2020, arXiv:2008.00299")
def eigencam(*, activations: Tensor) -> Tensor:
    """The first principal component of the activations, whatever the class.

    `map = X v`, `X` the centred `(h*w, C)` cells of one image and `v` their first right singular vector. It
    asks the score for nothing, so it draws a plausible picture even where a layer has no influence on the
    output. Not for telling why a class was chosen: every class gets the same map.
    """
    return principal_projection(activations)


@register_method("eigengradcam", paper="grad-cam's EigenGradCAM, after arXiv:2008.00299")
def eigengradcam(*, activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component of gradient times activation.

    `map = X v` as for `eigencam`, with the cells of `G * A`. Depends on the class through `G`. Not for reading signs:
    negative values are the other end of the component, not evidence against the class.
    """
    return principal_projection(gradients * activations)
