"""Proof of a layout: masks over the cells of its grid show whether each token is where the layout puts it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.patterns import OwnTokenOnly, answer_of, moves_of

_FEW_CELLS = 16  # with fewer, two masks leave too many cells alike

# From these values on, tokens see little else than one cell of the grid, and each its own.
_SEES_ONE_CELL, _SEES_ITS_OWN, _FAITHFUL = 0.9, 0.5, 0.9


class MaskResponses:
    """How each token of some layers answers when noise is added to one half of a grid's cells, or to the other.

    The halves are chosen at random, so that a token which lies one cell further, or in a row read backwards, shows,
    where slow waves over the image (see `PatternResponses`) hardly change. Costs 3 forwards, 5 on small grids.

    Args:
        forward: What to call.
        images: (2, C, H, W), the base images, or volumes (2, C, D, H, W).
        layers: The layers to watch, each with the axis of its channels.
        grid: Rows and columns of the cells, of volumes planes before them.
        attention: False makes each token attend to itself alone, see `PatternResponses`.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        layers: Sequence[tuple[nn.Module, int]],
        grid: tuple[int, ...],
        *,
        attention: bool,
    ) -> None:
        self._signs = _balanced(2 if prod(grid) >= _FEW_CELLS else 4, grid)
        with nullcontext() if attention else OwnTokenOnly():
            self.still, self._moves = moves_of(
                forward, images, layers, lambda lit: [_spread(sign, lit) for sign in self._signs]
            )

    def proves(self, index: int, layout: TokenLayout) -> bool:
        """Whether every token of a layer sees its own cell under this layout, and little else."""
        cells, _, correlation = self._compare(index, layout)
        middle = float(cells.median())
        return correlation >= _FAITHFUL and middle >= 0.5 and bool((cells >= _SEES_ITS_OWN * middle).all())

    def refutes(self, index: int, layout: TokenLayout) -> bool:
        """Whether the tokens of a layer see one cell each, but some not that where this layout puts them."""
        cells, sharp, _ = self._compare(index, layout)
        return sharp >= _SEES_ONE_CELL and not bool((cells >= _SEES_ITS_OWN * sharp).all())

    def _compare(self, index: int, layout: TokenLayout) -> tuple[Tensor, float, float]:
        """How far the answer of each cell (h, w) is its own, how sharp all are, and how answers and masks correlate."""
        answers = torch.stack([answer_of(moves, layout) for moves in self._moves[index]])
        correlation = torch.corrcoef(torch.stack([answers.flatten(), self._signs.flatten()]))[0, 1].nan_to_num()
        return (answers * self._signs).mean(0), float(answers.abs().median()), float(correlation)


def _balanced(count: int, grid: tuple[int, ...]) -> Tensor:
    """(count, h, w) of 1 and -1, as many of each as can be: what a token sees of all cells alike then cancels."""
    cells = prod(grid)
    half = torch.ones(cells, dtype=torch.float64)
    half[: cells // 2] = -1
    generator = torch.Generator().manual_seed(4)
    return torch.stack([half[torch.randperm(cells, generator=generator)].reshape(grid) for _ in range(count)])


def _spread(values: Tensor, images: Tensor) -> Tensor:
    """(1, 1, H, W), or with planes: to each pixel the value of its cell."""
    for axis, (size, cells) in enumerate(zip(images.shape[2:], values.shape, strict=True)):
        values = values.index_select(axis, torch.arange(size) * cells // size)
    return values[None, None].to(images)
