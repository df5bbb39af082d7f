"""How much of the image a grid covers: less where a remainder is cut off, more where the model pads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cam.observe.places import placed
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.patterns import OwnTokenOnly
from lightning_cam.resolve.search import Search
from lightning_cam.resolve.watch import first_tensor

_LEAST_CELLS = 4  # of an axis: the outer ones may lie in part outside the image, and tell nothing
_FELT = 1e-3  # of the largest gradient
_CLEAR = 0.01  # relative, that a cell's size may be off by


@dataclass(frozen=True)
class Extent:
    """What a grid covers, in pixels of the images that the network is given.

    Args:
        top: Where its first row begins; below 0 outside the image.
        left: Where its first column begins.
        cell: Height and width of a cell.
        grid_size: Rows and columns of the grid.
        image_size: Height and width of these images.
    """

    top: int
    left: int
    cell: tuple[int, int]
    grid_size: tuple[int, ...]
    image_size: tuple[int, int]

    def on_image(self, maps: Tensor) -> Tensor:
        """Maps (..., h, w) of the grid, or of one that covers the same, as maps of the whole image, see `placed`.

        Example:
            >>> Extent(0, 0, (4, 4), (2, 2), (6, 6)).on_image(torch.ones(1, 2, 2)).shape  # 8 pixels, 6 are there
            torch.Size([1, 3, 3])
        """
        height, width = (
            cell * cells / count for cell, cells, count in zip(self.cell, self.grid_size, maps.shape[-2:], strict=True)
        )
        return placed(maps, (self.top, self.left), (height, width), self.image_size)


def extent_of(search: Search, module: nn.Module, layout: TokenLayout) -> Extent | None:
    """Measure what a layer's grid covers, where it may not be the whole image. To be used as `Search`.

    While each token attends to itself alone, the gradient of a cell reaches the pixels that it sees and no others.
    Their middle moves by the size of a cell from one cell to the next. Costs a forward and 4 backwards.

    Args:
        search: The model at work.
        module: The layer.
        layout: How its output lies.

    Returns:
        None where the cells of the grid are equal parts of the image, or nothing else was clear.
    """
    if search.images.ndim == 5:  # cells of volumes are taken for equal parts
        return None
    size = (search.images.shape[2], search.images.shape[3])
    if min(layout.grid_size) < _LEAST_CELLS or _divides(search, layout.grid_size, size):
        return None
    middles = _middles(search, module, layout)
    axes = [_fit(*middles[axis], layout.grid_size[axis], size[axis]) for axis in (0, 1)]
    if all(found is None for found in axes):
        return None
    (top, height), (left, width) = (
        (0, round(side / cells)) if found is None else found
        for found, side, cells in zip(axes, size, layout.grid_size, strict=True)
    )
    return Extent(top, left, (height, width), layout.grid_size, size)


def _middles(
    search: Search, module: nn.Module, layout: TokenLayout
) -> tuple[tuple[list[int], list[float]], tuple[list[int], list[float]]]:
    """For rows and columns: some of their numbers, and the middles of the pixels that they see.

    The outer ones are left out: they may see what lies outside of the image.
    """
    outputs: list[Tensor | None] = []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(first_tensor(output)))
    try:
        with OwnTokenOnly():
            search.run(search.images)
    finally:
        handle.remove()
    assert outputs[-1] is not None  # its layout is known
    grid = layout.to_grid(outputs[-1])
    weights = torch.randn(grid.shape[1], generator=torch.Generator().manual_seed(4)).to(grid)
    rows, columns = (_inner(cells) for cells in layout.grid_size)
    seen: tuple[list[float], list[float]] = ([], [])
    for row, column in zip(rows, columns, strict=True):
        score = (grid[:, :, row, column] * weights).sum()
        (gradient,) = torch.autograd.grad(score, search.images, retain_graph=True, allow_unused=True)
        felt = torch.zeros(search.images.shape[2:]) if gradient is None else gradient.abs().amax((0, 1)).float().cpu()
        felt = felt > _FELT * felt.max()
        for axis in (0, 1):
            where = felt.any(1 - axis).nonzero().flatten()
            seen[axis].append(float(where[0] + where[-1] + 1) / 2 if len(where) else torch.nan)
    return (rows, seen[0]), (columns, seen[1])


def _inner(cells: int) -> list[int]:
    return [1, cells // 2 - 1, cells // 2, cells - 2]


def _divides(search: Search, grid: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether convolutions cut the image evenly into cells, and blocks of two merged these evenly."""
    return any(
        all(
            side % fine == 0 and fine % coarse == 0 and (fine // coarse).bit_count() == 1
            for side, fine, coarse in zip(size, seen, grid, strict=True)
        )
        for seen in search.trace.grids
    )


def _fit(numbers: list[int], middles: list[float], cells: int, side: int) -> tuple[int, int] | None:
    """Where the first cell of an axis begins and how large cells are; None where they are equal parts of it."""
    index, place = torch.tensor(numbers, dtype=torch.float64) + 0.5, torch.tensor(middles, dtype=torch.float64)
    spread = index - index.mean()
    slope = float((spread * (place - place.mean())).sum() / spread.square().sum())
    start = float(place.mean() - slope * index.mean())
    off = float((place - start - slope * index).abs().max())
    if not slope > 0 or off > 1:  # also where nothing was felt, or all of it
        return None
    cell, begins = round(slope), round(start)
    if abs(cell * cells - side) < 1 and begins == 0:
        return None
    fits = abs(slope - cell) <= _CLEAR * cell and -cell < begins < cell and abs(begins + cell * cells - side) < 2 * cell
    return (begins, cell) if fits else None
