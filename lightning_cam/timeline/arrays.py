"""From the bytes of a record to arrays: equal looks at once, and no array much larger than the file."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from lightning_cam.timeline.format import MOST_SIDE, PROBABILITY_SCALE, RecordError, dequantize
from lightning_cam.timeline.heads import COLORS, MapsAt
from lightning_cam.timeline.index import Index
from lightning_cam.timeline.parts import decoded, num_bytes

_log = logging.getLogger(__name__)

_TIMES_THE_FILE, _ALWAYS = 4, 64 * 2**20  # bytes that arrays may take
_MOST_PIXELS = 2**27  # of all probe images; 600 of the largest, and 400 MB
_AT_ONCE = 64  # looks whose maps are decoded together: what is made on the way stays in the processor's cache


class ArraysByName(Mapping[str, np.ndarray]):
    """Arrays by name, each made when it is first asked for."""

    def __init__(self, makers: dict[str, Callable[[], np.ndarray]]) -> None:
        self._makers = makers
        self._made: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"<arrays of {', '.join(self)}>"


class MapsOf:
    """The maps of one method.

    Args:
        index: Of the record.
        method: Its name.
        found: For each layout that has it where its maps lie, and the looks.
        is_color: Whether they are of colors: those of red, green and blue stand below one another.

    Attributes:
        grid: Rows and columns: those of the newest look that has this method.
        planes: How many planes these rows are of, likewise; 0 where images have none.
        others: How many looks have maps of another grid, as of another model under the same name; they are left out.
    """

    def __init__(
        self, index: Index, method: str, found: list[tuple[MapsAt, np.ndarray]], *, is_color: bool = False
    ) -> None:
        newest = max(found, key=lambda own: own[1][-1])[0]
        self._index, self._method = index, method
        self._count, self.is_color = len(index.probe.labels), is_color
        self.grid, self.planes = (newest.rows, newest.columns), newest.planes
        self._found = [(own.at, looks) for own, looks in found if own[1:] == newest[1:]]
        self.others = sum(len(looks) for own, looks in found if own[1:] != newest[1:])

    def read(self, file: BinaryIO, wanted: np.ndarray | None = None) -> np.ndarray:
        """Return (T, B, h, w) float32 of all looks, or of those wanted; NaN where the method was missing.

        Of colors it is (T, B, 3, h, w), of images with planes (T, B, d, h, w).

        Raises:
            RecordError: That would be many times larger than the file.
        """
        wanted = np.arange(len(self._index)) if wanted is None else wanted
        shape = (len(wanted), self._count, *self.grid)
        _check_size(4 * int(np.prod(shape, dtype=object)), f"maps of {self._method}", self._index)
        maps, cells = np.full(shape, np.nan, np.float32), self._count * self.grid[0] * self.grid[1]
        for at, looks in self._found:
            (rows,) = np.isin(wanted, looks).nonzero()
            for part in np.array_split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
                raw = self._index.read_arrays(file, wanted[part], at, cells + 8 * self._count)
                scales = raw[:, cells:].copy().view("<f4").reshape(-1, self._count, 2)
                maps[part] = dequantize(raw[:, :cells].view(np.int8).reshape(-1, *shape[1:]), scales)
        parts = COLORS if self.is_color else self.planes
        return maps.reshape(*shape[:2], parts, self.grid[0] // parts, self.grid[1]) if parts else maps

    def evidence(self, file: BinaryIO) -> np.ndarray:
        """Return the share of each plane in the positive relevance, (T, B, d) float32; NaN where there is no map."""
        shares = np.full((len(self._index), self._count, self.planes), np.nan, np.float32)
        _check_size(shares.nbytes, f"evidence of {self._method}", self._index)
        behind = self._count * (self.grid[0] * self.grid[1] + 8)
        for at, looks in self._found:
            raw = self._index.read_arrays(file, looks, at + behind, 2 * self._count * self.planes)
            shares[looks] = raw.view("<u2").reshape(-1, self._count, self.planes) / PROBABILITY_SCALE
        return shares

    def largest(self, file: BinaryIO) -> np.ndarray:
        """Return the largest value of each image over all looks, (B,) float32; 0 where none is positive."""
        largest = np.zeros(self._count, np.float32)
        for at, looks in self._found:
            cells = self._count * self.grid[0] * self.grid[1]
            raw = self._index.read_arrays(file, looks, at + cells, 8 * self._count)
            scales = raw.view("<f4").reshape(len(looks), self._count, 2)[..., 0]
            largest = np.maximum(largest, np.nan_to_num(scales, nan=0, posinf=0).max(0))
        return largest


def find_maps(index: Index) -> dict[str, MapsOf]:
    """Return the maps of each method, in the order of the methods' first looks; what is left out is said."""
    found: dict[tuple[str, bool], list[tuple[MapsAt, np.ndarray]]] = {}
    for layout, looks in index.layouts:
        for method, place in layout.methods.items():
            found.setdefault((method, method in layout.colors), []).append((place, looks))
    maps = {method: MapsOf(index, method, own, is_color=is_color) for (method, is_color), own in found.items()}
    for method, own in maps.items():
        if own.others:
            _log.warning(
                "%s: %s has a different grid at %d look(s), which are skipped.", index.path, method, own.others
            )
    return maps


