"""Which layouts the shape of a layer's output allows."""

from collections.abc import Iterable, Iterator
from math import ceil

import torch

from lightning_cam.resolve.layout import TokenLayout

Grid = tuple[int, int]
Shape = tuple[int, ...]

_MOST_SPECIAL_TOKENS = 32

# Formats by place of the channels and number of axes; the plain ones first.
_PLAIN: dict[tuple[int, int], tuple[str, ...]] = {
    (-1, 4): ("NHWC", "B W H C"),
    (1, 4): ("NCHW", "B C W H"),
    (-1, 3): ("NLC", "LNC", "B (W H) C"),
    (1, 3): ("B C (H W)",),
    (-1, 2): ("(B H W) C", "(H W B) C"),
}
_WINDOWED: dict[tuple[int, int], tuple[str, ...]] = {
    (-1, 3): ("(B H W) (h w) C", "(B h w) (H W) C", "B (H W h w) C", "B (h w H W) C"),
    (-1, 4): ("B (H W) (h w) C", "B (h w) (H W) C", "(B H W) h w C", "(B h w) H W C"),
    (1, 4): ("B C (H W) (h w)", "B C (h w) (H W)", "(B H W) C h w", "(B h w) C H W"),
    (1, 3): ("(B H W) C (h w)", "(B h w) C (H W)"),
    (-1, 5): ("B H W (h w) C", "B h w (H W) C", "B (H W) h w C", "B (h w) H W C"),
    (-1, 6): ("B H W h w C", "B h w H W C", "B H h W w C"),
    (1, 6): ("B C H W h w", "B C h w H W", "B C H h W w"),
}


def grids_of(image_size: Grid, seen: Iterable[Grid]) -> tuple[set[Grid], set[Grid]]:
    """Patch grids that an image can come to: those seen in the forward pass, and those only thinkable.

    Args:
        image_size: Height and width of the image.
        seen: Sizes of maps and of cuts into patches that were seen.
    """
    height, width = image_size
    strides = range(2, min(image_size) + 1)
    thinkable = {(f(height / s), f(width / s)) for s in strides for f in (ceil, int)}
    return _usable(set(seen), image_size), {grid for grid in thinkable if _within(grid, image_size)}


