"""The probe for display: its images, their ground truth, and a description of its contents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_cam.model.normalization import (
    between_percentiles,
    find_normalization,
    known_normalization,
    stated_normalizations,
)
from lightning_cam.model.parts import DenseTask
from lightning_cam.model.tasks import Labels, Pairs
from lightning_cam.render import to_uint8, unnormalize
from lightning_cam.timeline.planes import Planes
from lightning_cam.training.data import as_statistics
from lightning_cam.training.heads import Head
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.settings import Settings

_CONSISTS = {
    "slice": "Images have {count} slices{shown}; a tile is the slice with most evidence, and says which.",
    "frame": "Images have {count} frames{shown}, shown side by side.",
    "instance": "Images are bags of {count} instances{shown}, because their order makes no difference to the output; "
    "they are shown in the order of their evidence.",
}


@dataclass(frozen=True)
class Truth:
    """What is true of each image, where that is more or less than a class.

    Args:
        texts: In words; None where the label says it.
        present: (N, classes) bool, which labels it has, or None.
    """

    texts: list[str] | None = None
    present: Tensor | None = None


def pictures_of(
    probe: ProbeBatch, loaders: Any, module: LightningModule, settings: Settings, planes: Planes | None = None
) -> Tensor:
    """The probe's images as a person would see them.

    Args:
        probe: The images.
        loaders: Of the validation, whose transforms may tell how images were normalized.
        module: The model, which may tell it too.
        settings: `mean`, `std` and `rgb` of the user.
        planes: What images consist of, if that is planes.

    Returns:
        (N, 3, H, W) uint8, on the images' device; with planes (N, n, 3, H, W), those that are kept.
    """
    images = probe.images if probe.shown is None else probe.shown
    if planes is not None:
        chosen = torch.tensor(planes.numbers, device=images.device) - 1
        flat = images.index_select(2, chosen).transpose(1, 2).flatten(0, 1)
        pictures = pictures_of(replace(probe, images=flat, shown=None), loaders, module, settings)
        return pictures.unflatten(0, (-1, len(chosen)))
    bands = _bands(images, settings)
    if max(bands) >= images.shape[1]:
        raise ValueError(f"rgb: the images have the bands 0 to {images.shape[1] - 1}, got {settings.rgb}")
    known = _known(images, loaders, module, settings)
    if known is None and images.shape[1] != 3:
        mean, std = between_percentiles(images[:, bands])
    else:
        mean, std = (values[bands] for values in known or find_normalization(images, []))
    return to_uint8(unnormalize(images[:, bands].float(), mean, std))


def words_of_pictures(
    probe: ProbeBatch, loaders: Any, module: LightningModule, settings: Settings, planes: Planes | None = None
) -> str:
    """What is to be said of how `pictures_of` shows images that are no colors, a sentence, or nothing."""
    images = probe.images if probe.shown is None else probe.shown
    if planes is not None:
        flat = replace(probe, images=images.transpose(1, 2).flatten(0, 1), shown=None)
        count, some = planes.count, len(planes.numbers)
        shown = f", of which {some} are kept" if some < count else ""
        return (
            f" {_CONSISTS[planes.kind].format(count=count, shown=shown)} No findings are made."
            f"{words_of_pictures(flat, loaders, module, settings)}"
        )
    bands, count = _bands(images, settings), images.shape[1]
    if count == 3 and settings.rgb is None:
        return ""
    shown = f"band {bands[0]} gray" if len(bands) == 1 else f"bands {bands[0]}, {bands[1]} and {bands[2]} as colors"
    which = "" if count == 1 else f" Of {count} bands, numbered from 0, pictures show {shown}."
    if _known(images, loaders, module, settings) is not None:
        return which
    return f"{which} Each band is stretched from its 2nd to its 98th percentile, as its range is not known."


def _bands(images: Tensor, settings: Settings) -> list[int]:
    """Numbers of the bands that are shown: one, or three."""
    if settings.rgb is not None:
        return [settings.rgb] if isinstance(settings.rgb, int) else list(settings.rgb)
    return [0, 1, 2] if images.shape[1] > 2 else [0]


def _known(images: Tensor, loaders: Any, module: LightningModule, settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation (C,) that images were normalized with, if that is known."""
    given = (0.0, 1 / 255) if images.dtype == torch.uint8 else (settings.mean, settings.std)
    mean, std = (as_statistics(value, images) for value in given)
    if mean is not None and std is not None:
        return mean, std
    return known_normalization(images, stated_normalizations(loaders, module))


def truth_of(probe: ProbeBatch, head: Head, class_names: Sequence[str], value: int, parts: int = 1) -> Truth:
    """What is true of each image, for captions.

    Args:
        probe: The images.
        head: The output that is explained.
        class_names: Names of its classes.
        value: Which of several values is explained.
        parts: How many rows of the probe show one image.
    """
    target, texts, present = probe.targets.get(head.name), None, None
    if isinstance(head.task, Labels) and target is not None:
        present = head.task.present(target)
    if present is not None:
        texts = [", ".join(_name(index, class_names) for index in row.nonzero().flatten()) or "none" for row in present]
        assert target is not None
        unknown = target.isnan().flatten(1).all(1).tolist()  # no label has a target
        texts = ["?" if is_unknown else text for text, is_unknown in zip(texts, unknown, strict=True)]
    elif head.task is not None and not head.task.has_classes:
        values = None if target is None or target.ndim > 2 else target.reshape(len(target), -1).float()
        texts = [""] * len(probe.images)
        if values is not None and value < values.shape[1] and not isinstance(head.task, Pairs):
            texts = [f"{number:.4g}".replace("nan", "?") for number in values[:, value].tolist()]
    if isinstance(head.task, DenseTask):
        count = len(probe.images) // parts
        names = probe.names[::parts] or tuple(f"image {number + 1}" for number in range(count))
        return Truth([name for name in names for _ in range(parts)])
    if probe.names:
        labels = probe.labels
        if texts is None:
            texts = [""] * len(probe.names) if labels is None else [_name(label, class_names) for label in labels]
            if labels is not None and head.num_classes is not None:
                present = torch.zeros(len(labels), head.num_classes, dtype=torch.bool, device=labels.device)
                known_rows = (labels >= 0) & (labels < head.num_classes)
                present[known_rows.nonzero().flatten(), labels[known_rows]] = True
        texts = [f"{name} {text}".rstrip() for name, text in zip(probe.names, texts, strict=True)]
    return Truth(texts, None if present is None else present.cpu())


def names_that_fit(names: list[str] | None, num_classes: int | None) -> list[str] | None:
    """The names, if there are as many as classes, or it is not known how many there are."""
    return names if names is None or num_classes in (None, len(names)) else None


def holds(probe: ProbeBatch, num_classes: int | None) -> str:
    """What the probe holds, such as "16 images, 10 of 10 classes."."""
    count = len(probe.images)
    images = f"{count} image{'s' if count > 1 else ''}"
    if probe.labels is None:
        return f"{images}."
    there = len(set(probe.labels.tolist()) - {-1})
    return f"{images}, {there} of {num_classes} classes." if num_classes else f"{images}, {there} classes."


def _name(index: int | Tensor, class_names: Sequence[str]) -> str:
    index = int(index)
    return "?" if index < 0 else class_names[index] if index < len(class_names) else str(index)
