"""Which layouts the shape of a layer's output allows."""

from collections.abc import Iterable

from lightning_cam.layout import TokenLayout

Grid = tuple[int, int]
_STRIDES = (4, 7, 8, 14, 16, 28, 32)


def grids_of(image_size: Grid, seen: Iterable[Grid]) -> set[Grid]:
    """Patch grids that an image of this size can come to.

    Args:
        image_size: Height and width of the image.
        seen: Sizes of feature maps that convolutions returned.
    """
    height, width = image_size
    grids = set(seen) | {(-(-height // s), -(-width // s)) for s in _STRIDES}
    grids |= {(height // s, width // s) for s in _STRIDES}
    for h, w in list(grids):
        while h > 1 or w > 1:
            h, w = -(-h // 2), -(-w // 2)
            grids.add((h, w))
    return {grid for grid in grids if min(grid) > 0 and grid != (1, 1) and grid != image_size}


def candidates(
    shape: tuple[int, ...], channel_axis: int | None, batch_size: int, grids: set[Grid]
) -> list[TokenLayout]:
    """Layouts that fit a shape, the plainest first.

    Args:
        shape: Shape of the layer's output.
        channel_axis: 1, -1 or None if unknown.
        batch_size: Number of images.
        grids: Patch grids that may occur.
    """
    found: list[TokenLayout] = []
    channels_last, channels_first = channel_axis in (-1, None), channel_axis in (1, None)
    if len(shape) == 4 and shape[0] == batch_size:
        if channels_last and shape[1:3] in grids:
            found.append(TokenLayout("NHWC", (shape[1], shape[2])))
        if channels_first and shape[2:] in grids:
            found.append(TokenLayout("NCHW", (shape[2], shape[3])))
    if len(shape) == 3:
        for format, batch, tokens, fits in (
            ("NLC", 0, 1, channels_last),
            ("LNC", 1, 0, channels_last),
            ("B C (H W)", 0, 2, channels_first),
        ):
            if fits and shape[batch] == batch_size:
                found += _tokens(format, shape[tokens], grids)
    return found


def _tokens(format: str, num_tokens: int, grids: set[Grid]) -> list[TokenLayout]:
    extras = {grid: num_tokens - grid[0] * grid[1] for grid in grids}
    fitting = sorted((extra, grid) for grid, extra in extras.items() if 0 <= extra <= 16)
    return [
        TokenLayout(format, grid, prefix, extra - prefix) for extra, grid in fitting for prefix in range(extra, -1, -1)
    ]
