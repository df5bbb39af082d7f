"""What a data pipeline states: its transform, the names of its classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.normalization import attribute_of, walk

_CLASS_NAMES = ("classes", "class_names", "categories")


def loaders_of(trainer: Any) -> Any:
    """The loaders of the loop that runs, as the user gave them."""
    if trainer.training:
        return trainer.train_dataloader
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


def as_statistics(value: float | Sequence[float] | None, like: Tensor) -> Tensor | None:
    """A mean or standard deviation given by the user as (C,) float32 on the device of the images."""
    if value is None:
        return None
    numbers = torch.as_tensor(value, dtype=torch.float32).flatten()
    if len(numbers) not in (1, like.shape[1]):
        raise ValueError(f"mean, std: expected 1 or {like.shape[1]} numbers, got {len(numbers)}")
    return numbers.to(like.device).expand(like.shape[1])
