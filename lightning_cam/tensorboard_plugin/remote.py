"""Records in stores that TensorBoard's own file layer can read, such as s3://, gs:// and memory://."""

from collections.abc import Iterator

from tensorboard.compat import tf

_CHUNK = 2**20  # bytes that are passed over at once


def is_remote(root: object) -> bool:
    """Whether a log directory is an address of a store, which TensorBoard reads through its file layer."""
    return "://" in str(root)


def walk(root: str) -> Iterator[tuple[str, str]]:
    """Yield the address of each file below a remote directory, and its path from there."""
    for folder, _, files in tf.io.gfile.walk(root):
        for name in files:
            address = f"{str(folder).rstrip('/')}/{name}"
            yield address, address.removeprefix(f"{root.rstrip('/')}/")


class RemoteRecord:
    """A remote file to be read from any place; the file layer reads from the beginning only.

    Args:
        address: Of the file.

    Attributes:
        size: In bytes, when it was opened.
    """

    def __init__(self, address: str) -> None:
        self.size = int(tf.io.gfile.stat(address).length)
        self._file = tf.io.gfile.GFile(address, "rb")
        self._at = self._next = 0

    def seek(self, place: int) -> int:
        """Let the next `read` begin at a place."""
        self._next = place
        return place

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes."""
        if self._next < self._at:
            raise OSError("a remote record can only be read forward")
        while self._at < self._next and (passed := self._take(min(_CHUNK, self._next - self._at))):
            self._at += len(passed)
        data = self._take(size)
        self._at = self._next = self._at + len(data)
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _take(self, size: int) -> bytes:
        return self._file.read(min(size, self.size - self._at)) if self.size > self._at else b""
