"""The records under the log directory, and nothing else: other files are neither listed nor opened for the page.

A record is a regular file with the right name and first bytes that lies in the log directory after all links are
resolved. Otherwise anyone who can write to the log directory could expose any file of the user who runs TensorBoard.
"""

import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lightning_cam.tensorboard_plugin import remote
from lightning_cam.tensorboard_plugin.remote import RemoteRecord, is_remote

_log = logging.getLogger(__name__)

# As in lightning_cam.timeline.format, from which nothing else is needed here.
SUFFIX = ".lcam"
MAGIC = b"LCAM"

_MOST_FOLDERS = 100_000
_MOST_RECORDS = 10_000
_MOST_SECONDS = 10.0
_NAMED = 3  # of the links that are left out
# A pipe is opened without waiting for its other end; a link that took the file's place is not followed.
_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))


_Folders = deque[tuple[str, str]]  # each with its name on the page


class NoRecordError(Exception):
    """A file is no record, or lies outside of the log directory."""


class RecordFinder:
    """Look through directories for records, not more often than the looking takes time.

    Args:
        roots: The directories, each with the run name it stands for; addresses of stores are text.
    """

    def __init__(self, roots: list[tuple[str, Path | str]]) -> None:
        self._roots = [(name, root) for name, root in roots if not is_remote(root)]
        self._remote_roots = [(name, str(root)) for name, root in roots if is_remote(root)]
        self._found: dict[str, str] = {}
        self._fresh_until = 0.0
        self._walking = threading.Lock()
        self._said: set[str] = set()
        #: Sentences on what is left out.
        self.notes: list[str] = []

    def paths(self) -> dict[str, str]:
        """Return each record's resolved path by its run and file name, `run/file.lcam`."""
        # One request looks, the others take what was found before.
        if time.monotonic() >= self._fresh_until and self._walking.acquire(blocking=self._fresh_until == 0):
            try:
                if time.monotonic() >= self._fresh_until:
                    self._look()
            finally:
                self._walking.release()
        return self._found

    @contextmanager
    def open(self, key: str) -> Iterator["BinaryIO | RemoteRecord"]:
        """Open a record that was found.

        Raises:
            NoRecordError: There is none under this key, or no longer.
        """
        path = self.paths().get(key)
        if path is None:
            raise NoRecordError(key)
        opened = _open_remote(path) if is_remote(path) else _open_record(path, self._resolved_roots())
        with opened as file:
            yield file

    def _resolved_roots(self) -> list[str]:
        return [os.path.realpath(root) for _, root in self._roots]

    def _look(self) -> None:
        started = time.monotonic()
        walk = _Walk(self._resolved_roots(), started + _MOST_SECONDS)
        for (name, _), root in zip(self._roots, walk.roots, strict=True):
            walk.visit(name, root)
        for name, address in self._remote_roots:
            walk.visit_remote(name, address)
        self._found = dict(sorted(walk.found.items()))
        self.notes = walk.notes()
        for note in set(self.notes) - self._said:
            self._said.add(note)
            _log.warning("CAM Timeline: %s", note)
        ended = time.monotonic()
        self._fresh_until = ended + max(1.0, 10 * (ended - started))


