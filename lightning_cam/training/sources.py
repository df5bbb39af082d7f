"""The images given with `probe=`: a folder, indices into the validation dataset, a tensor or a batch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from lightning_cam.printable import printable
from lightning_cam.training.image_files import SUFFIXES, images_below, read_image

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderImages:
    """Images of a folder.

    Args:
        images: (N, C, H, W), as the transform gives them.
        labels: (N,) int64, which of `class_names` the subfolder of each is, -1 for none; None without subfolders.
        class_names: Names of the classes, or None.
        names: Of the files.
    """

    images: Tensor
    labels: Tensor | None
    class_names: list[str] | None
    names: tuple[str, ...]


def images_of_folder(
    path: str | Path,
    num_samples: int = 16,
    transform: Callable[[Any], Tensor] | None = None,
    class_names: Sequence[str] | None = None,
) -> FolderImages:
    """Read images of a folder and those below it, of each subfolder in turn, in order of their paths.

    Args:
        path: The folder. If all images lie in subfolders, these are the classes, as in an `ImageFolder`.
        num_samples: How many images at most.
        transform: The validation transform, from a PIL image to (C, H, W). Without one, the images are scaled to
            [0, 1] and must be of one size.
        class_names: Names of the classes, if they are known; subfolders of other names hold images without a label.

    Raises:
        ValueError: There is no such folder, no image in it, or the images differ in size after `transform`.
    """
    folder = Path(path)
    by_folder: dict[str, list[Path]] = {}
    for file in images_below(folder):
        inside = file.relative_to(folder).parts
        by_folder.setdefault(inside[0] if len(inside) > 1 else "", []).append(file)
    in_turn = (file for files in zip_longest(*by_folder.values()) for file in files if file is not None)
    files: list[Path] = []
    images: list[Tensor] = []
    for file in in_turn:
        if len(images) == num_samples:  # no more of them are read than needed
            break
        image = _read(file, transform)
        if image is not None:
            files.append(file)
            images.append(image)
    if not images:
        what = "contains no images" if folder.is_dir() else "is not a folder"
        raise ValueError(f"probe: {str(folder)!r} {what}; expected a folder with {', '.join(sorted(SUFFIXES))} files")
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(sorted({str(tuple(image.shape)) for image in images}))
        where = "the validation transform" if transform else "the validation dataset's `transform`, which is not set"
        raise ValueError(
            f"probe: the images of {str(folder)!r} differ in size ({sizes}); resize and crop them in {where}"
        )
    names = None if "" in by_folder else list(class_names or sorted(by_folder))
    if names is not None and not set(names) & set(by_folder):
        names = None
    labels = None
    if names is not None:
        number = {name: index for index, name in enumerate(names)}
        labels = torch.tensor([number.get(file.relative_to(folder).parts[0], -1) for file in files])
    return FolderImages(torch.stack(images), labels, names, tuple(file.name for file in files))


def batch_of_indices(indices: Sequence[int], loader: Any) -> Any:
    """The batch that a loader's dataset and `collate_fn` make of these items.

    Args:
        indices: Of items.
        loader: A loader with a dataset that can be indexed.

    Raises:
        ValueError: The dataset cannot be indexed, or not with these.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> batch_of_indices([3, 1], DataLoader(range(5)))
        tensor([3, 1])
    """
    dataset, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    try:
        items = [dataset[index] for index in indices]  # type: ignore[index]
    except Exception as error:
        raise ValueError(
            f"probe: the validation dataset ({type(dataset).__name__}) cannot return the items {list(indices)} "
            f"({type(error).__name__}: {error}); give indices below its length, a folder, or a batch"
        ) from error
    return items if collate is None else collate(items)


def first_loader(loaders: Any) -> Any:
    """The first of one or several loaders."""
    if not isinstance(loaders, (list, tuple, dict)):
        return loaders
    return next(iter(loaders.values() if isinstance(loaders, dict) else loaders))


def _read(file: Path, transform: Callable[[Any], Tensor] | None) -> Tensor | None:
    """The image of a file, or None if the file cannot be read."""
    try:
        image = read_image(file)
    except OSError as error:
        _log.warning("probe: %s is skipped: %s", printable(file), printable(error))
        return None
    result = (transform or to_tensor)(image)
    if isinstance(result, (list, tuple)) and result:  # views, of which the first is taken
        result = result[0]
    if not isinstance(result, Tensor) or result.ndim != 3:
        raise ValueError(
            f"probe: the validation transform returns a {type(result).__name__}; expected a (C, H, W) tensor"
        )
    return result
