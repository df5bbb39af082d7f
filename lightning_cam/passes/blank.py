"""What the model makes of an image that shows nothing. To be used inside `looking(model)`."""

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_cam.model.output import Forward, Score, logits_of, tensors_in
from lightning_cam.passes.scored import scores_of
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.embedding import PIXELS

_FEW = 2  # images, as many as the search for layers runs: programs of a fixed number take no other


class Blank(NamedTuple):
    """What came of blank images: 0, the mean color of normalized ones.

    Args:
        scores: (classes,) float32, the logits of one blank image; with a score (B,).
        embedding: (1, ...), what the embedding makes of nothing, its bias; None if it is the images, where it would be
            0. It is 0 as well where others stand before it that have made something of the blank image: behind what is
            not linear, no share of an output is the image's or not.
    """

    scores: Tensor
    embedding: Tensor | None


@torch.no_grad()
def blank_pass(forward: Forward, images: Tensor, score: Score | None, embedding: TargetLayer | None) -> Blank:
    """Run blank images.

    Args:
        forward: What to call with images.
        images: (B, C, H, W), those that are explained.
        score: What is explained in place of a class. It costs a forward of all images: it may know which is which.
        embedding: Where relevance is read.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        given = next(tensors_in(inputs), None)
        if isinstance(output, Tensor) and given is not None:
            found.append(torch.where(given.any(), 0, output[:1]))  # no question that would wait for the device

    blank = torch.zeros_like(images if score is not None else images[:_FEW])
    with ExitStack() as stack:
        if embedding is not None and embedding.name != PIXELS:
            stack.callback(embedding.module.register_forward_hook(keep).remove)
        output = forward(blank)
    if score is not None:
        scores = scores_of(output, len(images), None, score)[2]
    else:
        scores = logits_of(output, len(blank))[0].float()
    return Blank(scores, found[-1] if found else None)
