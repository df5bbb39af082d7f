"""Finding the images that the command line is given, and reading them in worker processes."""

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lightning_cam.cli.errors import UsageError
from lightning_cam.training.image_files import SUFFIXES, read_image


def find_images(path: str, exclude: Path | None = None, option: str = "--path") -> tuple[Path, list[Path]]:
    """Find the images that a path stands for.

    Args:
        path: A file, a folder (searched with all below it) or a glob pattern such as `'photos/**/*.png'`.
        exclude: A folder whose files are left out: that of an earlier run's pictures.
        option: The option that the path was given to, for the message.

    Returns:
        The folder that all files are in, and the files in order of their paths.

    Raises:
        UsageError: There is no image.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (2, 2)).save(folder / "a.PNG")
        >>> [file.name for file in find_images(str(folder))[1]]
        ['a.PNG']
    """
    given = Path(path).expanduser()
    if given.is_file():  # whatever its suffix
        return given.parent, [given]
    if given.is_dir():
        root, found = given, list(given.rglob("*"))
    else:
        found = [Path(name) for name in glob.glob(str(given), recursive=True)]
        # The part before the first wildcard, so that the same pattern always means the same root.
        plain = [part for part in given.parts if not glob.has_magic(part)]
        root = Path(*given.parts[: next((i for i, p in enumerate(given.parts) if glob.has_magic(p)), len(plain))])
    excluded = None if exclude is None else exclude.resolve()
    files = sorted(
        file
        for file in found
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not (excluded and file.resolve().is_relative_to(excluded))
    )
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UsageError(
            f"{option}: no image ({kinds}) in {path!r}; expected a file, a folder or a quoted glob pattern"
        )
    return root, files


@dataclass(frozen=True)
class ReadImage:
    """What a loader's worker found out about a file.

    Args:
        file: The file.
        error: Why it could not be read; empty if it could.
        size: Height and width of the picture in the file, upright.
    """

    file: Path
    error: str = ""
    size: tuple[int, int] = (0, 0)


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
            image = read_image(file)
            return ReadImage(file, size=(image.height, image.width)), self.transform(image)
        # Pillow's plugins raise whatever a damaged file leads them to: OSError, SyntaxError, ValueError, struct.error.
        except Exception as error:
            return ReadImage(file, f"{type(error).__name__}: {error}"), None
