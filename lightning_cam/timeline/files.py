"""A record as a file that one process writes to: its name, its lock, writes that are whole or not there."""

import contextlib
import errno
import os
import re
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LONGEST_STEM = 100  # bytes; a file system takes 255, and `_timelapse.webp` or a number may follow
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # not file names on Windows
_LOCKED_BYTE = 2**40  # beyond any record: Windows lets nobody read what is locked


def file_stem(name: str) -> str:
    """Return a name as the beginning of a file name, never a path, on any system.

    Example:
        >>> file_stem("cam"), file_stem("../x"), file_stem("a b/c"), file_stem("nul"), file_stem("..")
        ('cam', '_x', 'a_b_c', '_nul', 'cam')
    """
    stem = re.sub(r"[^\w.+-]+", "_", name).strip(".")
    stem = stem.encode("utf-8", "ignore")[:_LONGEST_STEM].decode("utf-8", "ignore").rstrip(".")
    return f"_{stem}" if _DEVICES.match(stem) else stem or "cam"


class RecordFile:
    """A file that is open for appending, and locked where the file system can.

    Args:
        path: The file; made where missing, with the directories above it.

    Raises:
        BlockingIOError: Another writer has it open.
        OSError: It cannot be opened, or is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # to open a pipe would wait for its reader
            raise OSError(errno.EEXIST, "expected a file", str(path))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (stays open for the run)
        try:
            _lock(self._file.fileno())
        except BlockingIOError:
            self._file.close()
            raise

    def write(self, data: bytes) -> None:
        """Append all of `data`, or nothing.

        Raises:
            OSError: It could not be written, or the file is no longer where it was.
        """
        if not self._is_in_place():
            raise FileNotFoundError(errno.ENOENT, "the record is gone", str(self.path))
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def overwrite(self, at: int, data: bytes) -> None:
        """Put `data` in the place of what stands at a byte."""
        with self.path.open("r+b", buffering=0) as file:
            file.seek(at)
            file.write(data)

    def truncate(self, size: int) -> None:
        """Cut off what lies behind `size` bytes."""
        self._file.truncate(size)

    def close(self) -> None:
        """Let go of the file and its lock."""
        if not self._file.closed:
            # A process that was forked meanwhile has the file open too, and would go on to hold the lock.
            _unlock(self._file.fileno())
            self._file.close()

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            return False


def _lock(descriptor: int) -> None:
    """Lock an open file; some network file systems have no locks, and it goes without.

    Raises:
        BlockingIOError: Another one has locked it.
    """
    if sys.platform == "win32":
        try:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
        except OSError:
            return
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