def _usable(grids: set[Grid], image_size: Grid) -> set[Grid]:
    """The grids and what pooling and patch merging make of them, without the image and the single patch."""
    merged = set(grids)
    for h, w in grids:
        while h > 1 or w > 1:
            for rounded in (ceil(h / 2), ceil(w / 2)), (h // 2, w // 2):
                merged.add(rounded)
            h, w = ceil(h / 2), ceil(w / 2)
    return {grid for grid in merged if _within(grid, image_size)}


def _within(grid: Grid, image_size: Grid) -> bool:
    """Tell whether a grid has several cells, and no more of them than the image has pixels."""
    fits = all(1 <= cells <= side for cells, side in zip(grid, image_size, strict=True))
    return fits and grid not in ((1, 1), image_size)


def proportional(grid: Grid, image_size: Grid) -> bool:
    """Tell whether one stride can give both sides, up to one row or column lost or added at the border."""
    if min(grid) < 1:
        return False
    low = max(side / (cells + 1) for side, cells in zip(image_size, grid, strict=True))
    high = min(side / max(cells - 1, 0.5) for side, cells in zip(image_size, grid, strict=True))
    return low < high


def plain(shape: Shape, channel_axis: int | None, batch_size: int, grids: set[Grid]) -> list[TokenLayout]:
    """Layouts without windows that fit a shape, the most common first.

    Args:
        shape: Shape of the layer's output.
        channel_axis: 1, -1, or None if unknown.
        batch_size: Number of images.
        grids: Patch grids that may occur.
    """
    found: list[TokenLayout] = []
    for axis in (-1, 1) if channel_axis is None else (channel_axis,):
        for format in _PLAIN.get((axis, len(shape)), ()):
            for grid in grids:
                found += _with_special_tokens(format, grid, shape)
    fitting = [layout for layout in found if layout.fits(shape, batch_size)]
    # The fewest special tokens first, all of them in front first.
    return sorted(fitting, key=lambda x: (x.num_prefix_tokens + x.num_suffix_tokens, x.num_suffix_tokens))


def _with_special_tokens(format: str, grid: Grid, shape: Shape) -> Iterator[TokenLayout]:
    axis = TokenLayout(format, grid).token_axis
    extra = 0 if axis is None else shape[axis] - grid[0] * grid[1]
    if 0 <= extra <= min(_MOST_SPECIAL_TOKENS, grid[0] * grid[1]):
        for suffix in range(extra + 1):
            yield TokenLayout(format, grid, extra - suffix, suffix)


def windowed(
    shape: Shape, channel_axis: int | None, batch_size: int, grids: set[Grid], rolls: set[Grid]
) -> list[TokenLayout]:
    """Layouts with windows or interleaved groups, rolled or not, that fit a shape.

    Args:
        shape: Shape of the layer's output.
        channel_axis: 1, -1, or None if unknown.
        batch_size: Number of images.
        grids: Patch grids that may occur.
        rolls: Shifts seen in the forward pass.
    """
    found: list[TokenLayout] = []
    for axis in (-1, 1) if channel_axis is None else (channel_axis,):
        for format in _WINDOWED.get((axis, len(shape)), ()):
            for grid in grids:
                for window in _windows(format, grid, shape):
                    found += [
                        TokenLayout(format, grid, window_size=window, shift=shift) for shift in ((0, 0), *sorted(rolls))
                    ]
    return [layout for layout in found if layout.fits(shape, batch_size)]


def rolled(layouts: list[TokenLayout], rolls: set[Grid]) -> list[TokenLayout]:
    """The same layouts, rolled by the shifts seen in the forward pass."""
    return [
        TokenLayout(x.format, x.grid_size, x.num_prefix_tokens, x.num_suffix_tokens, x.window_size, shift)
        for x in layouts
        for shift in sorted(rolls)
        if not x.num_prefix_tokens + x.num_suffix_tokens
    ]


def _windows(format: str, grid: Grid, shape: Shape) -> Iterator[Grid]:
    """Sizes of `h` and `w` for which the axes that hold only inner or only outer letters come out right."""
    axes = TokenLayout(format, grid, window_size=(1, 1)).axes
    sizes = dict(zip(axes, shape, strict=True))
    if "hw" in sizes:
        pairs = _factors(sizes["hw"])
    elif "h" in sizes:
        pairs = iter([(sizes["h"], sizes["w"])])
    elif "HW" in sizes:
        pairs = ((grid[0] // H, grid[1] // W) for H, W in _factors(sizes["HW"]))
    elif "H" in sizes:
        pairs = iter([(grid[0] // sizes["H"], grid[1] // sizes["W"])])
    else:  # all in one axis: square windows that divide the grid
        pairs = ((s, s) for s in range(2, min(grid)) if not grid[0] % s and not grid[1] % s)
    return ((h, w) for h, w in pairs if 0 < h <= grid[0] and 0 < w <= grid[1] and (h, w) != (1, 1))


def _factors(number: int) -> Iterator[Grid]:
    return ((f, number // f) for f in range(1, number + 1) if number % f == 0)


def distinct(layouts: Iterable[TokenLayout], shape: Shape) -> list[TokenLayout]:
    """Drop layouts that read an output exactly as an earlier one does."""
    kept: dict[bytes, TokenLayout] = {}
    for layout in layouts:
        positions = list(shape)
        positions[layout.channel_axis] = 1
        index = torch.arange(torch.Size(positions).numel()).reshape(positions)
        read = layout.to_grid(index)
        key = bytes(str((tuple(read.shape), layout.channel_axis)), "ascii") + read.contiguous().numpy().tobytes()
        kept.setdefault(key, layout)
    return list(kept.values())
