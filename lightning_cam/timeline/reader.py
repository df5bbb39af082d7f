"""Read a timeline as arrays."""

import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from lightning_cam.timeline.arrays import (
    ArraysByName,
    MapsOf,
    decode_images,
    expand,
    find_maps,
    read_images,
    read_parts,
    read_predictions,
)
from lightning_cam.timeline.blocks import BlockMaps
from lightning_cam.timeline.format import FILE_HEADER, MAGIC, SUFFIX, RecordError
from lightning_cam.timeline.found import Found
from lightning_cam.timeline.index import Index
from lightning_cam.timeline.planes import Planes, taken_apart
from lightning_cam.timeline.remote import local_copy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timeline:
    """The maps of a fixed probe batch during a training run, as :func:`read_timeline` returns them.

    T looks at B images; a method that was missing at a look is NaN there.

    Attributes:
        path: The file it was read from.
        name: The callback's name.
        labels: (B,) int64, -1 where unknown.
        class_names: Name of each class; empty if unknown.
        texts: The ground truth of each image in words, if it is more than a label; otherwise empty.
        size: Height and width of the images before they were stored.
        steps: (T,) int64.
        epochs: (T,) int64.
        times: (T,) float64, seconds since 1970.
        maps: For each method (T, B, h, w) float32, raw signed relevance, decoded when it is first asked for; of methods
            that show colors (T, B, 3, h, w), red, green and blue from -1 for none to 1 for all; where the images have
            planes (T, B, d, h, w).
        class_idx: (T, B) int64, the class explained; -1 where unknown.
        top_classes: (T, B, K) int64, best first; -1 where unknown.
        top_probabilities: (T, B, K) float32; NaN where unknown.
        label_probability: (T, B) float32; NaN where unknown.
        values: (T, B) float32, the predicted values of a regression; NaN where there are none.
        overlaps: (T, B) float32, where rows are regions or objects of images, intersection over union with the truth;
            NaN where that is not known.
        predicted_regions: (T, B, h, w) bool, where these were predicted; None where rows are whole images. Their class
            is the top class, and its probability the share of the area, or the probability.
        metrics: For each tag (T,) float64; NaN where missing.
        findings: The findings of each look at the cohort.
        blocks: What each block of the model read, at the few looks that this was kept of, in order:
            `timeline.blocks[-1].maps["attnlrp"][k]` is (n, h, w) float32, what block `timeline.blocks[-1].names[k]`
            read of the first n images.
        encoded_images: The files of the images, see :attr:`images`.
        encoded_regions: The files of the objects' masks, see :attr:`regions`.
        planes: Whether images consist of slices, frames or instances (`kind`), how many (`count`), and of which there
            are pictures (`numbers`, from 1 on); None where images are images.
        evidence: For each method with planes (T, B, d) float32, the share of each plane in the positive relevance of
            its image; 0 where there is none. Decoded when it is first asked for.
    """

    path: Path
    name: str
    labels: np.ndarray
    class_names: list[str]
    texts: list[str]
    size: tuple[int, int]
    steps: np.ndarray
    epochs: np.ndarray
    times: np.ndarray
    maps: Mapping[str, np.ndarray]
    class_idx: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    label_probability: np.ndarray
    values: np.ndarray
    overlaps: np.ndarray
    predicted_regions: np.ndarray | None
    metrics: Mapping[str, np.ndarray]
    findings: list[Found] = field(repr=False)
    blocks: list[BlockMaps] = field(repr=False)
    encoded_images: list[bytes] = field(repr=False)
    encoded_regions: list[bytes] = field(repr=False)
    planes: Planes | None = None
    evidence: Mapping[str, np.ndarray] = field(repr=False, default_factory=dict)

    def _repr_html_(self) -> str | None:
        """The CAM Timeline page of this record as a notebook shows it under a cell; None if it cannot be made."""
        from lightning_cam.timeline.report import inline_page  # which looks for records by this module

        try:
            return inline_page(self.path)
        except (OSError, ValueError) as error:
            _log.warning("%s is not shown: %s.", self.path, error)
            return None

    @property
    def predictions(self) -> np.ndarray:
        """(T, B) int64, the most probable class; -1 where unknown."""
        return self.top_classes[..., 0]

    @cached_property
    def images(self) -> np.ndarray:
        """(B, H, W, 3) uint8 RGB, as matplotlib shows them; at most 448 px a side. With planes (B, n, H, W, 3)."""
        images = decode_images(self.encoded_images, "RGB", self.path)
        return images if self.planes is None else taken_apart(images, self.planes)

    @cached_property
    def regions(self) -> np.ndarray | None:
        """(B, H, W) bool, where the object is, at the size of :attr:`images`; None if unknown."""
        return decode_images(self.encoded_regions, "1", self.path) if self.encoded_regions else None


