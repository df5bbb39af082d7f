"""Keep the last free space of a disk for the trainer."""

import shutil
from pathlib import Path

RESERVE = 16 * 2**20  # bytes


def leave_room(folder: str | Path, size: int = 0) -> None:
    """Refuse to fill the disk: a failed write would break the trainer's event file, and the run.

    Args:
        folder: Where something shall be written; one that is not on this machine, or not there yet, is not looked at.
        size: How many bytes.

    Raises:
        OSError: Less than 16 MiB would be left.
    """
    if not Path(folder).is_dir():
        return
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise OSError(
            f"only {free / 2**20:.1f} MiB are free in {folder}, and {RESERVE >> 20} MiB are kept free for others"
        )
