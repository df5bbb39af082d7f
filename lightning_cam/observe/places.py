"""Where in the image the cells of a network's grid are, if it got the image flipped, rotated, cropped or padded."""

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam.observe.origins import Origin

_MOST_CELLS = 56  # of an axis of a map

Undo = Callable[[Tensor], Tensor]  # maps (..., h, w) of what the network was given in, maps of the image out

# Operations that keep the number of pixels, but not their places.
_MOVING = {
    "gather", "index_select", "take_along_dim", "sort", "argsort", "grid_sample", "permute", "matmul", "bmm", "einsum",
    "__matmul__", "scatter", "masked_select", "fft2", "cumsum", "module",
}  # fmt: skip
_RESIZING = {"interpolate", "upsample", "adaptive_avg_pool2d", "avg_pool2d"}
# Those that give an image without channels, such as a spectrogram, the axis of its one channel, or take it away.
_FORMING = {"unsqueeze", "unsqueeze_", "squeeze", "squeeze_", "__getitem__", "select", "view", "reshape"}


def in_place(maps: Tensor) -> Tensor:
    """Maps whose cells already are at their place in the image."""
    return maps


def undo_of(origin: Origin) -> Undo | None:
    """How to bring maps back to their places in the image.

    Args:
        origin: Of the images that a network was given.

    Returns:
        What maps of these images are put through, or None where that was not followed.

    Example:
        >>> from lightning_cam.observe.origins import Origins
        >>> image = torch.zeros(1, 1, 4, 4)
        >>> with Origins({"image": image}) as origins:
        ...     undo = undo_of(origins.of(image.flip(-1) - 0.5))
        >>> undo(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 1.]])
    """
    steps: list[Undo] = []
    while origin.operation != "input":
        if len(origin.parents) != 1:
            return None
        before = origin.parents[0]
        undo = in_place if _is_other_form(origin, before) else _undo_one(origin, before)
        if undo is None:
            return None
        steps.append(undo)
        origin = before

    def back(maps: Tensor) -> Tensor:
        for step in steps:  # the last one that was done comes first
            maps = step(maps)
        return maps

    return back


def is_whole(origin: Origin) -> bool:
    """Whether a network was given every pixel of the image in its place."""
    undo = undo_of(origin)
    height, width = origin.shape[-2:] if len(origin.shape) == 4 else (1, 1)
    probe = torch.arange(height * width, dtype=torch.float32).view(height, width)
    return undo is not None and torch.equal(undo(probe), probe)


def _is_other_form(origin: Origin, before: Origin) -> bool:
    """Whether (B, H, W) became (B, 1, H, W), or the other way round."""
    short, long = sorted((origin.shape, before.shape), key=len)
    return origin.operation in _FORMING and len(short) == 3 and long == (short[0], 1, *short[1:])


def _undo_one(origin: Origin, before: Origin) -> Undo | None:
    name, (args, kwargs) = origin.operation, origin.arguments
    if len(origin.shape) != len(before.shape) or len(origin.shape) not in (3, 4):
        return None
    rule = _RULES.get(name)
    if rule is not None and len(origin.shape) == 3:  # without an axis of channels only transposes are followed
        return _transpose(args[1:], dict(kwargs), before.shape, origin.shape) if rule is _transpose else None
    if rule is not None:
        return rule(args[1:], dict(kwargs), before.shape, origin.shape)
    if name in _RESIZING:
        return in_place
    if name in _MOVING or origin.shape[-2:] != before.shape[-2:] or origin.shape[0] != before.shape[0]:
        return None
    return in_place


