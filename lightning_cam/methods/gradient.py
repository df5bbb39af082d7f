"""Methods that weight activations by their gradients.

Symbols, in every docstring here: `A` activations and `G` gradients of the score, both `(B, C, h, w)`
float32 on one device; `k` a channel, `i`, `j` cells, `Z` the number of cells. Every method returns `(B, h,
w)`, raw and signed, and reads what the shared pass has computed: it adds no forward. `reduce` is the last
step, from `(B, C, h, w)` to `(B, h, w)`; eigen-smoothing passes `principal_projection`.

Where the docstrings say "worse than random", the share of relevance inside the object was below that of the `random`
control in each of three trainings (docs/methods.md). That holds of all of them before the MLP of a class-token
transformer: behind the last attention nothing mixes tokens, `G` is 0 at the patches, and the maps are blank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.methods.reduce import Reduce, channel_sum
from lightning_cam.methods.registry import register_method
from lightning_cam.render.scale import to_unit_interval

_CELLS = (2, 3)


@register_method("hirescam", paper="Draelos & Carin 2020, arXiv:2011.08891")
def hirescam(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Gradient times activation, cell by cell: exact where the rest of the network is linear.

    `map[i] = sum_k G[k, i] * A[k, i]`. Unlike Grad-CAM it keeps which cell a gradient belongs to,
    which is what makes it strong on class-token transformers. Not for comparing layers whose scale differs:
    it is not normalized.

    Example:
        >>> hirescam(activations=torch.tensor([[[[1.0, 2.0]]]]), gradients=torch.tensor([[[[3.0, -1.0]]]]))
        tensor([[[ 3., -2.]]])
    """
    return reduce(gradients * activations)


