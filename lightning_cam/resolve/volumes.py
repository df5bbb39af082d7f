"""Layouts of volumes and videos: grids with planes, proved by masks over their cells."""

from collections.abc import Callable, Iterator
from math import ceil, pi, prod
from typing import Any

import torch
from torch import Tensor

from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.norms import channel_axis
from lightning_cam.resolve.patterns import OwnTokenOnly, answer_of, moves_of, outputs_of
from lightning_cam.resolve.proof import MaskResponses
from lightning_cam.resolve.watch import Call, Trace

Grid3 = tuple[int, int, int]

_MOST_SPECIAL_TOKENS = 32
_MOST_GRIDS = 6  # that masks are tried on for one layer
_SEEN, _MARGIN = 0.6, 0.1  # from which correlation of waves on a layout counts, and how far before the next

# Formats by place of the channels and number of axes.
_FORMATS: dict[tuple[int, int], tuple[str, ...]] = {
    (-1, 5): ("B D H W C",),
    (1, 5): ("B C D H W",),
    (-1, 4): ("(B D) H W C", "B D (H W) C", "B (H W) D C"),
    (1, 4): ("(B D) C H W",),
    (-1, 3): ("B (D H W) C", "B (H W D) C", "(B D) (H W) C", "(B H W) D C"),
    (1, 3): ("B C (D H W)",),
    (-1, 2): ("(B D H W) C",),
}


def layout_of_volume(forward: Callable[[Tensor], Any], images: Tensor, trace: Trace, call: Call) -> TokenLayout | None:
    """Find how a layer's output of volumes lies: the one layout under which each token sees its own cell.

    Args:
        forward: What to call.
        images: (2, C, D, H, W), those that `trace` was made with.
        trace: What one forward showed.
        call: The layer.

    Returns:
        None if no layout is proved, or several are.
    """
    assert call.output is not None
    shape = tuple(call.output.shape)
    axis = channel_axis(call.module, shape)
    by_grid = {grid: list(_options(shape, axis, grid, len(images))) for grid in _grids(trace, images)}
    by_grid = {grid: options for grid, options in by_grid.items() if options}
    for attention in (False, True):
        for grid, options in list(by_grid.items())[:_MOST_GRIDS]:
            axes = sorted({option.channel_axis for option in options})
            layers = [(call.module, channels) for channels in axes]
            responses = MaskResponses(forward, images, layers, grid, attention=attention)
            proven = [option for option in options if responses.proves(axes.index(option.channel_axis), option)]
            if len(proven) == 1:
                return proven[0]
    return _by_waves(forward, images, call, [option for options in by_grid.values() for option in options])


def _by_waves(
    forward: Callable[[Tensor], Any], images: Tensor, call: Call, options: list[TokenLayout]
) -> TokenLayout | None:
    """The option that explains slow waves over each axis, where tokens see more than their cells."""
    best: list[tuple[float, TokenLayout]] = []
    for channels in sorted({option.channel_axis for option in options}):
        with OwnTokenOnly():
            _, (moves,) = moves_of(forward, images, [(call.module, channels)], _waves_over)
        of_axis = [option for option in options if option.channel_axis == channels]
        best += [(_fit([answer_of(one, option) for one in moves], option.grid_size), option) for option in of_axis]
    best.sort(key=lambda found: -found[0])
    if not best or best[0][0] < _SEEN or (len(best) > 1 and best[1][0] > best[0][0] - _MARGIN):
        return None
    return best[0][1]


def plane_by_plane(forward: Callable[[Tensor], Any], images: Tensor, call: Call) -> TokenLayout | None:
    """The layout of a map (B * D, C, h, w) of convolutions if its planes lie as `images` (B, C, D, H, W) hold them.

    A plane changes nothing but its own map; how that lies is the convolutions' affair, which move no cell.
    """
    assert call.output is not None
    depth = images.shape[2]
    changed = images.clone()
    changed[-1, :, 0] = changed[-1, :, 0].flip(-1)
    before, after = (outputs_of(forward, given, [call.module])[0] for given in (images, changed))
    moved = (before - after).flatten(1).abs().amax(1) > 0
    own = torch.arange(len(moved), device=moved.device) == len(moved) - depth
    return TokenLayout("(B D) C H W", (depth, *call.output.shape[2:])) if torch.equal(moved, own) else None


def _wave(cells: int, axis: int) -> Tensor:
    """Half a period of a cosine along one of three axes."""
    place = (torch.arange(cells) + 0.5) / cells
    return torch.cos(pi * place).view([-1 if other == axis else 1 for other in range(3)])


def _waves_over(images: Tensor) -> list[Tensor]:
    sizes = images.shape[2:]
    return [_wave(sizes[axis], axis).expand(sizes)[None, None].to(images) for axis in range(3)]


def _fit(answers: list[Tensor], grid: tuple[int, ...]) -> float:
    """How answers and waves correlate on the axis where they do least; an axis of a single cell tells nothing."""
    pairs = [(answer, _wave(grid[axis], axis).expand(grid)) for axis, answer in enumerate(answers) if grid[axis] > 1]
    fits = [torch.corrcoef(torch.stack([a.flatten(), wave.flatten().double()]))[0, 1].nan_to_num() for a, wave in pairs]
    return float(min(fits)) if fits else 0.0


def _grids(trace: Trace, images: Tensor) -> Iterator[Grid3]:
    """Grids that volumes may come to: those of convolutions, of single planes too, and such merged; finest first."""
    planes, height, width = images.shape[2:]
    seen = set(trace.volumes) | {(planes, h, w) for h, w in trace.grids}
    for d, h, w in list(seen):
        while h > 1 or w > 1:
            h, w = ceil(h / 2), ceil(w / 2)
            seen |= {(d, h, w), (ceil(d / 2), h, w)}
    fitting = {grid for grid in seen if grid[0] <= planes and grid[1] < height and grid[2] < width}
    yield from sorted(fitting, key=lambda grid: (-prod(grid), grid))


def _options(shape: tuple[int, ...], axis: int | None, grid: Grid3, batch_size: int) -> Iterator[TokenLayout]:
    for channels in (-1, 1) if axis is None else (axis,):
        for format in _FORMATS.get((channels, len(shape)), ()):
            plain = TokenLayout(format, grid)
            tokens = plain.token_axis
            sizes = dict(zip("DHW", grid, strict=True))
            special = 0
            if tokens is not None:
                special = shape[tokens] - prod(sizes[letter] for letter in plain.axes[tokens])
            for suffix in range(special + 1) if 0 <= special <= _MOST_SPECIAL_TOKENS else ():
                option = TokenLayout(format, grid, special - suffix, suffix)
                if option.fits(shape, batch_size):
                    yield option
