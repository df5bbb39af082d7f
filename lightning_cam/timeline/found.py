"""What was found of a cohort, as it stands in a record: sentences, the mean maps of classes, maps of images.

A record of the kind `findings` belongs to the look of its step. Its JSON has `findings` (see `FoundEntry`), `classes`
(of the mean maps) and `images` (which of the cohort the maps are of). Behind it lie, as uint8 of 28 × 28
cells, the mean maps and the maps, each in 1/255 of its largest value, and float32 (n,) these values.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_cam.timeline.format import RecordError
from lightning_cam.timeline.heads import number, read_place

SIDE = 28
MOST_CLASSES = 128  # whose mean maps a look keeps
MOST_MAPS = 128  # of images: with the means 200 KB
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
        maps: (n, 28, 28) float32, shares of the evidence of images.
        images: (n,) which of the cohort these are.
    """

    step: int
    findings: list[FoundEntry]
    class_means: dict[int, np.ndarray] = field(repr=False)
    maps: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)


def encode_found(
    step: int, findings: Sequence[Mapping[str, Any]], means: Mapping[int, np.ndarray], maps: np.ndarray
) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the arrays of a record of at most 256 KB.

    Args:
        step: The look's.
        findings: As `FoundEntry` has them.
        means: The mean map (28, 28) of each class; of more than 128 the first.
        maps: (n, 28, 28); of more than 128 some, evenly.
    """
    classes = list(means)[:MOST_CLASSES]
    images = np.unique(np.linspace(0, len(maps) - 1, min(len(maps), MOST_MAPS)).round().astype(int)).tolist()
    kept = np.array([means[c] for c in classes]).reshape(-1, SIDE, SIDE)
    whole = np.concatenate([kept, maps[images]])
    largest = np.nan_to_num(whole).max((1, 2), initial=0)
    codes = np.rint(np.nan_to_num(whole) / np.where(largest > 0, largest, 1)[:, None, None] * 255).astype(np.uint8)
    entries = [{**entry, "text": entry["text"][:_LONGEST]} for entry in findings[:_MOST_FINDINGS]]
    head = {"kind": "findings", "step": int(step), "findings": entries, "classes": classes, "images": images}
    return head, codes.tobytes() + largest.astype("<f4").tobytes()


def decode_found(head: dict[str, Any], arrays: bytes, what: str) -> Found:
    """Return what a record says that `check_found` has passed."""
    step, entries, classes = check_found(head, len(arrays), what)
    images = head["images"]
    count = len(classes) + len(images)
    codes = np.frombuffer(arrays, np.uint8, count * SIDE**2).reshape(count, SIDE, SIDE)
    largest = np.frombuffer(arrays, "<f4", count, count * SIDE**2)
    maps = codes / np.float32(255) * largest[:, None, None]
    means = dict(zip(classes, maps, strict=False))
    return Found(step, entries, means, maps[len(classes) :], np.array(images, np.int64))


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
    entries, classes, images = (head.get(key) for key in ("findings", "classes", "images"))
    if not isinstance(entries, list) or len(entries) > _MOST_FINDINGS:
        raise RecordError(f"{what}: findings: expected a list of at most {_MOST_FINDINGS}")
    if not (_are_integers(classes) and _are_integers(images)):
        raise RecordError(f"{what}: classes, images: expected integers")
    assert isinstance(classes, list) and isinstance(images, list)  # just checked
    count = len(classes) + len(images)
    if count > MOST_CLASSES + MOST_MAPS or num_bytes < count * (SIDE**2 + 4):
        raise RecordError(f"{what}: the maps are longer than the record")
    return step, [_entry(entry, what) for entry in entries], classes


def _entry(entry: Any, what: str) -> FoundEntry:
    if not isinstance(entry, dict):
        raise RecordError(f"{what}: expected a finding")
    texts = [entry.get(key) for key in ("kind", "text", "status")]
    since, numbers = entry.get("since"), entry.get("numbers")
    lists = [entry.get(key) for key in ("classes", "images")]
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in texts):
        raise RecordError(f"{what}: kind, text, status: expected texts")
    if not (since is None or type(since) is int) or not all(map(_are_integers, lists)):
        raise RecordError(f"{what}: since, classes, images: expected integers")
    if not isinstance(numbers, dict) or len(numbers) > _MOST_NUMBERS:
        raise RecordError(f"{what}: numbers: expected values by name")
    values = {str(name): number(value, str(name), what) for name, value in numbers.items()}
    kind, text, status = (str(text).encode("utf-8", "replace").decode() for text in texts)
    return FoundEntry(kind, text, status, since, list(lists[0] or ()), list(lists[1] or ()), values)


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and math.fabs(value) < 2**62 for value in values)
