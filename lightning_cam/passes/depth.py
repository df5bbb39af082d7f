"""What each block reads: the relevance that a patch has before a block and no longer behind it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.methods.cells import shared_out
from lightning_cam.resolve.depth import Block
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.watch import first_tensor

_MOST_CELLS = 16  # along each side: there is a map for each block


class BlockCuts:
    """What blocks are given and what they return, parts of the graph of one forward.

    Nothing is copied: these tensors are there for the graph, or small beside what it keeps.

    Args:
        blocks: In order, those behind the embedding.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._seen: dict[tuple[int, str], tuple[Tensor, int]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See the blocks in the forward in the body."""
        with ExitStack() as stack:
            for index, block in enumerate(self._blocks):
                module = block.layer.module
                stack.callback(module.register_forward_pre_hook(self._given_to(index), with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._returned_by(index)).remove)
            yield

    def _given_to(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._keep(index, "given", first_tensor([*args, *kwargs.values()]))

        return hook

    def _returned_by(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._keep(index, "returned", first_tensor(output))

        return hook

    def _keep(self, index: int, side: str, tensor: Tensor | None) -> None:
        if tensor is not None and tensor.requires_grad:
            self._seen[index, side] = tensor, tensor._version

    @property
    def tensors(self) -> list[Tensor]:
        """What was given and returned, each tensor once; none where a block was not run, or writes into one of them."""
        if len(self._seen) < 2 * len(self._blocks) or any(x._version != seen for x, seen in self._seen.values()):
            return []
        return list({id(tensor): tensor for tensor, _ in self._seen.values()}.values())

    @torch.no_grad()
    def maps(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """What each block reads, and last what the head reads, each (B, h, w) float32 on the block's own grid.

        With `R = sum_k x[k] * g[k]` at the patches, `x` a tensor at a cut and `g` what a backward by the rules brings
        there, a block's map is `R_given - R_returned`, and the head's is the last `R_returned`.

        Args:
            tensors: Those that this names.
            gradients: Of each, None where the score does not depend on it.
        """
        relevance = {
            id(x): torch.zeros_like(x) if gradient is None else x.detach().float() * gradient.float()
            for x, gradient in zip(tensors, gradients, strict=True)
        }
        maps = []
        for index, block in enumerate(self._blocks):
            before, after = (relevance[id(self._seen[index, side][0])] for side in ("given", "returned"))
            left = _summed(block.layer.layout, after)
            moved = shared_out(_summed(block.given, before), (left.shape[-2], left.shape[-1])) - left
            maps.append(_in_cells(block.layer.on_image(moved)))
        maps.append(_in_cells(self._blocks[-1].layer.on_image(left)))
        return maps


def _summed(layout: TokenLayout, relevance: Tensor) -> Tensor:
    return layout.to_grid(relevance).sum(1)


def _in_cells(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    side = ceil(max(height, width) / _MOST_CELLS)
    return shared_out(maps, (ceil(height / side), ceil(width / side)))
