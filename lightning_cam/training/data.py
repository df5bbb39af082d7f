"""What a data pipeline says of itself: its transform, its normalization, the names of its classes."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

_INNER = ("dataset", "datasets", "transform", "transforms", "image_transform", "val_transform")
_CLASS_NAMES = ("classes", "class_names", "categories")
_Statistics = tuple[tuple[float, ...], tuple[float, ...]]
_MOST_ITEMS, _MOST_IN_ONE, _LONGEST_WALK = 1000, 100, 0.5  # of a walk in all, of one container, seconds
_MOST_NORMALIZED = 10.0  # of images that are none of bytes
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


def loaders_of(trainer: Any) -> Any:
    """The loaders of the loop that runs, as the user gave them."""
    return trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders


def find_transform(source: Any) -> Callable[[Any], Any] | None:
    """The transform of the first dataset that has a callable one, or None."""
    transforms = (attribute_of(item, "transform") for item in walk(source))
    return next((transform for transform in transforms if callable(transform)), None)


def find_class_names(sources: Sequence[Any]) -> list[str] | None:
    """The first list of class names that a dataset or data module holds, or None."""
    for source in sources:
        for item in walk(source):
            for attribute in _CLASS_NAMES:
                names = attribute_of(item, attribute)
                if isinstance(names, (list, tuple)) and names:
                    return [str(name) for name in names]
    return _names_in_configuration(sources)


def _names_in_configuration(sources: Sequence[Any]) -> list[str] | None:
    """Hugging Face's `config.id2label` of a module, unless it only numbers the labels."""
    for source in sources:
        for module in source.modules() if isinstance(source, nn.Module) else ():
            names = attribute_of(attribute_of(module, "config"), "id2label")
            if isinstance(names, Mapping) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
                texts = [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
                if texts != [f"LABEL_{index}" for index in range(len(texts))]:
                    return texts
    return None


def find_normalization(images: Tensor, source: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Find the mean and standard deviation that `images` were normalized with.

    The first of these under which the images return to [0, 1]: none at all (a normalized batch has negative values),
    what the transforms of `source` hold, what the model says of itself (timm's `pretrained_cfg`). If none does, the
    darkest and brightest value stand for 0 and 1.

    Args:
        images: (B, C, H, W), normalized.
        source: A loader, dataset or transform.
        model: Any module.

    Returns:
        Mean and standard deviation, (C,) float32 on the device of `images`.
    """
    low, high = images.float().amin((0, 2, 3)), images.float().amax((0, 2, 3))
    bytes_ = [((0.0,), (1 / 255,))] if low.min() >= 0 and high.max() > _MOST_NORMALIZED else []
    stated: list[_Statistics | None] = [((0.0,), (1.0,)), *bytes_, *(_statistics(item) for item in walk(source))]
    stated += [_statistics(getattr(module, "pretrained_cfg", None)) for module in model.modules()]
    for found in stated:
        if found is None or any(len(values) not in (1, len(low)) for values in found):
            continue
        mean, std = (torch.tensor(values, device=images.device).expand(len(low)) for values in found)
        if ((low * std + mean) >= -_TOLERANCE).all() and ((high * std + mean) <= 1 + _TOLERANCE).all():
            return mean, std
    std = 1 / (high.max() - low.min()).clamp_min(1e-7)
    return (-low.min() * std).expand(len(low)), std.expand(len(low))


def _statistics(item: Any) -> _Statistics | None:
    """Mean and standard deviation that a transform or a configuration holds as plain numbers."""
    get = item.get if isinstance(item, Mapping) else lambda name: attribute_of(item, name)
    try:
        mean, std = (torch.as_tensor(get(name), dtype=torch.float32).flatten().tolist() for name in ("mean", "std"))
    except (TypeError, ValueError, RuntimeError):  # no such attribute, or something else goes by that name
        return None
    return (tuple(mean), tuple(std)) if mean and std else None


def as_statistics(value: float | Sequence[float] | None, like: Tensor) -> Tensor | None:
    """A mean or standard deviation given by the user as (C,) float32 on the device of the images."""
    if value is None:
        return None
    numbers = torch.as_tensor(value, dtype=torch.float32).flatten()
    if len(numbers) not in (1, like.shape[1]):
        raise ValueError(f"mean, std: expected 1 or {like.shape[1]} numbers, got {len(numbers)}")
    return numbers.to(like.device).expand(like.shape[1])
