"""The findings of a cohort as stored in a record: sentences, statistics, maps and small pictures of images.

A record of the kind `findings` belongs to the look of its step. Its JSON has `findings` (see `FoundEntry`),
`statistics` (see `Found`), `classes` (of the mean maps), `images` (which validation images the maps are of),
`pictures` and `picture_bytes` (which are shown, and how long each picture is). Behind it lie, as uint8 of 28 × 28
cells, the mean maps and the maps, each in 1/255 of its largest value, float32 (n,) these values, and the pictures as
WebP.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightning_cam.timeline.format import RecordError, encode_record
from lightning_cam.timeline.heads import number, read_place

SIDE = 28
MOST_BYTES = 256 * 2**10  # of a record
MOST_CLASSES = 96  # whose mean maps a look keeps
MOST_MAPS = 64  # of images
MOST_PICTURES = 24
_PICTURE_SIDE = 64  # pixels
_OWN_BYTES = 1024  # of the list of pictures
_MOST_STATISTICS = 96
_MOST_FINDINGS = 64
_LONGEST = 2000  # letters of a sentence
_MOST_NUMBERS = 64


@dataclass(frozen=True)
class FoundEntry:
    """One finding.

    Attributes:
        kind: Its name, such as "shortcut".
        text: The sentence.
        status: "confirmed", "not confirmed", "not testable" or "measured".
        since: Step since which it holds, or None.
        classes: Classes it is about.
        images: Which validation images show it, in the order they came.
        numbers: By name.
    """

    kind: str
    text: str
    status: str
    since: int | None
    classes: list[int]
    images: list[int]
    numbers: dict[str, float]


@dataclass(frozen=True)
class Found:
    """What was found at one look.

    Attributes:
        step: The look's.
        findings: Confirmed ones first.
        class_means: The mean map (28, 28) float32 of each class, shares of the evidence.
        images: (n,) int64, which validation images `maps` are of, in the order they came: those that a finding names
            first.
        maps: (n, 28, 28) float32, shares of the evidence of images.
        statistics: Of each class, each predicted class and each class that is taken for another one: `by` ("class",
            "prediction", "confusion"), `classes`, `images` (how many), and means over these: `border`, `center`,
            `regions` (each ninth of the image, row by row), `spread`, `inside`, `agreement`; None where not known.
        pictures: (3, h, w) uint8 of validation images that a finding names. A record holds each picture once, at the
            first look that names it.
    """

    step: int
    findings: list[FoundEntry]
    class_means: Mapping[int, np.ndarray] = field(repr=False, default_factory=dict)
    images: np.ndarray = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    maps: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, SIDE, SIDE), np.float32))
    statistics: list[dict[str, Any]] = field(repr=False, default_factory=list)
    pictures: Mapping[int, np.ndarray] = field(repr=False, default_factory=dict)


def encode_found(found: Found) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the arrays of a record of at most 256 KB; what is more than fits is left out."""
    classes, images = list(found.class_means)[:MOST_CLASSES], found.images[:MOST_MAPS].tolist()
    means = np.array([found.class_means[c] for c in classes]).reshape(-1, SIDE, SIDE)
    whole = np.nan_to_num(np.concatenate([means, found.maps[:MOST_MAPS]]))
    largest = whole.max((1, 2), initial=0)
    codes = np.rint(whole / np.where(largest > 0, largest, 1)[:, None, None] * 255).astype(np.uint8)
    arrays = codes.tobytes() + largest.astype("<f4").tobytes()
    entries = [asdict(entry) for entry in found.findings[:_MOST_FINDINGS]]
    for entry in entries:
        entry["text"] = entry["text"][:_LONGEST]
        entry["numbers"] = {name: round(x, 4) for name, x in entry["numbers"].items() if math.isfinite(x)}
    head: dict[str, Any] = {
        "kind": "findings",
        "step": int(found.step),
        "findings": entries,
        "statistics": [_rounded(row) for row in found.statistics[:_MOST_STATISTICS]],
        "classes": classes,
        "images": images,
    }
    left = MOST_BYTES - _OWN_BYTES - len(encode_record(head, arrays))
    pictures: dict[int, bytes] = {}
    for image, pixels in list(found.pictures.items())[:MOST_PICTURES]:
        picture = _as_webp(pixels)
        if (left := left - len(picture)) < 0:
            break
        pictures[int(image)] = picture
    head |= {"pictures": list(pictures), "picture_bytes": [len(picture) for picture in pictures.values()]}
    return head, arrays + b"".join(pictures.values())


