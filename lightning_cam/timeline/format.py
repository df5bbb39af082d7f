"""The bytes of a timeline: one small append-only file next to the event file.

A file `{name}.lcam` starts with 16 bytes (`LCAM`, uint32 version, 8 random bytes that tell this file from
another one under the same path) and goes on with records: uint32 length, uint32 CRC-32, payload, all numbers
little-endian. A payload is uint32 length of a JSON text, the text, then raw arrays. The text begins with
`{"kind":`. The first record holds the probe images, each further one a look, or metrics that belong to the look of
their step, or what was found or what blocks read then (`found.py`, `blocks.py`); a record of another kind is passed
over. Of a look:

=================  ====================  ===============================================================
array              type and shape        meaning
=================  ====================  ===============================================================
codes              int8 (B, h, w)        per method: 127 is the map's largest value, -127 its smallest; (B, 3, h, w)
                                         of the methods that the JSON lists under `colors`: red, green and blue from
                                         -1 to 1, of one scale (from version 2 on); (B, d, h, w) where the images
                                         have planes, all of one scale (from version 2 on)
scales             float32 (B, 2)        per method: the largest value and minus the smallest, or 0
evidence           uint16 (B, d)         per method with planes: the share of each in the image's positive relevance, in
                                         1/65535; the rest is in planes that were left out; 0 where there is none
top classes        int32 (B, K)          most probable classes, best first
top probabilities  uint16 (B, K)         in 1/65535
label probability  uint16 (B,)           in 1/65535; 0 where the label is unknown
class_idx          int32 (B,)            the class explained; left out where it is the best one
values             float32 (B,)          the predicted values; left out where it is no regression
overlaps           float32 (B,)          where a row is a region or an object of an image: its intersection over union
                                         with the truth, NaN where that is not known; the only top class is the
                                         part's, -1 without one, and its probability the part's share of the area
predicted          bits (B, h * w)       likewise: where the part was predicted, a whole number of bytes for each row;
                                         `"parts": [h, w]` in the JSON says that both are there (from version 2 on)
=================  ====================  ===============================================================

Images of volumes, videos and bags have planes (from version 2 on, `planes.py`): the JSON of the probe images says under
`planes` their `kind`, how many each image has (`count`), and the `numbers` of the n that there are pictures of. These
stand side by side in the picture of an image, as many in a row as the root of n, rounded up, and `size` is that of one
of them. Picture k of n, from 0 on, belongs to plane floor((k + 1/2) * d / n) of a map with d planes.

A record is written with one system call, so a killed process loses nothing but a record it was in the middle
of: a reader ends after the last record that is whole, and a writer that resumes cuts off what comes then. A damaged
record with a whole one behind it is passed over and kept; the next one is found by the first bytes of its JSON. A
look whose step is not after the looks before it replaces them from that step on, as when a run resumes from a
checkpoint.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"LCAM"
VERSION = 2  # 1 has no records of blocks, maps of colors, predicted parts or planes
SUFFIX = ".lcam"
FILE_HEADER = struct.Struct("<4sI8s")
RECORD_HEADER = struct.Struct("<II")
TEXT_LENGTH = struct.Struct("<I")
LONGEST_SIDE = 448  # pixels of a stored probe image, unless another size is asked for
MOST_SIDE = 2048  # that can be asked for
PROBABILITY_SCALE = np.float32(65535)  # probabilities are stored in units of 1 over this

_LONGEST_TEXT = 16 * 2**20  # bytes of JSON in a record; the names of 100,000 classes take 3 MB
_TEXT_BEGINS = b'{"kind":'
_CHUNK = 2**20


class RecordError(ValueError):
    """A file is no CAM timeline, is damaged where nothing can be read without it, or is of a newer version."""


def encode_record(head: dict[str, Any], body: bytes) -> bytes:
    """Return one record, as its header, its JSON and its arrays' bytes. The first key of `head` is `kind`."""
    text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    payload = TEXT_LENGTH.pack(len(text)) + text + body
    return RECORD_HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def find_records(
    file: BinaryIO, path: object, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield where each whole record starts in the file, and its payload; what is damaged in between is passed over.

    Args:
        file: Open for reading; needs no more memory than one record takes.
        path: What messages call it.
        on_bytes: Is told how many bytes more were read.

    Raises:
        RecordError: It is no CAM timeline, or one of a newer version.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(FILE_HEADER.size)
    if start[: len(MAGIC)] != MAGIC[: len(start)]:
        raise RecordError(f"{path} is not a CAM timeline")
    if len(start) < FILE_HEADER.size:
        return
    _, version, _ = FILE_HEADER.unpack(start)
    if version > VERSION:
        raise RecordError(
            f"{path} has version {version} of the CAM timeline format, but this lightning-cam reads up to version "
            f"{VERSION}: upgrade lightning-cam"
        )
    search = _Search(file, size)
    at: int | None = FILE_HEADER.size
    while at is not None:
        payload = search.whole_record(at)
        if payload is None:
            at = search.next_record(at + 1)
            continue
        yield at, payload
        at += RECORD_HEADER.size + len(payload)
        if on_bytes is not None:
            on_bytes(RECORD_HEADER.size + len(payload))


def decode_payload(payload: bytes, what: str) -> tuple[dict[str, Any], int]:
    """Return the JSON of a record, and where in the payload its arrays begin.

    Raises:
        RecordError: There is no JSON object of the length that is declared.
    """
    (length,) = TEXT_LENGTH.unpack_from(payload)
    end = TEXT_LENGTH.size + length
    if end > len(payload) or length > _LONGEST_TEXT:
        raise RecordError(f"{what}: expected at most {len(payload):,} bytes of JSON, got {length:,}")
    try:
        head = json.loads(payload[TEXT_LENGTH.size : end], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{what}: expected JSON ({error})") from error
    if not isinstance(head, dict):
        raise RecordError(f"{what}: expected a JSON object, got {type(head).__name__}")
    return head, end


class _Search:
    """Looks for whole records in a file that may be damaged, or made to be slow to read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._patience = 4 * size + _CHUNK  # bytes whose checksum may be wrong

    def whole_record(self, at: int) -> bytes | None:
        self._file.seek(at)
        header = self._file.read(RECORD_HEADER.size)
        if len(header) < RECORD_HEADER.size:
            return None
        length, checksum = RECORD_HEADER.unpack(header)
        if not TEXT_LENGTH.size <= length <= self._size - at - RECORD_HEADER.size or self._patience < 0:
            return None
        payload = self._file.read(length)
        if len(payload) == length and zlib.crc32(payload) == checksum:
            return payload
        self._patience -= length
        return None

    def next_record(self, start: int) -> int | None:
        """Return where the first whole record at `start` or later begins; None if there is none."""
        before = RECORD_HEADER.size + TEXT_LENGTH.size  # the text
        at = start + before
        while at < self._size and self._patience >= 0:
            self._file.seek(at)
            chunk = self._file.read(_CHUNK)
            found = chunk.find(_TEXT_BEGINS)
            while found >= 0:
                if self.whole_record(at + found - before) is not None:
                    return at + found - before
                found = chunk.find(_TEXT_BEGINS, found + 1)
            at += _CHUNK - len(_TEXT_BEGINS) + 1
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def quantize(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (B, ...) as int8 codes (B, ...) and float32 scales (B, 2), see the module's table.

    Example:
        >>> codes, scales = quantize(np.array([[[-2.0, 0.0, 1e-9, 4.0]]]))
        >>> codes.tolist(), scales.tolist()
        ([[[-127, 0, 1, 127]]], [[4.0, 2.0]])
    """
    values = np.asarray(maps, np.float32).astype(np.float64).reshape(len(maps), -1)
    finite = np.isfinite(values).all(1, keepdims=True)
    values = np.where(finite, values, 0.0)
    largest = values.max(1, keepdims=True).clip(min=0)
    smallest = -values.min(1, keepdims=True).clip(max=0)
    side = np.where(values > 0, largest, smallest)
    share = np.abs(values) / np.where(side > 0, side, 1)
    codes = np.sign(values) * np.rint(share * 127).clip(min=1)
    scales = np.where(finite, np.concatenate([largest, smallest], 1), np.nan)
    return codes.astype(np.int8).reshape(np.shape(maps)), scales.astype("<f4")


def dequantize(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return float32 maps (..., h, w) from codes (..., h, w) and scales (..., 2)."""
    scales = scales[..., None, None, :]
    side = np.where(codes > 0, scales[..., 0], scales[..., 1])
    with np.errstate(invalid="ignore"):  # a made-up scale may be infinite
        return codes / np.float32(127) * side
