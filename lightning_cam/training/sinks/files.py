"""Plain files, for loggers that can't log images."""

import csv
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_cam.findings import as_markdown
from lightning_cam.render import encode_jpeg
from lightning_cam.timeline.files import file_stem
from lightning_cam.timeline.remote import is_remote
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink
from lightning_cam.training.sinks.disk import leave_room


class FilesSink(Sink):
    """Writes pictures and a table of scalars into a folder of the callback's name.

    `{directory}/{name}/{method}/{step}.jpg`, `…/{method}/filmstrip/{step}.jpg` and `{directory}/{name}/metrics.csv`
    with one row per scalar and look. In a name that is not a valid file name, everything but letters, digits and `.+-`
    becomes an underscore.

    Args:
        directory: Where the run's files lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = self._folder = directory
        self._name = "cam"

    def open(self, run: RunInfo) -> None:
        """Write the description as `about.md`."""
        self._name, self._folder = run.name, self._directory / file_stem(run.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "about.md").write_text(run.text, encoding="utf-8")

    def write(self, look: Look) -> None:
        """Write one file per picture and one line of the table."""
        leave_room(self._directory)
        for tag, picture in look.pictures.items():
            parts = tag.removeprefix(f"{self._name}/").split("/")
            path = self._folder.joinpath(*map(file_stem, parts), f"{look.step:08d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(picture))
        self._append(look.step, look.epoch, {tag: float(value) for tag, value in look.scalars.items()})

    def _append(self, step: int, epoch: int, scalars: dict[str, float]) -> None:
        path = self._folder / "metrics.csv"
        begins = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if begins:
                table.writerow(["step", "epoch", "tag", "value"])
            table.writerows([step, epoch, tag, value] for tag, value in scalars.items())

    def write_found(self, found: FoundLook, picture: Tensor) -> None:
        """Write the sentences as `findings.md`, the picture, and lines of the table."""
        leave_room(self._directory)
        (self._folder / "findings.md").write_text(
            f"Step {found.step}\n\n{as_markdown(found.findings)}\n", encoding="utf-8"
        )
        path = self._folder / "class_means" / f"{found.step:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(picture))
        self._append(found.step, found.epoch, found.scalars)


def directory_of(logger: Any, default_root_dir: str) -> Path | str:
    """Where a logger, or Lightning's `ModelCheckpoint` for it, keeps the files of this run.

    Args:
        logger: Any logger of Lightning's.
        default_root_dir: The trainer's, for loggers that keep nothing of their own.

    Returns:
        A path, or the address of a store that fsspec knows.
    """
    place = str(getattr(logger, "log_dir", None) or logger.save_dir or default_root_dir)
    own = [] if getattr(logger, "log_dir", None) else [str(logger.name), str(logger.version)]
    return "/".join([place.rstrip("/"), *own]) if is_remote(place) else Path(place, *own)
