"""The record that the CAM Timeline reads, and at the end the report and the timelapse made from it."""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_cam.model.parts import Parts
from lightning_cam.printable import printable
from lightning_cam.timeline import TimelineWriter
from lightning_cam.timeline.blocks import HEAD, BlockMaps
from lightning_cam.timeline.format import LONGEST_SIDE
from lightning_cam.timeline.found import MOST_MAPS, Found, FoundEntry
from lightning_cam.timeline.pace import Pace, TooSlow
from lightning_cam.timeline.parts import PartsSeen
from lightning_cam.timeline.remote import RemoteFolder, is_remote
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from lightning_cam.training.class_means import standing_out
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.base import RunInfo, Sink
from lightning_cam.training.sinks.disk import leave_room

_log = logging.getLogger(__name__)

_NOT_SEEN = "at a look the model runs them in another way than when they were found"
_PAGE_BYTES = 2**19  # of a report without a record
_SECONDS = 10.0  # that the end of a training may wait for the report and the timelapse


class TimelineSink(Sink):
    """Writes the record of raw maps into the run's directory.

    A look that cannot be written is lost, with one warning; the next one is tried again.

    Args:
        directory: Where the run's event file lies, a path or an address that fsspec knows.
        report: Write `{name}_report.html` next to the record when the run ends.
        timelapse: Write `{name}_timelapse` in this format as well.
        stored_size: Pixels of a stored image's longer side, at most.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        report: bool = True,
        timelapse: Literal["webp", "gif"] | None = None,
        stored_size: int = LONGEST_SIDE,
    ) -> None:
        self._place = directory
        self._remote = RemoteFolder(str(directory)) if is_remote(directory) else None
        self._directory = Path(directory) if self._remote is None else self._remote.folder
        self._report = report
        self._timelapse = timelapse
        self._stored_size = stored_size
        self._run_info: RunInfo | None = None
        self._record: Path | None = None
        self._writer: TimelineWriter | None = None
        self._said = False
        self._num_looks, self._num_found = 0, 0
        self._blocks: BlockMaps | None = None  # of the newest look, while they are not in the record
        self._pictured: set[int] = set()  # of the cohort, whose pictures are in the record

    def open(self, run: RunInfo) -> None:
        """Keep what the record begins with; a run that never looks leaves none."""
        self._run_info = run

    def write(self, look: Look) -> None:
        """Append one look.

        Raises:
            OSError: The disk is almost full.
        """
        leave_room(self._directory)
        try:
            self._append(look)
        except OSError as error:
            self._let_go()
            try:  # the directory may have been removed, or moved away
                self._append(look)
            except OSError:
                self._let_go()
                self._say(f"the look at step {look.step} could not be recorded ({error}); later looks are tried again")
            else:
                self._say(f"{error}; recording continues at step {look.step} in {self._record}")
        if self._writer is not None:
            self._write_blocks(look)
        if self._remote is not None and self._record is not None:
            try:
                self._remote.copy_if_grown(self._record)
            except Exception as error:  # whatever the store's package raises
                self._say(f"the record cannot be copied to {self._place} ({error}); this is tried again at each look")

    def _write_blocks(self, look: Look) -> None:
        """Keep what blocks read at the first look, the second, the fourth, the eighth and so on, and at the last one.

        These maps are larger than all others of a look together, and what a block reads changes early.
        """
        run = self._run_info
        assert run is not None  # opened before
        self._num_looks += 1
        maps = {method: [rows.numpy() for rows in maps] for method, maps in look.block_maps.items()}
        why = (run.no_blocks or _NOT_SEEN) if look.conservation and not maps else ""  # of methods of the whole depth
        self._blocks = BlockMaps(look.step, [*run.blocks, HEAD] if maps else [], maps, why) if maps or why else None
        if self._num_looks & (self._num_looks - 1) == 0:
            self._write_newest_blocks()

    def _write_newest_blocks(self) -> None:
        if self._blocks is not None and self._writer is not None:
            try:
                self._writer.add_blocks(self._blocks)
            except OSError as error:
                self._say(f"what blocks read at step {self._blocks.step} is not in the record ({error})")
            self._blocks = None

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Append metrics that belong to the look of this step."""
        if self._writer is None:
            return
        try:
            self._writer.add_metrics(step, metrics)
        except OSError as error:
            self._let_go()
            self._say(f"the metrics of step {step} could not be recorded ({error})")

    def write_found(self, found: FoundLook, picture: Tensor) -> None:
        """Append what was found to the look of its step."""
        if self._writer is None:
            return
        try:
            # Those of classes and regions stand in the statistics.
            whole = {tag: value for tag, value in found.scalars.items() if tag.rpartition("/")[0].endswith("/cohort")}
            self._writer.add_metrics(found.step, whole)
            self._writer.add_findings(self._recorded(found))
        except OSError as error:
            self._let_go()
            self._say(f"the findings of step {found.step} could not be recorded ({error})")

    def _recorded(self, found: FoundLook) -> Found:
        """What the record keeps: of later looks less often the maps of images that no finding names."""
        cohort = found.cohort
        named = list(dict.fromkeys(row for finding in found.findings for row in finding.images))
        self._num_found += 1
        rows = list(named)
        if self._num_found & (self._num_found - 1) == 0:  # the first look, the second, the fourth, the eighth, ...
            rows += [int(row) for row in np.linspace(0, len(found.maps) - 1, MOST_MAPS) if int(row) not in named]
        rows = list(dict.fromkeys(rows))
        pictures = {row: cohort.pictures[row] for row in named if len(cohort.pictures) and row not in self._pictured}
        self._pictured |= set(pictures)
        return Found(
            found.step,
            [
                FoundEntry(**{**finding.as_json(), "images": [int(cohort.places[row]) for row in finding.images]})
                for finding in found.findings
            ],
            {label: found.means[label] for label in standing_out(found.means, len(found.means))},
            cohort.places[rows],
            found.maps[rows],
            [asdict(group) for group in found.groups],
            {int(cohort.places[row]): picture for row, picture in pictures.items()},
        )

    def close(self) -> None:
        """Close the record; write the report and the timelapse if there was a look, and say where they are.

        What takes longer than ten seconds is thinned or skipped, with a warning.

        Raises:
            RuntimeError: One of the files could not be written; the other one was tried all the same.
        """
        if self._writer is None or self._record is None:  # there was no look, or its place is gone, which was said
            return
        self._write_newest_blocks()
        self._let_go()
        made = [self._record]
        files: dict[str, Callable[..., object]] = {}
        if self._report:
            files["report.html"] = write_report
        if self._timelapse:
            files[f"timelapse.{self._timelapse}"] = partial(write_timelapse, file_format=self._timelapse)
        faults, lost = [], set()
        with Pace(_SECONDS) as pace:
            for ending, write in files.items():
                path = self._record.with_name(f"{self._record.stem}_{ending}")
                try:
                    leave_room(self._directory, _PAGE_BYTES + 2 * self._record.stat().st_size)
                    write(self._record, path, pace=pace)
                    made.append(path)
                except TooSlow as error:
                    maker = "write_report" if write is write_report else "write_timelapse"
                    pace.note(
                        f"{path} was not written, because {error} than a training should wait: write it with {maker}"
                    )
                except Exception as error:
                    faults.append(f"{path} could not be written: {error}")
        if self._remote is not None:
            for file in made:
                try:
                    self._remote.copy(file)
                except Exception as error:  # whatever the store's package raises
                    faults.append(f"{file.name} could not be copied to {self._place}: {error}")
                    lost.add(file)
        self._say_where([file for file in made[1:] if file not in lost])
        if faults:
            raise RuntimeError("; ".join(faults))

    def _say_where(self, files: list[Path]) -> None:
        if not files:
            return
        what = {".html": "web page", ".webp": "animation", ".gif": "animation"}
        place = "" if self._remote is None else f"{str(self._place).rstrip('/')}/"
        named = [f"{place + file.name if place else file} ({what[file.suffix]})" for file in files]
        # Lightning's own way, so that it is seen beside "`Trainer.fit` stopped" without any setting up.
        rank_zero_info(printable(f"{files[0].stem.rpartition('_')[0]}: review this run in {' and '.join(named)}."))

    def _append(self, look: Look) -> None:
        self._writer = self._writer or self._open()
        is_of_parts = look.parts is not None
        self._writer.append(
            look.step,
            look.epoch,
            {method: _in_planes(maps, look.evidence.get(method)).numpy() for method, maps in look.maps.items()},
            probabilities=None if is_of_parts or look.probabilities is None else look.probabilities.float().numpy(),
            class_idx=None if is_of_parts or look.class_idx is None else look.class_idx.numpy(),
            values=None if look.values is None else look.values.float().numpy(),
            parts=_seen(look.parts),
            evidence={method: shares.numpy() for method, shares in look.evidence.items()} or None,
            metrics={tag: float(value) for tag, value in look.scalars.items()},
        )

    def _open(self) -> TimelineWriter:
        """Write the probe images, or go on with the record of these images that is there."""
        assert self._run_info is not None  # opened before
        writer = TimelineWriter(self._directory, self._run_info.name)
        labels, regions = self._run_info.labels, self._run_info.regions
        self._record = writer.probe(
            self._run_info.images.numpy(),
            labels=None if labels is None else labels.numpy(),
            class_names=self._run_info.class_names,
            regions=None if regions is None else regions.numpy(),
            texts=self._run_info.texts,
            longest_side=self._stored_size,
            planes=self._run_info.planes,
        )
        return writer

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _say(self, text: str) -> None:
        if not self._said:
            self._said = True
            _log.warning("%s: %s.", self._run_info.name if self._run_info else self._directory, text)


def _in_planes(maps: Tensor, evidence: Tensor | None) -> Tensor:
    """Maps (B, d * h, w) of planes below one another as (B, d, h, w)."""
    return maps if evidence is None else maps.unflatten(1, (evidence.shape[1], -1))


def _seen(parts: Parts | None) -> PartsSeen | None:
    if parts is None:
        return None
    arrays = (parts.classes, parts.amounts.float(), parts.overlap.float(), parts.predicted)
    return PartsSeen(*(array.numpy() for array in arrays))
