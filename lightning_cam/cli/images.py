"""Find the images given on the command line, and read them in worker processes."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_cam.cli.errors import UsageError
from lightning_cam.training.image_files import SUFFIXES, images_below, is_image_file, read_image


def find_images(path: str, exclude: Path | None = None, option: str = "--path") -> tuple[Path, list[Path]]:
    """Find the images that a path stands for.

    Args:
        path: A file, a folder (searched with all below it) or a glob pattern such as `'photos/**/*.png'`.
        exclude: A folder whose files are left out: that of an earlier run's pictures.
        option: The option that the path was given to, for the message.

    Returns:
        The folder that all files are in, and the files in order of their paths.

    Raises:
        UsageError: There is no image, or the pattern has `..` behind a wildcard.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (2, 2)).save(folder / "a.PNG")
        >>> [file.name for file in find_images(str(folder))[1]]
        ['a.PNG']
    """
    given = Path(os.path.expanduser(path))
    if os.path.isfile(given):  # whatever its suffix
        return given.parent, [given]
    if os.path.isdir(given):
        root, found = given, images_below(given)
    else:
        root, matching = match(given, option)
        found = sorted(file for file in matching if is_image_file(file))
    excluded = None if exclude is None else exclude.resolve()
    files = [file for file in found if not (excluded and file.resolve().is_relative_to(excluded))]
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UsageError(
            f"{option}: no image ({kinds}) in {path!r}; expected a file, a folder or a quoted glob pattern"
        )
    return root, files


def match(pattern: Path, option: str) -> tuple[Path, Iterator[Path]]:
    """Match a glob pattern; `**` does not follow links to folders, which may lead in a circle.

    Args:
        pattern: May also be a path without wildcards.
        option: The option that it was given to, for the message.

    Returns:
        The folder before the first wildcard, so that the same pattern always means the same one; and what is found.

    Raises:
        UsageError: There is a `..` behind a wildcard: what it leads to is not in that folder.
    """
    plain = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    wild = pattern.parts[len(plain) :]
    root = Path(*plain)
    if ".." in wild:
        raise UsageError(f"{option}: expected no '..' after a wildcard, got {str(pattern)!r}")
    if not wild:
        return root.parent, iter([root] if os.path.exists(root) else [])
    return root, root.glob(str(Path(*wild, "*") if wild[-1] == "**" else Path(*wild)))


@dataclass(frozen=True)
class ReadImage:
    """What a loader's worker found out about a file.

    Args:
        file: The file.
        error: Why it could not be read; empty if it could.
    """

    file: Path
    error: str = ""


class ImageFiles(Dataset[tuple[ReadImage, Tensor | None]]):
    """Reads and preprocesses files; a broken one is an item with an error and no tensor.

    Args:
        files: The files.
        transform: From an RGB image to a (C, H, W) tensor.
    """

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[ReadImage, Tensor | None]:
        file = self.files[index]
        try:
            return ReadImage(file), self.transform(read_image(file))
        except (OSError, ValueError, MemoryError) as error:  # no file, or none that can be prepared
            return ReadImage(file, f"{type(error).__name__}: {error}"), None
