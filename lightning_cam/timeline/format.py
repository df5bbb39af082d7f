"""The bytes of a timeline: one small append-only file next to the event file.

A file `{name}.lcam` starts with 16 bytes (`LCAM`, uint32 version, 8 random bytes that tell this file from
another one under the same path) and goes on with records: uint32 length, uint32 CRC-32, payload, all numbers
little-endian. A payload is uint32 length of a JSON text, the text, then raw arrays. The first record holds the
probe images, each further one a look, or metrics that belong to the look of their step. Of a look:

=================  ====================  ===============================================================
array              type and shape        meaning
=================  ====================  ===============================================================
codes              int8 (B, h, w)        per method: 127 is the map's largest value, -127 its smallest
scales             float32 (B, 2)        per method: the largest value and minus the smallest, or 0
top classes        int32 (B, K)          most probable classes, best first
top probabilities  uint16 (B, K)         in 1/65535
label probability  uint16 (B,)           in 1/65535; 0 where the label is unknown
class_idx          int32 (B,)            the class explained; left out where it is the best one
=================  ====================  ===============================================================

A record is written with one system call, so a killed process loses nothing but a record it was in the middle
of: a reader ends at the first record that is not whole, and a writer that resumes cuts it off. A look whose
step is not after the looks before it replaces them from that step on, as when a run resumes from a checkpoint.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAGIC = b"LCAM"
VERSION = 1
SUFFIX = ".lcam"
FILE_HEADER = struct.Struct("<4sI8s")
RECORD_HEADER = struct.Struct("<II")
PROBABILITY_SCALE = np.float32(65535)  # probabilities are stored in units of 1 over this


def encode_record(head: dict[str, Any], body: bytes) -> bytes:
    """Return one record, as its header, its JSON and its arrays' bytes."""
    text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    payload = struct.pack("<I", len(text)) + text + body
    return RECORD_HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode_records(data: bytes, path: str) -> Iterator[tuple[dict[str, Any], memoryview, int]]:
    """Yield each whole record: its JSON, its arrays' bytes, where it ends in the file."""
    if len(data) < FILE_HEADER.size:
        return
    magic, version, _ = FILE_HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"{path} is not a CAM timeline")
    if version > VERSION:
        raise ValueError(
            f"{path} is written in version {version} of the CAM timeline format, this lightning-cam reads up to "
            f"version {VERSION}: upgrade lightning-cam"
        )
    view, at = memoryview(data), FILE_HEADER.size
    while at + RECORD_HEADER.size <= len(data):
        length, checksum = RECORD_HEADER.unpack_from(data, at)
        payload = view[at + RECORD_HEADER.size : at + RECORD_HEADER.size + length]
        if len(payload) < max(length, 4) or zlib.crc32(payload) != checksum:
            return
        at += RECORD_HEADER.size + length
        (text,) = struct.unpack_from("<I", payload)
        yield json.loads(bytes(payload[4 : 4 + text])), payload[4 + text :], at


def quantize(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (B, h, w) as int8 codes (B, h, w) and float32 scales (B, 2), see the module's table.

    Example:
        >>> codes, scales = quantize(np.array([[[-2.0, 0.0, 1e-9, 4.0]]]))
        >>> codes.tolist(), scales.tolist()
        ([[[-127, 0, 1, 127]]], [[4.0, 2.0]])
    """
    values = np.asarray(maps, np.float32).astype(np.float64)
    finite = np.isfinite(values).all((1, 2), keepdims=True)
    values = np.where(finite, values, 0.0)
    largest = values.max((1, 2), keepdims=True).clip(min=0)
    smallest = -values.min((1, 2), keepdims=True).clip(max=0)
    side = np.where(values > 0, largest, smallest)
    share = np.abs(values) / np.where(side > 0, side, 1)
    codes = np.sign(values) * np.rint(share * 127).clip(min=1)
    scales = np.where(finite, np.concatenate([largest, smallest], -1), np.nan)[:, 0]
    return codes.astype(np.int8), scales.astype("<f4")


def dequantize(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return float32 maps (..., h, w) from codes (..., h, w) and scales (..., 2)."""
    scales = scales[..., None, None, :]
    side = np.where(codes > 0, scales[..., 0], scales[..., 1])
    return codes / np.float32(127) * side
