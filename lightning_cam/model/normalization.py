"""How images were normalized, as stated by the data pipeline or the model, so that they can be displayed."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation

_INNER = ("dataset", "datasets", "transform", "transforms", "image_transform", "val_transform")
_MOST_ITEMS, _MOST_IN_ONE, _LONGEST_WALK = 1000, 100, 0.5  # of a walk in all, of one container, seconds
_MOST_NORMALIZED = 10.0  # of images that are none of bytes
_MOST_VALUES = 2**20  # of a band, whose percentiles are looked for
_TOLERANCE = 0.05  # resampling overshoots, half precision rounds


def walk(source: Any) -> Iterator[Any]:
    """All datasets and transforms that can be reached from a loader, dataset or transform, outer ones first.

    The walk is bounded: a dataset may be a list of a million items, answer every attribute with a new object, or take
    its time for each.
    """
    deadline = time.monotonic() + _LONGEST_WALK
    waiting, seen = deque([source]), dict[int, Any]()  # kept, or another object might get the same id
    while waiting and len(seen) < _MOST_ITEMS and time.monotonic() < deadline:
        item = waiting.popleft()
        if item is None or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, (list, tuple, nn.Sequential, Mapping)):
            waiting.extendleft(reversed(_first_items(item)))
        elif not isinstance(item, (str, bytes, int, float, Tensor)):
            yield item
            waiting += [attribute_of(item, name) for name in _INNER]


def _first_items(container: Any) -> list[Any]:
    try:
        return list(islice(container.values() if isinstance(container, Mapping) else container, _MOST_IN_ONE))
    except Exception:  # a store whose values cannot all be read
        return []


def attribute_of(item: Any, name: str) -> Any:
    """An attribute of the user's, or None where there is none; a property may raise whatever it likes."""
    try:
        return getattr(item, name, None)
    except Exception:
        return None


def stated_normalizations(source: Any, model: nn.Module) -> list[Statistics]:
    """What images may have been normalized with: all that the transforms of `source` and the model say.

    Args:
        source: A loader, dataset or transform.
        model: Any module; timm's have a `pretrained_cfg`.
    """
    stated = [_statistics(item) for item in walk(source)]
    stated += [_statistics(attribute_of(module, "pretrained_cfg")) for module in model.modules()]
    return [found for found in stated if found is not None]


def find_normalization(images: Tensor, stated: Sequence[Statistics]) -> tuple[Tensor, Tensor]:
    """Find the mean and standard deviation that `images` were normalized with.

    The first of these under which the images return to [0, 1]: none at all (a normalized batch has negative values),
    what was stated. If none does, the darkest and brightest value stand for 0 and 1.

    Args:
        images: (B, C, H, W), normalized.
        stated: What they may have been normalized with, see `stated_normalizations`.

    Returns:
        Mean and standard deviation, (C,) float32 on the device of `images`.
    """
    known = known_normalization(images, stated)
    if known is not None:
        return known
    if images.shape[1] != 3:
        return between_percentiles(images)
    low, high = images.float().min(), images.float().max()
    std = 1 / (high - low).clamp_min(1e-7)
    return (-low * std).expand(3), std.expand(3)


def known_normalization(images: Tensor, stated: Sequence[Statistics]) -> tuple[Tensor, Tensor] | None:
    """The first of what `find_normalization` tries under which the images return to [0, 1]; None if none does."""
    low, high = images.float().amin((0, 2, 3)), images.float().amax((0, 2, 3))
    bytes_ = [((0.0,), (1 / 255,))] if low.min() >= 0 and high.max() > _MOST_NORMALIZED else []
    for found in [((0.0,), (1.0,)), *bytes_, *stated]:
        if any(len(values) not in (1, len(low)) for values in found):
            continue
        mean, std = (torch.tensor(values, device=images.device).expand(len(low)) for values in found)
        if ((low * std + mean) >= -_TOLERANCE).all() and ((high * std + mean) <= 1 + _TOLERANCE).all():
            return mean, std
    return None


def between_percentiles(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) that bring the 2nd and 98th percentile of each band to 0 and 1."""
    values = images.float().transpose(0, 1).flatten(1)
    step = -(-values.shape[1] // _MOST_VALUES)
    low, high = torch.quantile(values[:, ::step], torch.tensor([0.02, 0.98], device=images.device), dim=1)
    std = 1 / (high - low).clamp_min(1e-7)
    return -low * std, std


def _statistics(item: Any) -> Statistics | None:
    """Mean and standard deviation that a transform or a configuration holds as plain numbers."""
    get = item.get if isinstance(item, Mapping) else lambda name: attribute_of(item, name)
    try:
        mean, std = (_numbers(get(name)) for name in ("mean", "std"))
    except (TypeError, ValueError, RuntimeError):  # something else goes by that name
        return None
    return (mean, std) if mean and std else None


def _numbers(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    # By NumPy where that can be: what torch makes a tensor of may lie on a device, and reading it back waits.
    numbers = value.float() if isinstance(value, Tensor) else np.asarray(value, np.float32)
    return tuple(numbers.flatten().tolist())
