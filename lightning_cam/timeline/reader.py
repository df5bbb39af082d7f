"""Reading a timeline as arrays."""

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cam.timeline.format import PROBABILITY_SCALE, SUFFIX, decode_records, dequantize


@dataclass(frozen=True)
class Timeline:
    """The maps of a fixed probe batch over a training, as :func:`read_timeline` returns them.

    T looks at B images; a method that was missing at a look is NaN there.

    Attributes:
        path: The file it was read from.
        name: The callback's name.
        labels: (B,) int64, -1 where unknown.
        class_names: Name of each class; empty if unknown.
        size: Height and width of the images before they were stored.
        steps: (T,) int64.
        epochs: (T,) int64.
        times: (T,) float64, seconds since 1970.
        maps: For each method (T, B, h, w) float32, raw signed relevance.
        class_idx: (T, B) int64, the class explained; -1 where unknown.
        top_classes: (T, B, K) int64, best first; -1 where unknown.
        top_probabilities: (T, B, K) float32; NaN where unknown.
        label_probability: (T, B) float32; NaN where unknown.
        metrics: For each tag (T,) float64; NaN where missing.
    """

    path: Path
    name: str
    labels: np.ndarray
    class_names: list[str]
    size: tuple[int, int]
    steps: np.ndarray
    epochs: np.ndarray
    times: np.ndarray
    maps: dict[str, np.ndarray]
    class_idx: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    label_probability: np.ndarray
    metrics: dict[str, np.ndarray]
    encoded_images: list[bytes] = field(repr=False)
    encoded_regions: list[bytes] = field(repr=False)

    @property
    def predictions(self) -> np.ndarray:
        """(T, B) int64, the most probable class; -1 where unknown."""
        return self.top_classes[..., 0]

    @cached_property
    def images(self) -> np.ndarray:
        """(B, H, W, 3) uint8 RGB, as matplotlib shows them; at most 448 px a side."""
        return _decode(self.encoded_images, "RGB")

    @cached_property
    def regions(self) -> np.ndarray | None:
        """(B, H, W) bool, where the object is, at the size of :attr:`images`; None if unknown."""
        return _decode(self.encoded_regions, "1") if self.encoded_regions else None


def find_timelines(logdir: str | os.PathLike[str]) -> list[Path]:
    """Return the records under a log directory (or the one file that `logdir` is), in order of their path."""
    logdir = Path(logdir)
    return [logdir] if logdir.is_file() else sorted(logdir.rglob(f"*{SUFFIX}"))


def read_timeline(logdir: str | os.PathLike[str]) -> Timeline:
    """Read the record of a run, also while the run goes on.

    Args:
        logdir: A record, or a directory with exactly one record in it or below.

    Returns:
        The maps and what was predicted at each look, as arrays.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: There are several records (the message lists them), the file is none, or a newer version
            of this package wrote it.

    Example:
        >>> import tempfile
        >>> from lightning_cam.timeline import TimelineWriter, read_timeline
        >>> run = tempfile.mkdtemp()
        >>> writer = TimelineWriter(run)
        >>> path = writer.probe(np.zeros((16, 3, 28, 28), np.uint8))
        >>> for step in (100, 200):
        ...     writer.append(step, epoch=0, maps={"hirescam": np.full((16, 14, 14), step / 1000)})
        >>> timeline = read_timeline(run)
        >>> timeline.maps["hirescam"].shape
        (2, 16, 14, 14)
        >>> float(timeline.maps["hirescam"][-1, 3].max())  # plt.imshow(...) shows the map of image 3
        0.2...
    """
    found = find_timelines(logdir)
    if not found:
        raise FileNotFoundError(f"no CAM timeline (*{SUFFIX}) in {logdir}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} CAM timelines in {logdir}, pass one: " + ", ".join(map(str, found)))
    records = decode_records(found[0].read_bytes(), str(found[0]))
    probe, pictures = next(records, ({}, b""))[:2]
    if probe.get("kind") != "probe":
        raise ValueError(f"{found[0]} holds no probe images yet")
    return _assemble(found[0], probe, bytes(pictures), _kept(records))


def _kept(found: Iterator[tuple[dict[str, Any], memoryview, int]]) -> list[tuple[dict[str, Any], memoryview]]:
    looks: list[tuple[dict[str, Any], memoryview]] = []
    for head, body, _ in found:
        if head["kind"] == "metrics":
            for own, _ in reversed(looks):
                if own["step"] == head["step"]:
                    own["metrics"].update(head["metrics"])
            continue
        while looks and looks[-1][0]["step"] >= head["step"]:
            looks.pop()
        looks.append((head, body))
    return looks


def _assemble(
    path: Path, probe: dict[str, Any], pictures: bytes, looks: list[tuple[dict[str, Any], memoryview]]
) -> Timeline:
    count, total = len(probe["labels"]), len(looks)
    width = max((head["top"] for head, _ in looks), default=0) or 1
    maps: dict[str, np.ndarray] = {}
    metrics: dict[str, np.ndarray] = {}
    top = np.full((total, count, width), -1)
    top_probabilities = np.full((total, count, width), np.nan, np.float32)
    own = np.full((total, count), np.nan, np.float32)
    class_idx = np.full((total, count), -1)
    labels = np.asarray(probe["labels"], np.int64)
    for t, (head, body) in enumerate(looks):
        arrays = _ArrayReader(body)
        for method, (h, w) in head["methods"].items():
            codes, scales = arrays.read("<i1", (count, h, w)), arrays.read("<f4", (count, 2))
            own_maps = maps.setdefault(method, np.full((total, count, h, w), np.nan, np.float32))
            own_maps[t] = dequantize(codes, scales)
        if k := head["top"]:
            top[t, :, :k] = arrays.read("<i4", (count, k))
            top_probabilities[t, :, :k] = arrays.read("<u2", (count, k)) / PROBABILITY_SCALE
            own[t] = np.where(labels >= 0, arrays.read("<u2", (count,)) / PROBABILITY_SCALE, np.nan)
            class_idx[t] = top[t, :, 0]
        if head.get("class_idx"):
            class_idx[t] = arrays.read("<i4", (count,))
        for tag, value in head["metrics"].items():
            series = metrics.setdefault(tag, np.full(total, np.nan))
            series[t] = np.nan if value is None else value
    files = _ArrayReader(memoryview(pictures))
    return Timeline(
        path=path,
        name=probe["name"],
        labels=labels,
        class_names=probe["class_names"],
        size=tuple(probe["size"]),
        steps=np.array([head["step"] for head, _ in looks], np.int64),
        epochs=np.array([head["epoch"] for head, _ in looks], np.int64),
        times=np.array([head["time"] for head, _ in looks], np.float64),
        maps=maps,
        class_idx=class_idx,
        top_classes=top,
        top_probabilities=top_probabilities,
        label_probability=own,
        metrics=metrics,
        encoded_images=[files.read("u1", (size,)).tobytes() for size in probe["bytes"]],
        encoded_regions=[files.read("u1", (size,)).tobytes() for size in probe["region_bytes"]],
    )


def _decode(files: list[bytes], mode: str) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert(mode)) for data in files])


class _ArrayReader:
    """Hands out the arrays of a record one after the other."""

    def __init__(self, body: memoryview) -> None:
        self._body, self._at = body, 0

    def read(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        array = np.frombuffer(self._body, dtype, math.prod(shape), self._at).reshape(shape)
        self._at += array.nbytes
        return array
