"""The blocks of a model: the cuts through it at which relevance of the whole depth can be followed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.untouched import looking
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.embedding import embedding_in
from lightning_cam.resolve.extent import Extent, extent_of
from lightning_cam.resolve.gates import gates_among, is_map
from lightning_cam.resolve.jitter import jittered
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.measure import layouts
from lightning_cam.resolve.search import BATCH, Search
from lightning_cam.resolve.watch import Call, Trace, fingerprint, same

_MOST = 64  # blocks; more are no rows that one can compare
_NONE = "behind the embedding no module was found that mixes positions and that all of the image goes through"


@dataclass(frozen=True)
class Block:
    """One block. What it is given and what it returns are cuts through the model: no path leads past them.

    Args:
        layer: The module, and how the first tensor that it returns lies.
        given: How the first tensor that it is given lies, which may be on another grid.
    """

    layer: TargetLayer
    given: TokenLayout


@dataclass(frozen=True)
class Depth:
    """Where relevance of the whole depth is read.

    Args:
        embedding: Where tokens begin.
        blocks: Those behind it, in order; empty if they are not known.
        why: Why they are not, in words; empty if they are.
    """

    embedding: TargetLayer
    blocks: tuple[Block, ...] = ()
    why: str = ""


class _Unknown(Exception):
    """The blocks are not known, and why."""


def find_depth(model: nn.Module, images: Tensor, *, forward: Callable[[Tensor], Any] | None = None) -> Depth:
    """Find the embedding, as `find_embedding` does, and the blocks behind it.

    A block is the innermost module around a mixing of tokens past which no path of the graph leads: in a transformer
    the one with the residual connections in it. Beside these, and in a convolutional network, it is the innermost
    module of that kind that convolves. Of blocks alike, one shows how the outputs of all lie.

    Args:
        model: The module whose submodules are searched, in any mode; left untouched.
        images: (B, C, H, W), normalized, on the model's device, of whose shape, dtype and range the noise is.
        forward: What to call with the images; by default `model`.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> print(*(block.layer for block in find_depth(model, torch.zeros(1, 3, 224, 224)).blocks), sep="; ")
        blocks.0 (Block): NLC 14×14, 1 prefix token; blocks.1 (Block): NLC 14×14, 1 prefix token
    """
    with ExitStack() as stack:
        for context in (looking(model), torch.enable_grad(), jittered(model)):
            stack.enter_context(context)
        search = Search.of(model, images, model if forward is None else forward)
        embedding = embedding_in(model, search)
        try:
            return Depth(embedding, tuple(_blocks(model, search, embedding)))
        except _Unknown as error:
            return Depth(embedding, why=str(error))
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError) as error:  # maps are worth having without blocks
            return Depth(embedding, why=f"the search for them failed ({error})")


def _blocks(model: nn.Module, search: Search, embedding: TargetLayer) -> Iterator[Block]:
    trace = search.trace
    if search.images.ndim != 4:
        raise _Unknown("it is drawn for images, not for volumes and videos")
    if not search.views.is_plain:
        raise _Unknown("the network runs several times for each image")
    begun = [call for call in trace.calls if call.module is embedding.module]
    calls = _calls(search, after=begun[-1].end if begun else 0)
    lie = _layouts(model, search, calls)
    if not lie:
        raise _Unknown(_NONE)
    calls = [call for call in calls if call.end <= max(lie)]  # behind these the tokens are no image
    missing = [call.name for call in calls if call.end not in lie]
    if missing or len(calls) > _MOST:
        raise _Unknown(
            f"it is not certain how the output of {missing[0]} lies on the image"
            if missing
            else f"there are {len(calls)} of them, more than can be compared"
        )
    before = begun[-1].output if begun else search.images
    layout = embedding.layout
    extents: dict[tuple[int, ...], Extent | None] = {}
    for call in calls:
        own = lie[call.end]
        given = layout if _is_given(call, before) else _given(call, own, trace)
        before, layout = call.output, own
        if given is None:
            raise _Unknown(f"it is not certain how the input of {call.name} lies on the image")
        if own.grid_size not in extents:
            extents[own.grid_size] = extent_of(search, call.module, own)
        yield Block(TargetLayer(call.name, call.module, own, extents[own.grid_size]), given)


def _calls(search: Search, after: int) -> list[Call]:
    """The calls of blocks that begin after a time, in order, none within another."""
    trace = search.trace
    later = [call for call in trace.calls if call.start > after and _is_whole(call)]
    innermost = sorted(gates_among(later, trace, search.images), key=lambda call: call.end - call.start)
    blocks: dict[int, Call] = {}  # by when they begin
    mixings = [mixing for mixing in trace.mixings if mixing.time > after and mixing.output.requires_grad]
    for mixing in mixings:
        around = next((call for call in innermost if call.holds(mixing.time)), None)
        if around is not None:
            blocks[around.start] = around
    blocks = {start: call for start, call in blocks.items() if not any(map(call.holds, blocks))}
    last = max((call.end for call in blocks.values()), default=0)
    for mixing in mixings:
        if mixing.time < last and not any(call.holds(mixing.time) for call in blocks.values()):
            where = mixing.mixer.name or "the model itself"
            raise _Unknown(f"positions are mixed in {where}, which is in no module that all of the image goes through")
    convolutions = [call.start for call in trace.calls if _convolves(call.module)]
    for call in innermost:
        is_apart = not any(call.holds(start) or block.holds(call.start) for start, block in blocks.items())
        if is_apart and any(map(call.holds, convolutions)):
            blocks[call.start] = call
    return [blocks[start] for start in sorted(blocks)]


def _is_whole(call: Call) -> bool:
    """Whether a module, not the model itself, holds others, and returns several vectors for each image."""
    shape = () if call.output is None else call.output.shape
    return bool(call.name) and call.end > call.start + 1 and sum(side > 1 for side in shape[1:]) > 1


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def _layouts(model: nn.Module, search: Search, calls: list[Call]) -> dict[int, TokenLayout]:
    """How the outputs of calls lie, by when they end, those that are known."""
    trace = search.trace
    maps = [call for call in calls if is_map(call, trace, BATCH)]
    others = [call for call in calls if not is_map(call, trace, BATCH)]
    alike = {_kind(call): call for call in others}
    searches = layouts(model, search.run, search.images, trace, list(alike.values())) if alike else []
    known = {_kind(one.call): one.answer for one in searches}
    found = {call.end: known[_kind(call)] for call in others}
    own = {
        call.end: TokenLayout("NCHW", (call.output.shape[2], call.output.shape[3]))
        for call in maps
        if call.output is not None
    }
    return own | {end: layout for end, layout in found.items() if layout is not None}


def _kind(call: Call) -> tuple[type[nn.Module], tuple[int, ...]]:
    assert call.output is not None
    return type(call.module), tuple(call.output.shape)


def _is_given(call: Call, tensor: Tensor | None) -> bool:
    """Whether a tensor is what a block was given, in the same form."""
    return tensor is not None and call.input_shape == tuple(tensor.shape) and same(call.input, fingerprint(tensor))


def _given(call: Call, own: TokenLayout, trace: Trace) -> TokenLayout | None:
    """How the input of a block lies that is not what the block before returned; None if that is not known."""
    assert call.output is not None
    shape = call.input_shape
    if shape == tuple(call.output.shape):
        return own
    is_map = len(shape) == 4 and shape[2:] in trace.grids and shape[1:3] not in trace.grids
    return TokenLayout("NCHW", (shape[2], shape[3])) if is_map else None
