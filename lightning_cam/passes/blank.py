"""What the model makes of an image that shows nothing. To be used inside `looking(model)`."""

import torch
from torch import Tensor

from lightning_cam.model.output import Forward, Score, logits_of
from lightning_cam.passes.scored import scores_of

_FEW = 2  # images, as many as the search for layers runs: programs of a fixed number take no other


@torch.no_grad()
def blank_scores(forward: Forward, images: Tensor, score: Score | None) -> Tensor:
    """Scores of blank images: 0, the mean color of normalized ones.

    Args:
        forward: What to call with images.
        images: (B, C, H, W), those that are explained.
        score: What is explained in place of a class.

    Returns:
        (classes,) float32, the logits of one blank image; with a score (B,), which costs a forward of them all: it may
        know which image is which.
    """
    if score is not None:
        return scores_of(forward(torch.zeros_like(images)), len(images), None, score)[2]
    few = images[:_FEW]
    return logits_of(forward(torch.zeros_like(few)), len(few))[0].float()
