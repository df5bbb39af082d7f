"""The model's output for a blank image. Use it inside `looking(model)`."""

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_cam.model.output import Forward, Score, logits_of
from lightning_cam.passes.scored import scores_of
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.embedding import PIXELS

_FEW = 2  # images, as many as the search for layers runs: programs of a fixed number take no other


class Blank(NamedTuple):
    """The results of blank images: 0, the mean color of normalized ones.

    Args:
        scores: (1, classes) float32, the logits of one blank image, or (B, classes); with a score (B,).
        embedding: (1, ...), or a row for each plane, what the embedding makes of nothing, its bias; None if it is the
            images, where it would be 0, or where other layers stand before it: behind what is not linear, no share of
            an output is the image's or not.
    """

    scores: Tensor
    embedding: Tensor | None


@torch.no_grad()
def blank_pass(
    forward: Forward, images: Tensor, score: Score | None, embedding: TargetLayer | None, *, every: bool = False
) -> Blank:
    """Run blank images.

    Args:
        forward: What to call with images.
        images: (B, C, H, W), those that are explained.
        score: What is explained in place of a class. It costs a forward of all images: it may know which is which.
        embedding: Where relevance is read.
        every: Whether the logits of each blank image are wanted, as where each is asked of another region.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and _holds_image(args[0], blank):
            # A model that normalizes by itself gives it something else than nothing.
            nothing = module.forward(torch.zeros_like(args[0]), *args[1:], **kwargs)
            found.extend([nothing[: len(nothing) // len(blank)]] if isinstance(nothing, Tensor) else [])

    blank = torch.zeros_like(images if score is not None or every else images[:_FEW])
    with ExitStack() as stack:
        if embedding is not None and embedding.name != PIXELS:
            stack.callback(embedding.module.register_forward_hook(keep, with_kwargs=True).remove)
        output = forward(blank)
    if score is not None:
        scores = scores_of(output, len(images), None, score)[2]
    else:
        scores = logits_of(output, len(blank)).float()[: None if every else 1]
    return Blank(scores, found[-1] if found else None)


def _holds_image(given: Tensor, images: Tensor) -> bool:
    """Whether a layer is given the image itself: all its values in any form, or as many channels, as if padded."""
    is_map = given.ndim == 4 and given.shape[1] == images.shape[1]
    return is_map or given.numel() == len(given) * images[0].numel()