def _flip(args: Any, kwargs: dict[str, Any], before: Any, after: Any) -> Undo | None:
    dims = kwargs.get("dims", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
    axes = [dim % 4 for dim in dims]
    if 0 in axes:  # the batch's
        return None
    spatial = [axis - 4 for axis in axes if axis > 1]
    return lambda maps: maps.flip(spatial)


def _rotate(args: Any, kwargs: dict[str, Any], before: Any, after: Any) -> Undo | None:
    turns, dims = kwargs.get("k", args[0] if args else 1), kwargs.get("dims", args[1] if len(args) > 1 else (0, 1))
    axes = tuple(dim % 4 for dim in dims)
    if set(axes) != {2, 3}:
        return None
    turned = (axes[0] - 4, axes[1] - 4)
    return lambda maps: maps.rot90(-turns, turned)


def _transpose(args: Any, kwargs: dict[str, Any], before: Any, after: Any) -> Undo | None:
    count = len(before)
    dims = [dim % count - count for dim in (*args, *kwargs.values())] or [-2, -1]
    return (lambda maps: maps.transpose(-1, -2)) if set(dims) == {-2, -1} else None


def _cut(args: Any, kwargs: dict[str, Any], before: Any, after: Any) -> Undo | None:
    index = args[0] if isinstance(args[0], tuple) else (args[0],)
    if any(part is None or isinstance(part, (int, Tensor, list)) for part in index):
        return None
    missing = 4 - sum(part is not Ellipsis for part in index)
    if Ellipsis in index:
        place = index.index(Ellipsis)
        index = (*index[:place], *[slice(None)] * missing, *index[place + 1 :])
    index = (*index, *[slice(None)] * (4 - len(index)))
    starts, steps = [], []
    for part, size in zip(index, before, strict=True):
        start, _, step = part.indices(size)
        starts.append(start)
        steps.append(step)
    if steps[2:] != [1, 1] or index[0].indices(before[0])[:2] != (0, before[0]):
        return None
    return _framed(starts[2], starts[3], before, after)


def _pad(args: Any, kwargs: dict[str, Any], before: Any, after: Any) -> Undo | None:
    amounts = kwargs.get("pad", args[0] if args else ())
    left, _, top, _ = [*amounts, 0, 0, 0, 0][:4]
    return _framed(-top, -left, before, after)


def _framed(top: int, left: int, before: Any, after: Any) -> Undo:
    """For a cut that begins at (top, left) of an image, or a pad where these are below 0."""

    def undo(maps: Tensor) -> Tensor:
        sides = after[-2] / maps.shape[-2], after[-1] / maps.shape[-1]
        return placed(maps, (top, left), sides, (before[-2], before[-1]))

    return undo


def placed(maps: Tensor, starts: tuple[int, int], sides: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) of a grid that covers more or less than an image, as maps of the whole image.

    Its cells are small enough to lie where they are, if there are no more than 56 a side; the relevance of a cell of
    the grid is shared out among those that it is cut into, and what lies outside is left out.

    Args:
        maps: On the grid.
        starts: Pixel of the image at which the first row and the first column begin; below 0 outside the image.
        sides: Height and width of a cell in pixels.
        size: Height and width of the image.

    Example:
        >>> placed(torch.ones(1, 2, 2), (0, 0), (4, 4), (6, 6)).shape  # 8 pixels, 6 are there
        torch.Size([1, 3, 3])
    """
    (rows, down), (columns, across) = (
        _places(*axis) for axis in zip(starts, sides, size, maps.shape[-2:], strict=True)
    )
    padded = F.pad(maps, (0, 1, 0, 1))  # a cell without evidence, for what the grid does not cover
    return padded[..., rows.to(maps.device)[:, None], columns.to(maps.device)] * (down * across)


def _places(start: int, side: float, size: int, cells: int) -> tuple[Tensor, float]:
    """For each cell of the whole image the cell of the grid that it is part of, and what part of it."""
    count = max(1, round(size / side))
    if side == int(side):
        exact = size // gcd(int(side), size, start)
        count = exact if exact <= _MOST_CELLS else count
    centers = (torch.arange(count) + 0.5) * size / count - start
    index = torch.div(centers, side, rounding_mode="floor").long()
    return torch.where((index >= 0) & (index < cells), index, cells), size / count / side


_RULES: dict[str, Callable[[Any, dict[str, Any], Any, Any], Undo | None]] = {
    "flip": _flip,
    "rot90": _rotate,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "mT": _transpose,
    "pad": _pad,
    "__getitem__": _cut,
}
