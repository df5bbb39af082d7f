"""Write a timeline while a training runs."""

import logging
import math
import os
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cam.timeline.blocks import BlockMaps, encode_blocks
from lightning_cam.timeline.files import RecordFile, file_stem
from lightning_cam.timeline.format import (
    FILE_HEADER,
    LONGEST_SIDE,
    MAGIC,
    PROBABILITY_SCALE,
    RECORD_HEADER,
    SUFFIX,
    VERSION,
    RecordError,
    decode_payload,
    encode_record,
    find_records,
    quantize,
)
from lightning_cam.timeline.found import Found, encode_found
from lightning_cam.timeline.heads import Probe, read_probe
from lightning_cam.timeline.parts import PartsSeen
from lightning_cam.timeline.pictures import encode, stored_picture
from lightning_cam.timeline.planes import Planes

_log = logging.getLogger(__name__)

_TAKEN = "{path} is being written by another process"
_TOP = 3  # classes kept per image and look: what a caption and an enlarged tile can show


class TimelineWriter:
    """Append looks to the record of one callback in one run.

    Nothing is written before :meth:`probe`. An existing record of the same probe images is continued, of several the
    newest. A record of other images, one that another process is writing to, and a damaged file or one that is not a
    record are kept, and the new record gets a number (`cam.2.lcam`).

    Args:
        directory: The run's directory, which holds the event file. Created if missing.
        name: The callback's name; several callbacks of one run need different ones.

    Example:
        >>> import numpy as np, tempfile
        >>> from lightning_cam.timeline import TimelineWriter, read_timeline
        >>> folder = tempfile.mkdtemp()
        >>> writer = TimelineWriter(folder, name="cam")
        >>> path = writer.probe(np.zeros((2, 3, 32, 32), np.uint8), labels=[0, 1], class_names=["cat", "dog"])
        >>> maps = {"hirescam": np.linspace(-1, 2, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)}
        >>> writer.append(step=10, epoch=0, maps=maps, probabilities=np.array([[0.9, 0.1], [0.2, 0.8]]),
        ...               metrics={"cam/hirescam/entropy": 0.7})
        >>> writer.close()
        >>> read_timeline(folder).steps
        array([10])
    """

    def __init__(self, directory: str | os.PathLike[str], name: str = "cam") -> None:
        self.directory = Path(directory)
        self.name = name
        self._labels = np.empty(0, np.int64)
        self._file: RecordFile | None = None

    def probe(
        self,
        images: np.ndarray,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        regions: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
        longest_side: int = LONGEST_SIDE,
        planes: Planes | None = None,
    ) -> Path:
        """Open the record of these images: continue one that is there, or start one.

        Args:
            images: (B, 3, H, W) uint8 RGB, as a person would see them; with `planes` (B, n, 3, H, W). Stored as WebP.
            labels: (B,) class indices, negative where unknown; None if none is known.
            class_names: Name of each class.
            regions: (B, H, W) bool, where the object is.
            texts: The ground truth of each image in words, if it is more than a label.
            longest_side: Pixels of a stored image's longer side, at most; at most 2048. Planes of an image, side by
                side, have twice as many.
            planes: What images consist of, if they are volumes, videos or bags.

        Returns:
            The file that :meth:`append` writes to.

        Raises:
            ValueError: `images` is not (B, 3, H, W) uint8, or `labels`, `regions` or `texts` is not one per image.
            OSError: No file can be written to in the directory.
        """
        form = (3,) if planes is None else (len(planes.numbers), 3)
        if images.shape[1:-2] != form or images.dtype != np.uint8:
            expected = ", ".join(["B", *map(str, form), "H", "W"])
            raise ValueError(f"images must be ({expected}) uint8, got {images.shape} {images.dtype}")
        count, (height, width) = len(images), images.shape[-2:]
        self._labels = np.asarray([-1] * count if labels is None else labels, np.int64).reshape(-1)
        for what, given in (("labels", self._labels), ("regions", regions), ("texts", texts)):
            if given is not None and len(given) != count:
                raise ValueError(f"{what} must have one entry per image: got {len(given)} for {count} images")
        pictures = [stored_picture(np.moveaxis(image, -3, -1), longest_side, planes) for image in images]
        outlines = [encode(region.astype(bool), "PNG", longest_side) for region in (() if regions is None else regions)]
        head = {
            "kind": "probe",
            "name": self.name,
            "labels": self._labels.tolist(),
            "class_names": [str(name) for name in class_names or ()],
            "size": [height, width],
            "hashes": [f"{zlib.crc32(image.tobytes()):08x}" for image in images],
            "bytes": [len(picture) for picture in pictures],
            "region_bytes": [len(outline) for outline in outlines],
            **({} if texts is None else {"texts": [str(text) for text in texts]}),
            **({} if planes is None else {"planes": planes.as_json()}),
        }
        self._open(head, b"".join(pictures + outlines))
        return self.path

    @property
    def path(self) -> Path:
        """The file written to; known once :meth:`probe` was called."""
        return self._opened().path

    def append(
        self,
        step: int,
        epoch: int,
        maps: Mapping[str, np.ndarray],
        *,
        probabilities: np.ndarray | None = None,
        class_idx: Sequence[int] | np.ndarray | None = None,
        values: np.ndarray | None = None,
        parts: PartsSeen | None = None,
        evidence: Mapping[str, np.ndarray] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write one look.

        Args:
            step: The step of the validation metrics.
            epoch: The epoch.
            maps: For each method (B, h, w) float, raw signed relevance, or (B, 3, h, w) colors from -1 to 1; where the
                images have planes (B, d, h, w). The largest and the smallest value of a map are kept exactly, zero and
                the sign of every value too, the rest to 1/127 of those.
                A map that is not finite everywhere is read back as NaN.
            probabilities: (B, K) of the model's output, if it is a classifier.
            class_idx: (B,) the class that the maps explain; None for the predicted one.
            values: (B,) float, the predicted values of a regression.
            parts: What rows are about that are regions or objects of images, in place of `probabilities` and
                `class_idx`.
            evidence: For each method whose maps have planes (B, d), their shares in the positive relevance.
            metrics: Values of this look, by tag.

        Raises:
            RuntimeError: :meth:`probe` was not called, or the writer is closed.
            ValueError: A map or another array is not one per probe image.
            OSError: The file could not be written to, or is gone. Nothing of this look is in it.
        """
        file, count = self._opened(), len(self._labels)
        arrays = {**maps, "probabilities": probabilities, "class_idx": class_idx, "values": values}
        arrays |= {} if parts is None else parts._asdict()
        for what, given in arrays.items():
            if given is not None and len(given) != count:
                raise ValueError(f"{what} must have one entry per probe image: got {len(given)} for {count} images")
        body, shapes = [], {}
        for method, relevance in maps.items():
            codes, scales = quantize(relevance)
            shapes[method] = codes.shape[1:]
            body += [codes, scales]
            if evidence is not None:
                body.append(_as_stored(evidence[method]))
        top, top_probabilities, own = _summarize(probabilities, self._labels)
        if parts is not None:
            top, top_probabilities = parts.classes[:, None].astype("<i4"), _as_stored(parts.amounts[:, None])
            own = np.zeros(count, "<u2")
        body += [top, top_probabilities, own]
        predicted = class_idx is None or (top.size and np.array_equal(class_idx, top[:, 0]))
        if class_idx is not None and not predicted:
            body.append(np.asarray(class_idx, "<i4"))
        if values is not None:
            body.append(np.asarray(values, "<f4"))
        colors = [method for method, shape in shapes.items() if len(shape) == 3 and evidence is None]
        of_parts, size = ([], None) if parts is None else parts.encoded()
        body += of_parts
        head = {
            "kind": "look",
            "step": int(step),
            "epoch": int(epoch),
            "time": round(time.time(), 1),
            "methods": shapes,
            **({"colors": colors} if colors else {}),
            "top": top.shape[1],
            "metrics": _as_json(metrics or {}),
            **({} if predicted else {"class_idx": True}),
            **({} if values is None else {"values": True}),
            **({} if size is None else {"parts": size}),
        }
        file.write(encode_record(head, b"".join(array.tobytes() for array in body)))

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add values to the look of this step, such as those that are known only when the validation has ended.

        Args:
            step: The step of a look written before.
            metrics: Values by tag.

        Raises:
            RuntimeError: :meth:`probe` was not called, or the writer is closed.
        """
        self._opened().write(encode_record({"kind": "metrics", "step": int(step), "metrics": _as_json(metrics)}, b""))

    def add_findings(self, found: Found) -> None:
        """Add what was found of a cohort to the look of its step, in at most 256 KB.

        Args:
            found: What was found, at the step of a look written before.

        Raises:
            RuntimeError: :meth:`probe` was not called, or the writer is closed.
        """
        self._opened().write(encode_record(*encode_found(found)))

    def add_blocks(self, found: BlockMaps) -> None:
        """Add what blocks read to the look of its step, of as many of the first images as 64 KB hold.

        Args:
            found: What they read, or why that is not known, at the step of a look written before.

        Raises:
            RuntimeError: :meth:`probe` was not called, or the writer is closed.
            ValueError: There is not one array for each name.
        """
        self._opened().write(encode_record(*encode_blocks(found)))

    def close(self) -> None:
        """Close the file; a closed writer can be opened again with :meth:`probe`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> RecordFile:
        if self._file is None:
            raise RuntimeError("the timeline is not open: call probe(images) first")
        return self._file

    def _open(self, head: dict[str, Any], pictures: bytes) -> None:
        self.close()
        stem, number, found, faults = file_stem(self.name), 1, None, []
        wanted = read_probe(head, len(pictures), self.name)
        while (path := self._numbered(stem, number)).exists():
            try:
                file = RecordFile(path)
            except BlockingIOError:
                faults.append(_TAKEN.format(path=path))
            except OSError as error:
                faults.append(f"{path} cannot be written to ({error})")
            else:
                end, fault = _end_of_same_probe(path, wanted)
                faults += [fault] if fault else []
                if end is None:
                    file.close()
                else:  # the one with the highest number is the newest
                    if found is not None:
                        found[0].close()
                    found = (file, end)
            number += 1
        self._file, end = found or (self._begin(stem, number, faults), 0)
        if faults:
            _log.warning("%s; the looks are recorded in %s instead.", "; ".join(faults), self._file.path)
        self._file.truncate(end)
        if end > 0:  # what is appended is of this version
            self._file.overwrite(len(MAGIC), struct.pack("<I", VERSION))
        else:
            self._file.write(FILE_HEADER.pack(MAGIC, VERSION, os.urandom(8)) + encode_record(head, pictures))

    def _begin(self, stem: str, number: int, faults: list[str]) -> RecordFile:
        """Open the first file of this number or a higher one that no other process takes at the same time."""
        while True:
            path = self._numbered(stem, number)
            try:
                return RecordFile(path)
            except BlockingIOError:
                faults.append(_TAKEN.format(path=path))
                number += 1

    def _numbered(self, stem: str, number: int) -> Path:
        return self.directory / f"{stem}{SUFFIX if number == 1 else f'.{number}{SUFFIX}'}"


def _end_of_same_probe(path: Path, wanted: Probe) -> tuple[int | None, str]:
    """Return where to continue `path`: 0 if it is to be started, None if it is another record; and a fault of it."""
    end = 0
    try:
        with path.open("rb") as file:
            for at, payload in find_records(file, path):
                if end == 0:
                    head, arrays_at = decode_payload(payload, str(path))
                    if head.get("kind") != "probe":
                        return None, f"the probe images of {path} are damaged"
                    probe = read_probe(head, len(payload) - arrays_at, str(path))
                    if (probe.hashes, probe.name) != (wanted.hashes, wanted.name):
                        return None, ""
                end = at + RECORD_HEADER.size + len(payload)
    except (RecordError, OSError) as error:
        return None, str(error)
    return end, ""


def _summarize(probabilities: np.ndarray | None, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the top classes, their probabilities and the label's, as stored."""
    if probabilities is None:
        return np.empty((len(labels), 0), "<i4"), np.empty((len(labels), 0), "<u2"), np.empty(0, "<u2")
    values = np.asarray(probabilities, np.float32)
    best = np.argsort(-values, axis=1, kind="stable")[:, :_TOP]
    known = (labels >= 0) & (labels < values.shape[1])
    own = np.where(known, np.take_along_axis(values, np.where(known, labels, 0)[:, None], 1)[:, 0], 0)
    return best.astype("<i4"), _as_stored(np.take_along_axis(values, best, 1)), _as_stored(own)


def _as_stored(share: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(share).clip(0, 1) * PROBABILITY_SCALE).astype("<u2")


def _as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no NaN; six digits are more than a chart shows
    values = {tag: float(value) for tag, value in metrics.items()}
    return {tag: float(f"{value:.6g}") if math.isfinite(value) else None for tag, value in values.items()}