def find_timelines(logdir: str | os.PathLike[str]) -> list[Path]:
    """Return the records under a log directory, in order of their path.

    Args:
        logdir: A directory, or one record. Records of a remote directory are copied to this machine.
    """
    logdir = local_copy(logdir)
    return [logdir] if logdir.is_file() else sorted(path for path in logdir.rglob(f"*{SUFFIX}") if path.is_file())


def find_timeline(logdir: str | os.PathLike[str]) -> Path:
    """Return the one record under a log directory.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: There are several records (the message lists them).
    """
    found = find_timelines(logdir)
    if not found:
        raise FileNotFoundError(f"no CAM timeline (*{SUFFIX}) in {logdir}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} CAM timelines in {logdir}; pass one of them: " + ", ".join(map(str, found)))
    return found[0]


def read_timeline(logdir: str | os.PathLike[str]) -> Timeline:
    """Read the record of a run, also while it is still running.

    Args:
        logdir: A record, or a directory with exactly one record in it or below; an address such as `s3://bucket/run`
            too, if fsspec knows its store.

    Returns:
        The maps and predictions of each look, as arrays.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: There are several records (the message lists them), the file is not a record, is too damaged to
            read, or a newer version of this package wrote it.

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
    path = find_timeline(logdir)
    data = _read_bytes(path)
    file = io.BytesIO(data)
    index = Index(file, path)
    if index.gaps:
        _log.warning("%s is damaged in %d place(s), which are skipped.", path, index.gaps)
    predicted = read_predictions(index, file)
    images, regions = read_images(index, file)
    parts, maps = read_parts(index, file), find_maps(index)
    return Timeline(
        path=path,
        name=index.probe.name,
        labels=np.array(index.probe.labels, np.int64),
        class_names=index.probe.class_names,
        texts=index.probe.texts,
        size=index.probe.size,
        steps=index.steps,
        epochs=index.epochs,
        times=index.times,
        maps=ArraysByName({method: partial(_read_maps, own, data) for method, own in maps.items()}),
        class_idx=predicted.explained,
        top_classes=predicted.top,
        top_probabilities=predicted.top_probabilities,
        label_probability=predicted.label_probability,
        values=predicted.values,
        overlaps=np.full(predicted.values.shape, np.nan, np.float32) if parts is None else parts[0],
        predicted_regions=None if parts is None else parts[1],
        metrics=ArraysByName({tag: partial(expand, len(index), *own) for tag, own in index.metrics.items()}),
        findings=index.read_findings(file),
        blocks=index.read_blocks(file),
        encoded_images=images,
        encoded_regions=regions,
        planes=index.probe.planes,
        evidence=ArraysByName({m: partial(_read_evidence, own, data) for m, own in maps.items() if own.planes}),
    )


def _read_bytes(path: Path) -> bytes:
    """Read a record, and not a large file of something else."""
    with path.open("rb", buffering=0) as file:  # a buffer would make a second copy on the way
        start = file.read(FILE_HEADER.size)
        if start[: len(MAGIC)] != MAGIC[: len(start)]:
            raise RecordError(f"{path} is not a CAM timeline")
        file.seek(0)
        return file.read()


def _read_maps(maps: MapsOf, data: bytes) -> np.ndarray:
    return maps.read(io.BytesIO(data))


def _read_evidence(maps: MapsOf, data: bytes) -> np.ndarray:
    return maps.evidence(io.BytesIO(data))
