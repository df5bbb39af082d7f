"""Checks of a record's JSON, all in one place, before anything of the declared size is allocated."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import repr as shown
from typing import Any, NamedTuple, TypeGuard

from lightning_cam.timeline.format import RecordError
from lightning_cam.timeline.parts import num_bytes
from lightning_cam.timeline.planes import Planes, planes_in

COLORS = 3  # red, green and blue
_MOST_METHODS = 100  # in a look
_INT64 = 2**63


@dataclass(frozen=True)
class Probe:
    """The first record: the images that all looks are of.

    Args:
        name: The callback's name.
        labels: Class of each image, -1 where unknown.
        class_names: Name of each class; empty if unknown.
        size: Height and width of the images before they were stored.
        hashes: What tells each image from another.
        image_bytes: Size of each stored image.
        region_bytes: Size of each stored region; empty if there are none.
        texts: What is true of each image, in words; empty where labels say it.
        planes: What each image consists of, if that is planes.
    """

    name: str
    labels: list[int]
    class_names: list[str]
    size: tuple[int, int]
    hashes: list[str]
    image_bytes: list[int]
    region_bytes: list[int]
    texts: list[str]
    planes: Planes | None = None


class MapsAt(NamedTuple):
    """Where the maps of a method lie in a look.

    Args:
        at: Where their codes begin, behind the JSON of the look.
        rows: Of a map; of colors those of red, green and blue below one another, and likewise of planes.
        columns: Of a map.
        planes: How many planes a map has, 0 where images have none.
    """

    at: int
    rows: int
    columns: int
    planes: int = 0


@dataclass(frozen=True)
class Layout:
    """Which arrays a look has, and where they lie behind its JSON.

    Args:
        methods: For each method where its maps lie.
        colors: The methods whose maps are colors.
        top: How many classes are kept per image.
        top_at: Where the top classes begin, before their probabilities and that of the label.
        class_at: Where the explained classes begin; None where those are the best ones.
        values_at: Where the predicted values begin; None where there are none.
        parts_at: Where overlaps and predictions of parts begin; None where rows are whole images.
        parts: Rows and columns of these predictions.
        size: Bytes of all arrays.
    """

    methods: dict[str, MapsAt]
    colors: frozenset[str]
    top: int
    top_at: int
    class_at: int | None
    values_at: int | None
    parts_at: int | None
    parts: tuple[int, int]
    size: int


def read_probe(head: dict[str, Any], num_bytes: int, what: str) -> Probe:
    """Check the JSON of the probe images.

    Args:
        head: The JSON.
        num_bytes: What follows it.
        what: What messages call the record.

    Raises:
        RecordError: A value is missing, of another type, or declares more than there is.
    """
    check = _Check(head, what)
    labels = check.integers("labels", low=-_INT64)
    sizes = {key: check.integers(key) for key in ("bytes", "region_bytes")}
    hashes = check.texts("hashes")
    for key, values in (("bytes", sizes["bytes"]), ("hashes", hashes), ("region_bytes", sizes["region_bytes"])):
        if len(values) != len(labels) and (values or key != "region_bytes"):
            raise RecordError(f"{what}: {key}: expected one per image, got {len(values)} for {len(labels)} images")
    texts = check.texts("texts", head.get("texts", []))
    if len(texts) not in (0, len(labels)):
        raise RecordError(f"{what}: texts: expected one per image, got {len(texts)} for {len(labels)} images")
    if sum(map(sum, sizes.values())) > num_bytes:
        raise RecordError(f"{what}: the images are longer than the record")
    size = check.integers("size", low=1)
    if len(size) != 2:
        raise RecordError(f"{what}: size: expected height and width, got {size}")
    planes = planes_in(head["planes"]) if "planes" in head else None
    if "planes" in head and planes is None:
        raise RecordError(f"{what}: planes: expected kind, count and rising numbers, got {shown(head['planes'])}")
    return Probe(
        name=check.texts("name", [head.get("name")])[0],
        labels=labels,
        class_names=check.texts("class_names"),
        size=(size[0], size[1]),
        hashes=hashes,
        image_bytes=sizes["bytes"],
        region_bytes=sizes["region_bytes"],
        texts=texts,
        planes=planes,
    )


def read_layout(head: dict[str, Any], probe: Probe, what: str) -> Layout:
    """Check what the JSON of a look says of its arrays.

    Args:
        head: The JSON.
        probe: The images.
        what: What messages call the record.

    Raises:
        RecordError: A value is missing or of another type.
    """
    check, at, count = _Check(head, what), 0, len(probe.labels)
    methods = {}
    colors = frozenset(check.texts("colors", head.get("colors", [])))
    for method, shape in check.mapping("methods").items():
        form, planes = check.integers(f"methods: {method}", shape, low=1), 0
        if method in colors and len(form) == 3 and form[0] == COLORS:
            form = [COLORS * form[1], form[2]]
        elif len(form) == 3 and probe.planes is not None:
            planes, form = form[0], [form[0] * form[1], form[2]]
        elif len(form) != 2 or method in colors:
            raise RecordError(f"{what}: methods: {method}: expected rows and columns, got {form}")
        methods[method] = MapsAt(at, form[0], form[1], planes)
        at += count * (math.prod(form) + 8 + 2 * planes)
    if len(methods) > _MOST_METHODS:
        raise RecordError(f"{what}: methods: expected at most {_MOST_METHODS}, got {len(methods)}")
    top = check.integers("top", [head.get("top")])[0]
    top_at = at
    at += count * (6 * top + 2 * (top > 0))
    class_at = at if head.get("class_idx") else None
    at += 4 * count * (class_at is not None)
    values_at = at if head.get("values") else None
    at += 4 * count * (values_at is not None)
    size = check.integers("parts", low=1) if "parts" in head else []
    if len(size) not in (0, 2):
        raise RecordError(f"{what}: parts: expected rows and columns, got {size}")
    rows, columns = size or (0, 0)
    parts_at = at if size else None
    at += count * num_bytes((rows, columns)) * (parts_at is not None)
    return Layout(methods, colors, top, top_at, class_at, values_at, parts_at, (rows, columns), at)


def read_place(head: dict[str, Any], what: str) -> tuple[int, int, float]:
    """Check when a look was taken: its step, its epoch, its time.

    Raises:
        RecordError: A value is missing or of another type.
    """
    step, epoch, time = head.get("step"), head.get("epoch"), head.get("time")
    if not (_is_integer(step) and _is_integer(epoch)):
        raise RecordError(f"{what}: step, epoch: expected integers, got {shown(step)} and {shown(epoch)}")
    return step, epoch, number(time, "time", what)


def number(value: Any, key: str, what: str) -> float:
    """Check a number that is finite.

    Raises:
        RecordError: It is none.
    """
    if (type(value) is float or _is_integer(value)) and math.isfinite(value):
        return float(value)
    raise RecordError(f"{what}: {key}: expected a finite number, got {shown(value)}")


def read_metrics(head: dict[str, Any], what: str) -> Iterable[tuple[str, float]]:
    """Yield the metrics of a look; NaN where one was not finite.

    Raises:
        RecordError: A value is no number.
    """
    metrics = head.get("metrics")
    if type(metrics) is not dict:
        raise RecordError(f"{what}: metrics: expected values by name, got {shown(metrics)}")
    for tag, value in metrics.items():
        yield tag, math.nan if value is None else number(value, tag, what)


class _Check:
    def __init__(self, head: dict[str, Any], what: str) -> None:
        self._head, self._what = head, what

    def integers(self, key: str, values: Any = None, low: int = 0) -> list[int]:
        values = self._head.get(key) if values is None else values
        if type(values) is not list or not all(_is_integer(value) and value >= low for value in values):
            raise RecordError(f"{self._what}: {key}: expected integers of at least {low}, got {shown(values)}")
        return values

    def texts(self, key: str, values: Any = None) -> list[str]:
        values = self._head.get(key) if values is None else values
        if type(values) is not list or not all(type(value) is str for value in values):
            raise RecordError(f"{self._what}: {key}: expected text, got {shown(values)}")
        # JSON can hold halves of characters, which no file or font takes
        return [value if value.isascii() else value.encode("utf-8", "replace").decode() for value in values]

    def mapping(self, key: str) -> dict[str, Any]:
        value = self._head.get(key)
        if type(value) is not dict:
            raise RecordError(f"{self._what}: {key}: expected values by name, got {shown(value)}")
        return value


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int and -_INT64 <= value < _INT64