class Predictions(NamedTuple):
    """What was predicted and explained at each look; -1 or NaN where it is unknown."""

    top: np.ndarray  # (T, B, K) int64
    top_probabilities: np.ndarray  # (T, B, K) float32
    label_probability: np.ndarray  # (T, B) float32
    explained: np.ndarray  # (T, B) int64
    values: np.ndarray  # (T, B) float32, of a regression


def read_predictions(index: Index, file: BinaryIO) -> Predictions:
    """Read what was predicted and explained.

    Raises:
        RecordError: That would be many times larger than the file.
    """
    total, count, labels = len(index), len(index.probe.labels), np.array(index.probe.labels, np.int64)
    width = max((layout.top for layout, _ in index.layouts), default=0) or 1
    _check_size(total * count * (12 * width + 16), "predictions", index)
    top = np.full((total, count, width), -1)
    top_probabilities = np.full((total, count, width), np.nan, np.float32)
    own = np.full((total, count), np.nan, np.float32)
    explained = np.full((total, count), -1)
    values = np.full((total, count), np.nan, np.float32)
    for layout, looks in index.layouts:
        if k := layout.top:
            raw = index.read_arrays(file, looks, layout.top_at, count * (6 * k + 2))
            classes, shares = raw[:, : 4 * k * count], raw[:, 4 * k * count :].copy().view("<u2")
            top[looks, :, :k] = classes.copy().view("<i4").reshape(-1, count, k)
            share = shares[:, : k * count].reshape(-1, count, k)
            top_probabilities[looks, :, :k] = share / PROBABILITY_SCALE
            own[looks] = np.where(labels >= 0, shares[:, k * count :] / PROBABILITY_SCALE, np.nan)
            explained[looks] = top[looks, :, 0]
        if layout.class_at is not None:
            explained[looks] = index.read_arrays(file, looks, layout.class_at, 4 * count).view("<i4")
        if layout.values_at is not None:
            values[looks] = index.read_arrays(file, looks, layout.values_at, 4 * count).view("<f4")
    return Predictions(top, top_probabilities, own, explained, values)


def read_parts(index: Index, file: BinaryIO) -> tuple[np.ndarray, np.ndarray] | None:
    """Return overlaps (T, B) float32 and predictions (T, B, h, w) bool of parts of images; None if there are none.

    Predictions of another size than the newest are left out, which are those of other images.

    Raises:
        RecordError: That would be many times larger than the file.
    """
    found = [(layout, looks) for layout, looks in index.layouts if layout.parts_at is not None]
    if not found:
        return None
    size = max(found, key=lambda own: own[1][-1])[0].parts
    total, count = len(index), len(index.probe.labels)
    _check_size(total * count * int(np.prod(size, dtype=object)), "predictions of parts", index)
    overlaps = np.full((total, count), np.nan, np.float32)
    predicted = np.zeros((total, count, *size), bool)
    for layout, looks in found:
        if layout.parts_at is not None and layout.parts == size:
            raw = index.read_arrays(file, looks, layout.parts_at, count * num_bytes(size))
            overlaps[looks], predicted[looks] = decoded(raw, count, size)
    return overlaps, predicted


def read_images(index: Index, file: BinaryIO) -> tuple[list[bytes], list[bytes]]:
    """Return the files of the probe images and of the regions."""
    file.seek(index.images_at)
    return (
        [file.read(size) for size in index.probe.image_bytes],
        [file.read(size) for size in index.probe.region_bytes],
    )


def expand(total: int, looks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values of some looks as (total,), NaN where there is none."""
    series = np.full(total, np.nan)
    series[looks] = values
    return series


def decode_images(files: list[bytes], mode: str, path: object) -> np.ndarray:
    """Return stored images as one array.

    Args:
        files: WebP or PNG, all of one size.
        mode: As Pillow calls it.
        path: What messages call the record.

    Raises:
        RecordError: One is damaged, larger than any that is written, or of another size than the first.
    """
    from PIL import Image

    pixels: list[np.ndarray] = []
    for data in files:
        try:
            with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as picture:
                wide, high = picture.size
                if max(wide, high) > MOST_SIDE or wide * high * len(files) > _MOST_PIXELS:
                    raise RecordError(f"{path}: {len(files)} probe images of {wide}×{high} pixels are too large")
                pixels.append(np.asarray(picture.convert(mode)))
        except RecordError:
            raise
        # Pillow's plugins raise whatever a damaged file leads them to: OSError, SyntaxError, ValueError, struct.error.
        except Exception as error:
            raise RecordError(f"{path}: a probe image is damaged: {error}") from error
        if pixels[-1].shape != pixels[0].shape:
            raise RecordError(f"{path}: expected probe images of one size")
    return np.stack(pixels) if pixels else np.empty((0, 0, 0, 3), np.uint8)


def _check_size(size: int, what: str, index: Index) -> None:
    """A few bytes can say that they are the only map of a large grid, or one of many looks."""
    if size > max(_ALWAYS, _TIMES_THE_FILE * index.file_size):
        raise RecordError(
            f"{index.path}: the {what} would take {size / 2**20:,.0f} MiB, but the file has {index.file_size:,} bytes"
        )
