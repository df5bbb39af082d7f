"""Records in stores that fsspec supports, such as s3://, gs:// and memory://, through copies on this machine.

Stores of objects cannot append. So a run writes its record here and copies it there as it grows, and a reader copies
what is there to here. fsspec comes with Lightning and is imported only where an address is given.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_cam.timeline.format import SUFFIX

_GROWTH = 1.25  # a record is copied anew when it is so much larger: all copies together are five times the last one


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address of a store and not of this machine.

    Example:
        >>> is_remote("s3://bucket/logs"), is_remote("logs"), is_remote("file:///logs")
        (True, False, False)
    """
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme != "file"


def local_copy(logdir: str | os.PathLike[str]) -> Path:
    """Return a log directory, or a record, on this machine; of a remote one a copy of its records, until Python ends.

    Args:
        logdir: A path, or an address that fsspec knows.

    Raises:
        FileNotFoundError: There is nothing at that address.
        ImportError: fsspec needs a package for it that is not installed, such as s3fs.
    """
    if not is_remote(logdir):
        return Path(str(logdir).removeprefix("file://"))
    files, root = _opened(str(logdir))
    if not files.exists(root):
        raise FileNotFoundError(f"{logdir} does not exist")
    folder = _folder()
    if files.isfile(root):
        return _get(files, root, folder / PurePosixPath(root).name)
    for found in files.find(root):
        if found.endswith(SUFFIX):
            _get(files, found, folder / PurePosixPath(found).relative_to(PurePosixPath(root)))
    return folder


class RemoteFolder:
    """A folder on this machine that stands for a remote directory, into which its files are copied.

    Args:
        url: The directory's address.

    Attributes:
        folder: The folder; the records that are at the address already are in it.
    """

    def __init__(self, url: str) -> None:
        self._files, self._root = _opened(url.rstrip("/"))
        self.folder = _folder()
        self._copied: dict[str, int] = {}
        if self._files.isdir(self._root):
            for found in self._files.glob(f"{self._root}/*{SUFFIX}"):
                _get(self._files, found, self.folder / PurePosixPath(found).name)

    def copy_if_grown(self, file: Path) -> None:
        """Copy a file there if it has grown by a quarter since it was copied last.

        Raises:
            OSError: The store refuses it, or cannot be reached.
        """
        if file.stat().st_size >= _GROWTH * self._copied.get(file.name, 0):
            self.copy(file)

    def copy(self, file: Path) -> None:
        """Copy a file there.

        Raises:
            OSError: The store refuses it, or cannot be reached.
        """
        size = file.stat().st_size
        self._files.makedirs(self._root, exist_ok=True)
        self._files.put_file(str(file), f"{self._root}/{file.name}")
        self._copied[file.name] = size


def _opened(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(url)
    return files, root.rstrip("/")


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lightning_cam_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _get(files: Any, found: str, here: Path) -> Path:
    here.parent.mkdir(parents=True, exist_ok=True)
    files.get_file(found, str(here))
    return here