@register_method("gradcam", paper="Selvaraju et al. 2017, arXiv:1610.02391")
def gradcam(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Channels weighted by their gradient averaged over the image.

    `w[k] = 1/Z sum_i G[k, i]`, `map[i] = sum_k w[k] * A[k, i]` (eqs. 1 and 2, without the ReLU). Not for
    the norm before the last attention of a class-token transformer: averaging the gradient over tokens
    mixes cells that the attention keeps apart, and the share of relevance on the object falls from the 0.76 of
    `hirescam` to 0.53. Worse than random before the MLP of a CoAtNet.

    Example:
        >>> gradcam(activations=torch.tensor([[[[1.0, 2.0]]]]), gradients=torch.tensor([[[[3.0, -1.0]]]]))
        tensor([[[1., 2.]]])
    """
    return reduce(gradients.mean(dim=_CELLS, keepdim=True) * activations)


@register_method("layercam", paper="Jiang et al. 2021, IEEE TIP 30, doi:10.1109/TIP.2021.3089943")
def layercam(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Activations weighted cell by cell by the positive part of their gradient.

    `map[i] = sum_k relu(G[k, i]) * A[k, i]` (without the outer ReLU). The ReLU on the
    gradient is part of the method. Not for activations of both signs where the sign matters: a negative
    activation with a negative gradient speaks for the class and is dropped.

    Example:
        >>> layercam(activations=torch.tensor([[[[1.0, 2.0]]]]), gradients=torch.tensor([[[[3.0, -1.0]]]]))
        tensor([[[3., 0.]]])
    """
    return reduce(gradients.relu() * activations)


@register_method("gradcam_elementwise", paper="grad-cam's GradCAMElementWise")
def gradcam_elementwise(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """The positive products of gradient and activation, cell by cell.

    `map[i] = sum_k relu(G[k, i] * A[k, i])`. The ReLU is part of the method, so the map is never negative.
    Not for asking what speaks against a class: only what speaks for it is left. Worse than random before the MLP of a
    ViT with average pool and of a Swin.

    Example:
        >>> gradcam_elementwise(activations=torch.tensor([[[[1.0, 2.0]]]]), gradients=torch.tensor([[[[3.0, -1.0]]]]))
        tensor([[[3., 0.]]])
    """
    return reduce((gradients * activations).relu())


@register_method("gradcam++", paper="Chattopadhyay et al. 2018, arXiv:1710.11063")
def gradcam_plusplus(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Grad-CAM with positive gradients weighted by how few cells carry them.

    `a[k, i] = G^2 / (2 G^2 + S[k] G^3 + 1e-6)` with `S[k] = sum_j A[k, j]` (eq. 19), 0 where `G` is 0;
    `w[k] = sum_i a[k, i] * relu(G[k, i])`, `map[i] = sum_k w[k] * A[k, i]`. The constant is grad-cam's: with
    gradients far below 1e-3 it dominates and the weights tend to `sum_i relu(G)**3`. The derivation assumes
    activations that are not negative; after a LayerNorm the denominator can come near zero.

    Example:
        >>> gradcam_plusplus(activations=torch.tensor([[[[1.0, 2.0]]]]), gradients=torch.tensor([[[[1.0, 0.0]]]]))
        tensor([[[0.2000, 0.4000]]])
    """
    sums = activations.sum(dim=_CELLS, keepdim=True)
    positive = torch.relu(gradients)  # the others have no weight
    squared = positive.square()
    weights = (squared * positive / (squared * (2 + sums * positive) + 1e-6)).sum(dim=_CELLS, keepdim=True)
    return reduce(weights * activations)


@register_method("xgradcam", paper="Fu et al. 2020, arXiv:2008.02312")
def xgradcam(*, activations: Tensor, gradients: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Channels weighted by their gradient averaged with the activations as weights.

    `w[k] = sum_i G[k, i] * A[k, i] / (sum_j A[k, j] + 1e-7)`, `map[i] = sum_k w[k] * A[k, i]` (the
    constant is grad-cam's). Not for layers whose channels sum to about zero over the image, as a
    LayerNorm's may: the weight of such a channel explodes.

    Example:
        >>> xgradcam(activations=torch.tensor([[[[1.0, 3.0]]]]), gradients=torch.tensor([[[[4.0, 0.0]]]]))
        tensor([[[1., 3.]]])
    """
    sums = activations.sum(dim=_CELLS, keepdim=True)
    weights = (gradients * activations / (sums + 1e-7)).sum(dim=_CELLS, keepdim=True)
    return reduce(weights * activations)


@register_method(
    "shapleycam",
    needs={"activations", "gradients", "hvp"},
    cost="0, plus a second backward pass through what follows the target layer",
    paper="Cai 2025, arXiv:2501.06261",
)
def shapleycam(*, activations: Tensor, gradients: Tensor, hvp: Tensor, reduce: Reduce = channel_sum) -> Tensor:
    """Grad-CAM with a second-order correction of the gradient, after the Shapley value of a channel.

    `w[k] = 1/Z sum_i (G - H A / 2)[k, i]`, `map[i] = sum_k w[k] * A[k, i]`, with `H A` the Hessian-vector
    product `hvp` of the score at `A`. Where what follows is linear in `A`, `H` is 0 and this is Grad-CAM,
    with its weakness on class-token transformers. Worse than random before the MLP of a Swin and of a CoAtNet.

    Example:
        >>> a, g = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
        >>> shapleycam(activations=a, gradients=g, hvp=torch.tensor([[[[2.0, 2.0]]]]))
        tensor([[[1., 2.]]])
    """
    weights = (gradients - 0.5 * hvp).mean(dim=_CELLS, keepdim=True)
    return reduce(weights * activations)


@register_method("refinecam", needs={"layer_activations", "layer_gradients", "image_size"}, paper="arXiv:2605.14641")
def refinecam(
    *,
    layer_activations: list[Tensor],
    layer_gradients: list[Tensor],
    image_size: tuple[int, int],
    reduce: Reduce = channel_sum,
) -> Tensor:
    """The product of the layers' Grad-CAM++ maps: what all layers agree on.

    `map = prod_l unit(resize(unit(relu(gradcam++_l))))`, `unit` scaling each image's map to [0, 1],
    `resize` bilinear to the image. Multiplying needs maps of one size and range, so unlike the others it is
    scaled and has the size of the image, `(B, H, W)`. With one layer it is Grad-CAM++. Not with a layer
    whose map is blank, as before the MLP of a class-token transformer: it blanks the product.
    """
    product = layer_activations[0].new_ones(())
    for activations, gradients in zip(layer_activations, layer_gradients, strict=True):
        maps = gradcam_plusplus(activations=activations, gradients=gradients, reduce=reduce)
        resized = F.interpolate(
            to_unit_interval(maps.relu())[:, None], size=image_size, mode="bilinear", align_corners=False
        )
        product = product * to_unit_interval(resized[:, 0])
    return product