def decode_found(head: dict[str, Any], arrays: bytes, what: str) -> Found:
    """Return what a record says.

    Raises:
        RecordError: As `check_found` does.
    """
    step, entries, classes = check_found(head, len(arrays), what)
    images = head["images"]
    count = len(classes) + len(images)
    codes = np.frombuffer(arrays, np.uint8, count * SIDE**2).reshape(count, SIDE, SIDE)
    largest = np.frombuffer(arrays, "<f4", count, count * SIDE**2)
    maps = codes / np.float32(255) * largest[:, None, None]
    pictures, at = {}, count * (SIDE**2 + 4)
    for image, length in zip(head.get("pictures", []), head.get("picture_bytes", []), strict=True):
        if (pixels := _from_webp(arrays[at : at + length])) is not None:
            pictures[image] = pixels
        at += length
    return Found(
        step,
        entries,
        dict(zip(classes, maps, strict=False)),
        np.array(images, np.int64),
        maps[len(classes) :],
        head.get("statistics", []),
        pictures,
    )


def check_found(head: dict[str, Any], num_bytes: int, what: str) -> tuple[int, list[FoundEntry], list[int]]:
    """Check the JSON of a record, and return the step, the findings and the classes of the mean maps.

    Args:
        head: The JSON.
        num_bytes: What follows it.
        what: What messages call the record.

    Raises:
        RecordError: A value is missing, of another type, or declares more than there is.
    """
    step, _, _ = read_place({**head, "epoch": 0, "time": 0}, what)
    entries, classes, images, statistics = (head.get(key) for key in ("findings", "classes", "images", "statistics"))
    if not isinstance(entries, list) or len(entries) > _MOST_FINDINGS:
        raise RecordError(f"{what}: findings: expected a list of at most {_MOST_FINDINGS}")
    pictures, lengths = head.get("pictures"), head.get("picture_bytes")
    if not all(map(_are_integers, (classes, images, pictures, lengths))):
        raise RecordError(f"{what}: classes, images, pictures, picture_bytes: expected integers")
    assert isinstance(classes, list) and isinstance(images, list)  # just checked
    assert isinstance(pictures, list) and isinstance(lengths, list)
    count = len(classes) + len(images)
    if count > MOST_CLASSES + MOST_MAPS or len(pictures) != len(lengths) or min(lengths, default=0) < 0:
        raise RecordError(f"{what}: more maps or pictures than a look has")
    if num_bytes < count * (SIDE**2 + 4) + sum(lengths):
        raise RecordError(f"{what}: the maps and pictures are longer than the record")
    if not isinstance(statistics, list) or len(statistics) > _MOST_STATISTICS:
        raise RecordError(f"{what}: statistics: expected a list of at most {_MOST_STATISTICS}")
    for row in statistics:
        _check_statistics(row, what)
    return step, [_entry(entry, what) for entry in entries], classes


_MEANS = ("border", "center", "spread", "inside", "agreement")


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of statistics as JSON has it."""

    def plain(value: float) -> float | None:
        return round(float(value), 4) if math.isfinite(value) else None

    means = {name: plain(row[name]) for name in _MEANS}
    regions = [plain(value) for value in row["regions"]]
    return {"by": row["by"], "classes": row["classes"], "images": row["images"], **means, "regions": regions}


def _check_statistics(row: Any, what: str) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("by"), str) or not isinstance(row.get("regions"), list):
        raise RecordError(f"{what}: statistics: expected rows of a group")
    if not _are_integers(row.get("classes")) or type(row.get("images")) is not int or len(row["regions"]) != 9:
        raise RecordError(f"{what}: statistics: expected classes, images and nine regions")
    for value in (*row["regions"], *(row.get(name) for name in _MEANS)):
        if value is not None:
            number(value, "statistics", what)


def _as_webp(pixels: np.ndarray) -> bytes:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _from_webp(data: bytes) -> np.ndarray | None:
    """(3, h, w) uint8; None if it is damaged, or larger than pictures are."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
            if max(picture.size) > _PICTURE_SIDE:
                return None
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    except Exception:  # whatever a decoder makes of damaged bytes
        return None


def _entry(entry: Any, what: str) -> FoundEntry:
    if not isinstance(entry, dict):
        raise RecordError(f"{what}: expected a finding")
    texts = [entry.get(key) for key in ("kind", "text", "status")]
    since, numbers = entry.get("since"), entry.get("numbers")
    lists = [entry.get(key) for key in ("classes", "images")]
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in texts):
        raise RecordError(f"{what}: kind, text, status: expected strings")
    if not (since is None or type(since) is int) or not all(map(_are_integers, lists)):
        raise RecordError(f"{what}: since, classes, images: expected integers")
    if not isinstance(numbers, dict) or len(numbers) > _MOST_NUMBERS:
        raise RecordError(f"{what}: numbers: expected values by name")
    values = {str(name): number(value, str(name), what) for name, value in numbers.items()}
    kind, text, status = (str(text).encode("utf-8", "replace").decode() for text in texts)
    return FoundEntry(kind, text, status, since, list(lists[0] or ()), list(lists[1] or ()), values)


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and math.fabs(value) < 2**62 for value in values)
