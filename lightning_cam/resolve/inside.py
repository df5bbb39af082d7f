"""What a search calls: the network as a function of the images that it is given."""

from torch import Tensor, nn

from lightning_cam.model.keep_grad import WithGraphWhereNeeded
from lightning_cam.model.output import Forward, OnCopies
from lightning_cam.observe.views import SeveralViews


def inside_of(model: nn.Module, images: Tensor, forward: Forward | None) -> tuple[Forward, tuple[int, ...]]:
    """A forward to search in, and the shape (C, H, W) of what it takes.

    A layer's layout says where its tokens lie in the images that the network is given, which may be flipped, cut or
    padded; how to get from these to the images themselves is known besides.

    Args:
        model: The module that holds the network.
        images: (B, C, H, W).
        forward: What is called with the images; by default the model.
    """
    views = SeveralViews.of(model, images, model if forward is None else forward)
    plain = views.views[0]
    if plain.inside is None:
        return WithGraphWhereNeeded(OnCopies(views)), tuple(images.shape[1:])
    return WithGraphWhereNeeded(OnCopies(plain.inside)), plain.shape