class _Walk:
    """One look through the directories, with its limits."""

    def __init__(self, roots: list[str], deadline: float) -> None:
        self.roots = roots
        self.found: dict[str, str] = {}
        self._deadline = deadline
        self._folders: set[tuple[int, int]] = set()
        self._outside: list[str] = []
        self._others: list[str] = []
        self._cut = False

    def visit(self, name: str, root: str) -> None:
        """Look through one root, each directory once, those below links last: they have a name of their own."""
        folders, linked = _Folders([(name, root)]), _Folders()
        while folders or linked:
            key, folder = (folders or linked).popleft()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self._folders:
                    continue
                self._folders.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if self._is_over():
                            return
                        self._see(f"{key}/{_printable(entry.name)}".lstrip("/"), folder, entry, folders, linked)
            except OSError:  # deleted since it was found, or not ours to read
                continue

    def visit_remote(self, name: str, root: str) -> None:
        """Look through a remote root; there are no links in stores."""
        for address, path in remote.walk(root):
            if self._is_over():
                return
            if path.endswith(SUFFIX):
                self.found.setdefault(f"{name}/{path}".lstrip("/"), address)

    def _is_over(self) -> bool:
        at_limit = len(self._folders) > _MOST_FOLDERS or len(self.found) >= _MOST_RECORDS
        self._cut = self._cut or at_limit or time.monotonic() > self._deadline
        return self._cut

    def _see(self, key: str, folder: str, entry: os.DirEntry[str], folders: _Folders, linked: _Folders) -> None:
        path = os.path.join(folder, entry.name)
        if entry.is_symlink():
            path = os.path.realpath(path)
            is_folder = os.path.isdir(path)
            if not is_folder and not key.endswith(SUFFIX):
                return
            if not _is_inside(path, self.roots):
                self._outside.append(key)
            elif is_folder:
                linked.append((key, path))
            else:
                self._try(key, path)
        elif entry.is_dir(follow_symlinks=False):
            folders.append((key, path))
        elif key.endswith(SUFFIX):
            self._try(key, path)

    def _try(self, key: str, path: str) -> None:
        try:
            with _open_record(path, self.roots):
                self.found.setdefault(key, path)
        except (NoRecordError, OSError):
            self._others.append(key)

    def notes(self) -> list[str]:
        """Return a sentence on each kind of thing that was left out."""
        notes = []
        if self._outside:
            notes.append(f"Skipped, because they link outside the log directory: {_listed(self._outside)}.")
        if self._others:
            notes.append(f"Skipped, because they are not readable CAM timelines: {_listed(self._others)}.")
        if self._cut:
            notes.append(
                f"The log directory is too large to search: after {_MOST_RECORDS:,} records, "
                f"{_MOST_FOLDERS:,} folders or {_MOST_SECONDS:.0f} seconds the rest is skipped. "
                "Start TensorBoard with the --logdir of a subfolder."
            )
        return notes


@contextmanager
def _open_record(path: str, roots: list[str]) -> Iterator[BinaryIO]:
    resolved = os.path.realpath(path)
    # Asked before it is opened as well: opening alone does something to some devices.
    if not _is_inside(resolved, roots) or not stat.S_ISREG(os.stat(resolved).st_mode):
        raise NoRecordError(path)
    with open(os.open(resolved, _FLAGS), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NoRecordError(path)
        start = file.read(len(MAGIC))
        if start != MAGIC[: len(start)]:  # a writer may have made the file just now
            raise NoRecordError(path)
        yield file


@contextmanager
def _open_remote(address: str) -> Iterator[RemoteRecord]:
    file = RemoteRecord(address)
    try:
        start = file.read(len(MAGIC))
        if start != MAGIC[: len(start)]:
            raise NoRecordError(address)
    finally:
        file.close()
    file = RemoteRecord(address)  # read from the beginning again
    try:
        yield file
    finally:
        file.close()


def status_of(file: "BinaryIO | RemoteRecord") -> tuple[int, float]:
    """Return an open record's size in bytes, and when it was changed in seconds since 1970, 0 where that is unknown."""
    if isinstance(file, RemoteRecord):
        return file.size, 0.0
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime


def _is_inside(path: str, roots: list[str]) -> bool:
    return any(path == root or path.startswith(os.path.join(root, "")) for root in roots)


def _printable(name: str) -> str:
    """A file's name as text: names are bytes, which need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _listed(keys: list[str]) -> str:
    short = [key if len(key) <= 100 else f"{key[:50]}…{key[-49:]}" for key in sorted(keys)[:_NAMED]]
    # A name goes into the log as well: one that holds a new line is to begin none there.
    names = ", ".join("".join(letter if letter.isprintable() else "�" for letter in key) for key in short)
    more = len(keys) - _NAMED
    return names if more <= 0 else f"{names} and {more:,} more"
