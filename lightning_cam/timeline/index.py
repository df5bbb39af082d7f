"""The contents of a record and their positions, found in one pass that keeps no arrays: cheap for long records."""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from lightning_cam.timeline.blocks import BlockMaps, check_blocks, decode_blocks
from lightning_cam.timeline.format import FILE_HEADER, RECORD_HEADER, RecordError, decode_payload, find_records
from lightning_cam.timeline.found import Found, check_found, decode_found
from lightning_cam.timeline.heads import Layout, Probe, read_layout, read_metrics, read_place, read_probe

_MOST_TAGS = 2**16
_MOST_LAYOUTS = 1000
_BESIDE = ("findings", "blocks")  # kinds of records that belong to a look and are read when they are asked for


class Index:
    """The looks of a record that count: those that a resumed run repeated are left out.

    Args:
        file: Open for reading; what was appended to it since is not seen.
        path: What messages call it.
        on_bytes: Is told how many bytes more were read.

    Attributes:
        probe: What is known of the images.
        uid: Tells this file from another one under the same path.
        gaps: How many damaged places were passed over.
        steps: (T,) int64.
        epochs: (T,) int64.
        times: (T,) float64, seconds since 1970.
        metrics: For each tag the looks that have a value, and the values.
        looks_with_blocks: Those with maps of blocks.

    Raises:
        RecordError: It is no CAM timeline, of a newer version, holds no probe images, or says what cannot be.
    """

    def __init__(self, file: BinaryIO, path: object, on_bytes: Callable[[int], None] | None = None) -> None:
        self.path, self.file_size = path, file.seek(0, 2)
        file.seek(8)
        self.uid = file.read(8)
        entries = _Entries()
        self.gaps, end = 0, FILE_HEADER.size
        for at, payload in find_records(file, path, on_bytes):
            what = f"{path}, byte {at}"
            head, text_end = decode_payload(payload, what)
            arrays_at, num_bytes = at + RECORD_HEADER.size + text_end, len(payload) - text_end
            if end == FILE_HEADER.size:
                if head.get("kind") != "probe":
                    raise RecordError(f"{path} holds no probe images: they are damaged")
                self.probe = read_probe(head, num_bytes, what)
                self.probe_at, self.images_at = (at, RECORD_HEADER.size + len(payload)), arrays_at
            else:
                entries.add(head, self.probe, what, at, arrays_at, num_bytes)
            self.gaps += at != end
            end = at + RECORD_HEADER.size + len(payload)
        if end == FILE_HEADER.size:
            raise RecordError(f"{path} holds no probe images yet")
        self._take(entries)

    def _take(self, entries: "_Entries") -> None:
        kept = np.array(entries.kept, np.int64)
        place = np.full(len(entries.steps), -1)  # of each look ever written among those that count
        place[kept] = np.arange(len(kept))

        self.steps = np.array(entries.kept_steps, np.int64)
        self.epochs = np.array(entries.epochs, np.int64)[kept]
        self.times = np.array(entries.times, np.float64)[kept]
        self._arrays_at = np.array(entries.arrays_at, np.int64)[kept]
        self._layout = np.array(entries.layout, np.int64)[kept]
        self._layouts = list(entries.layouts.values())

        records = place[np.array(entries.record_look, np.int64)]
        self._records = np.stack([records, entries.record_at, entries.record_size], 1)[records >= 0]
        self._beside_at = {
            kind: [at for look, at in zip(place[np.array(looks, np.int64)].tolist(), places, strict=True) if look >= 0]
            for kind, (looks, places) in entries.beside.items()
        }
        with_blocks = place[np.array(entries.beside["blocks"][0], np.int64)]
        self.looks_with_blocks = np.unique(with_blocks[with_blocks >= 0])
        looks = place[np.array(entries.value_look, np.int64)]
        tags, values = np.array(entries.value_tag, np.int64), np.array(entries.values, np.float64)
        looks, tags, values = looks[looks >= 0], tags[looks >= 0], values[looks >= 0]
        order = np.argsort(tags, kind="stable")  # of two values of a look the later one counts
        bounds = np.searchsorted(tags[order], np.arange(len(entries.tags) + 1))
        self.metrics = {
            tag: (looks[order[start:end]], values[order[start:end]])
            for tag, start, end in zip(entries.tags, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
            if end > start
        }

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def layouts(self) -> list[tuple[Layout, np.ndarray]]:
        """Each layout and the looks that have it, in the order of their first look."""
        order = np.argsort(self._layout, kind="stable")
        numbers, begins = np.unique(self._layout[order], return_index=True)
        groups = zip(numbers.tolist(), np.split(order, begins[1:]), strict=True) if len(order) else ()
        return sorted(((self._layouts[number], looks) for number, looks in groups), key=lambda own: own[1][0])

    def read_arrays(self, file: BinaryIO, looks: np.ndarray, at: int, size: int) -> np.ndarray:
        """Return `size` bytes of each of these looks, from `at` on behind its JSON: (n, size) uint8."""
        rows = np.empty((len(looks), size), np.uint8)
        for row, start in zip(rows, (self._arrays_at[looks] + at).tolist(), strict=True):
            file.seek(start)
            if file.readinto(row) < size:  # type: ignore[attr-defined]  # all that open and BytesIO return have it
                raise RecordError(f"{self.path} was truncated while it was read")
        return rows

    def read_records(self, file: BinaryIO, looks: np.ndarray) -> bytes:
        """Return a file of the probe images and these looks, with all metrics of theirs."""
        wanted = self._records[np.isin(self._records[:, 0], looks), 1:]
        parts = [(0, FILE_HEADER.size), self.probe_at, *wanted.tolist()]
        return b"".join(_read(file, at, size) for at, size in parts)

    def read_findings(self, file: BinaryIO) -> list[Found]:
        """Return what was found at the looks, in their order."""
        return [decode_found(head, arrays, str(self.path)) for head, arrays in self._read_beside(file, "findings")]

    def read_blocks(self, file: BinaryIO) -> list[BlockMaps]:
        """Return what blocks read at the looks that have that, in their order."""
        count = len(self.probe.labels)
        read = self._read_beside(file, "blocks")
        return [decode_blocks(head, arrays, count, str(self.path)) for head, arrays in read]

    def _read_beside(self, file: BinaryIO, kind: str) -> Iterator[tuple[dict[str, Any], bytes]]:
        for at in self._beside_at[kind]:
            length, _ = RECORD_HEADER.unpack(_read(file, at, RECORD_HEADER.size))
            payload = file.read(length)
            head, end = decode_payload(payload, str(self.path))
            yield head, payload[end:]

    def size_of(self, looks: np.ndarray) -> int:
        """Return how many bytes the records of these looks take, without the probe images."""
        return int(self._records[np.isin(self._records[:, 0], looks), 2].sum())


class _Entries:
    """Growing columns of numbers, as an object for each look would take many times the file's size.

    Looks are numbered as they come; `kept` are those that no later one has replaced, so far.
    """

    def __init__(self) -> None:
        self.steps, self.epochs, self.times = array("q"), array("q"), array("d")
        self.arrays_at, self.layout = array("q"), array("q")
        self.kept, self.kept_steps = array("q"), array("q")
        self.layouts: dict[Any, Layout] = {}
        self._layout_numbers: dict[Any, int] = {}
        self.tags: dict[str, int] = {}
        self.value_look, self.value_tag, self.values = array("q"), array("q"), array("d")
        self.record_look, self.record_at, self.record_size = array("q"), array("q"), array("q")
        # Of what stands beside looks: whose it is, and where.
        self.beside = {kind: (array("q"), array("q")) for kind in _BESIDE}

    def add(self, head: dict[str, Any], probe: Probe, what: str, at: int, arrays_at: int, num_bytes: int) -> None:
        kind = head.get("kind")
        if kind == "look":
            look = self._add_look(head, probe, what, arrays_at, num_bytes)
        elif kind in ("metrics", *_BESIDE):
            step, _, _ = read_place({**head, "epoch": 0, "time": 0}, what)
            place = bisect_left(self.kept_steps, step)
            if place == len(self.kept_steps) or self.kept_steps[place] != step:
                return  # of a look that was left out
            look = self.kept[place]
        else:
            return
        if kind == "findings":
            check_found(head, num_bytes, what)
        elif kind == "blocks":
            check_blocks(head, len(probe.labels), num_bytes, what)
        if kind in _BESIDE:
            looks, places = self.beside[kind]
            looks.append(look)
            places.append(at)
        for tag, value in () if kind in _BESIDE else read_metrics(head, what):
            self.value_look.append(look)
            self.value_tag.append(self.tags.setdefault(tag, len(self.tags)))
            self.values.append(value)
        if len(self.tags) > _MOST_TAGS:
            raise RecordError(f"{what}: expected at most {_MOST_TAGS} metrics")
        self.record_look.append(look)
        self.record_at.append(at)
        self.record_size.append(arrays_at + num_bytes - at)

    def _add_look(self, head: dict[str, Any], probe: Probe, what: str, arrays_at: int, num_bytes: int) -> int:
        step, epoch, time = read_place(head, what)
        key = repr([head.get(name) for name in ("methods", "top", "class_idx", "values", "colors", "parts")])
        layout = self.layouts.get(key)
        if layout is None:
            if len(self.layouts) == _MOST_LAYOUTS:
                raise RecordError(f"{what}: expected at most {_MOST_LAYOUTS} different sets of methods")
            layout = self.layouts[key] = read_layout(head, probe, what)
            self._layout_numbers[key] = len(self._layout_numbers)
        if layout.size > num_bytes:
            raise RecordError(f"{what}: the arrays of the look take {layout.size:,} bytes, but there are {num_bytes:,}")
        while self.kept and self.kept_steps[-1] >= step:
            self.kept.pop()
            self.kept_steps.pop()
        look = len(self.steps)
        self.steps.append(step)
        self.epochs.append(epoch)
        self.times.append(time)
        self.arrays_at.append(arrays_at)
        self.layout.append(self._layout_numbers[key])
        self.kept.append(look)
        self.kept_steps.append(step)
        return look


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most `most` numbers below `count`, evenly, with the first and the last.

    Example:
        >>> evenly(9, 3), evenly(2, 3)
        (array([0, 4, 8]), array([0, 1]))
    """
    return np.unique(np.linspace(0, count - 1, max(2, min(count, most))).round().astype(int)) if count else np.arange(0)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
