"""Where tokens begin: the layer at which relevance through the whole depth is read."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.private import averages_over_places
from lightning_cam.model.untouched import looking
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.extent import extent_of
from lightning_cam.resolve.gates import gates, is_map, last_map_of_planes
from lightning_cam.resolve.graph import ancestors
from lightning_cam.resolve.jitter import jittered
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.measure import layouts
from lightning_cam.resolve.search import BATCH, Search
from lightning_cam.resolve.watch import Call

_COARSEST = 16.5  # pixels per cell; a hybrid whose attention begins on coarser maps is read at an earlier one
_MOST_SEARCHES = 3  # for a layout that is not that of a convolution
PIXELS = ""  # name of the place where no tokens begin before the first attention: the images themselves


def find_embedding(model: nn.Module, images: Tensor, *, forward: Callable[[Tensor], Any] | None = None) -> TargetLayer:
    """Find the last layer before the first token mixing that all information about an image passes through.

    In a plain vision transformer that is the patch embedding, in a hierarchical one that of the finest grid, in a
    hybrid the last map of convolutions at 16 pixels a cell or finer, before one is pooled over the whole image and
    given back to all places (squeeze-and-excitation). What goes around a layer (a second branch, a residual connection)
    is read off the graph of one forward of two noise images.

    Args:
        model: The module whose submodules are searched, in any mode; left untouched.
        images: (B, C, H, W), normalized, on the model's device, of whose shape, dtype and range the noise is.
        forward: What to call with the images; by default `model`.

    Returns:
        The layer and its layout; where there is none, one named `PIXELS` with the layout of the images.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> print(find_embedding(model, torch.zeros(1, 3, 224, 224)))
        patch_embed.proj (Conv2d): NCHW 14×14
    """
    with ExitStack() as stack:
        for context in (looking(model), torch.enable_grad(), jittered(model)):
            stack.enter_context(context)
        return embedding_in(model, Search.of(model, images, model if forward is None else forward))


def embedding_in(model: nn.Module, search: Search) -> TargetLayer:
    """The layer that `find_embedding` returns, of a model that was seen at work."""
    size = tuple(search.images.shape[2:])
    found = next(_found(model, search, size), None)
    return found or TargetLayer(PIXELS, nn.Identity(), TokenLayout("NCHW" if len(size) == 2 else "B C D H W", size))


def _found(model: nn.Module, search: Search, image_size: tuple[int, ...]) -> Iterator[TargetLayer]:
    run, base, trace = search.run, search.images, search.trace
    first = min((mixing.time for mixing in trace.mixings if mixing.output.requires_grad), default=0)
    if last_map_of_planes(trace, base) is not None:  # instances of a bag are mixed, not the places in them
        return
    passes = [call for call in gates(trace, base, before=first) if not _has_pooled(call.output)]
    maps = [call for call in passes if is_map(call, trace, BATCH)]
    for call in sorted(maps, key=lambda call: not _is_fine(_shape(call)[2:], image_size)):
        grid = _shape(call)[2:]
        layout = TokenLayout("NCHW" if len(grid) == 2 else "B C D H W", grid)
        yield TargetLayer(call.name, call.module, layout, extent_of(search, call.module, layout))
    others = [call for call in passes if call not in maps and len(_shape(call)) > 2]
    for call in others[:_MOST_SEARCHES]:
        answer = layouts(model, run, base, trace, [call])[0].answer
        if answer is not None and answer.axes[0] in ("B", "BD"):
            yield TargetLayer(call.name, call.module, answer, extent_of(search, call.module, answer))


def _has_pooled(output: Tensor | None) -> bool:
    """Whether an output holds at each place something of all others, as behind a squeeze-and-excitation block."""
    return output is not None and any(averages_over_places(node) for node in ancestors(output))


def _shape(call: Call) -> tuple[int, ...]:
    assert call.output is not None
    return tuple(call.output.shape)


def _is_fine(grid: tuple[int, ...], image_size: tuple[int, ...]) -> bool:
    return all(side / cells <= _COARSEST for side, cells in zip(image_size, grid, strict=True))
