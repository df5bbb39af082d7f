"""What images with planes are: volumes, videos, or bags, in which the order of the images makes no difference."""

import torch
from torch import Tensor, nn

from lightning_cam.model.output import Forward, OnCopies, Score, forward_of_rows, tensors_in
from lightning_cam.model.untouched import looking
from lightning_cam.resolve.jitter import jittered

_FEW = 2
_SAME = 1e-3  # of the difference from the output for blank images; rounding leaves 1e-6, in half precision 1e-3


def kind_of_planes(model: nn.Module, images: Tensor, forward: Forward, score: Score | None = None) -> str:
    """What images consist of: instances of a bag if their order makes no difference, frames if they have colors.

    Seen in three forwards of two images: as they are, with their planes in another order, and of blank ones.

    Args:
        model: The module that holds the network; left untouched.
        images: (B, C, D, H, W), as they are shown.
        forward: What is called with them.
        score: What is explained of the output; by default its logits.

    Returns:
        "instance", "frame" or "slice".

    Example:
        >>> bag = torch.rand(2, 3, 4, 8, 8)
        >>> kind_of_planes(nn.Identity(), bag, lambda x: x.mean((2, 3, 4)))
        'instance'
        >>> kind_of_planes(nn.Identity(), bag, lambda x: x[:, :, 0].mean((2, 3)))
        'frame'
    """
    few, count = images[:_FEW].detach(), images.shape[2]
    order = torch.cat([torch.arange(1, count, 2), torch.arange(0, count, 2)]).to(few.device)
    run = OnCopies(forward_of_rows(forward, slice(_FEW)))
    with looking(model), torch.no_grad(), jittered(model):  # embeddings of time that begin at zero tell no order
        plain, moved, blank = (
            _explained(run(given), score) for given in (few, few.index_select(2, order), torch.zeros_like(few))
        )
    if count > 1 and (plain - moved).abs().max() < _SAME * (plain - blank).abs().max():
        return "instance"
    return "frame" if images.shape[1] == 3 else "slice"


def _explained(output: object, score: Score | None) -> Tensor:
    if score is not None:
        return score(output).float()
    return next(tensor for tensor in tensors_in(output) if tensor.is_floating_point()).float()
