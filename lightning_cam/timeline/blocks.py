"""What the blocks of a model read at a look, as it stands in a record: a map for each block and image.

A record of the kind `blocks` belongs to the look of its step; few looks have one. Its JSON has `names` (of the blocks
in order; the last row is what the head reads, and is called so), `methods`, `images` (of how many of the first probe
images there are maps) and `shapes` (rows and columns of the maps of each row). Behind it lie, by method and row, int8
codes (n, h, w) and float32 scales (n, 2), as those of a look. Where the blocks are not known, `why` says why, and the
lists are empty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_cam.timeline.format import RecordError, dequantize, quantize
from lightning_cam.timeline.heads import read_place

HEAD = "head"
MOST_BYTES = 64 * 2**10  # of the maps of a look: of more images than that there are none
_MOST_ROWS = 129
_MOST_METHODS = 100
_MOST_CELLS = 2**16  # of a map
_LONGEST = 500  # letters of why


@dataclass(frozen=True)
class BlockMaps:
    """What blocks read at one look.

    Attributes:
        step: The look's.
        names: Of the blocks in order, and last "head": what is left in the patches behind the last block, which the
            head reads.
        maps: By method one array (n, h, w) float32 for each of these, of the first n probe images: raw signed
            relevance, that which is at a position before the block and no longer behind it.
        why: Why there are none, in words; empty if there are.
    """

    step: int
    names: list[str]
    maps: Mapping[str, list[np.ndarray]] = field(repr=False, default_factory=dict)
    why: str = ""


def encode_blocks(found: BlockMaps) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the arrays of a record, of as many of the first images as 64 KB hold, at least one.

    Raises:
        ValueError: There is not one array for each name.
    """
    for method, rows in found.maps.items():
        if len(rows) != len(found.names):
            raise ValueError(f"{method}: expected maps of {len(found.names)} blocks, got {len(rows)}")
    first: Sequence[np.ndarray] = next(iter(found.maps.values()), [])
    each = len(found.maps) * sum(math.prod(maps.shape[1:]) + 8 for maps in first)
    count = max(1, min(len(first[0]), MOST_BYTES // each)) if each else 0
    head = {
        "kind": "blocks",
        "step": int(found.step),
        "names": list(found.names),
        "methods": list(found.maps),
        "images": count,
        "shapes": [list(maps.shape[1:]) for maps in first],
        **({"why": found.why[:_LONGEST]} if found.why else {}),
    }
    arrays = [array.tobytes() for rows in found.maps.values() for maps in rows for array in quantize(maps[:count])]
    return head, b"".join(arrays)


def check_blocks(head: dict[str, Any], num_images: int, num_bytes: int, what: str) -> int:
    """Check the JSON of a record, and return its step.

    Args:
        head: The JSON.
        num_images: How many probe images there are.
        num_bytes: What follows it.
        what: What messages call the record.

    Raises:
        RecordError: A value is missing, of another type, or declares more than there is.
    """
    step, _, _ = read_place({**head, "epoch": 0, "time": 0}, what)
    names, methods, count, shapes = (head.get(key) for key in ("names", "methods", "images", "shapes"))
    for key, texts, most in (("names", names, _MOST_ROWS), ("methods", methods, _MOST_METHODS)):
        if not isinstance(texts, list) or len(texts) > most or not all(isinstance(text, str) for text in texts):
            raise RecordError(f"{what}: {key}: expected at most {most} texts")
    assert isinstance(names, list) and isinstance(methods, list)  # just checked
    if type(count) is not int or not 0 <= count <= num_images:
        raise RecordError(f"{what}: images: expected a number of at most {num_images}")
    if not isinstance(shapes, list) or not all(map(_is_grid, shapes)) or len(shapes) != len(names):
        raise RecordError(f"{what}: shapes: expected rows and columns for each of {len(names)} names")
    if num_bytes < len(methods) * count * sum(rows * columns + 8 for rows, columns in shapes):
        raise RecordError(f"{what}: the maps of blocks are longer than the record")
    if not isinstance(head.get("why", ""), str):
        raise RecordError(f"{what}: why: expected text")
    return step


def decode_blocks(head: dict[str, Any], arrays: bytes, num_images: int, what: str) -> BlockMaps:
    """Return what a record says.

    Raises:
        RecordError: As `check_blocks` does.
    """
    step, at = check_blocks(head, num_images, len(arrays), what), 0
    maps: dict[str, list[np.ndarray]] = {}
    for method in head["methods"]:
        for rows, columns in head["shapes"]:
            cells = head["images"] * rows * columns
            codes = np.frombuffer(arrays, np.int8, cells, at).reshape(-1, rows, columns)
            scales = np.frombuffer(arrays, "<f4", 2 * head["images"], at + cells).reshape(-1, 2)
            maps.setdefault(_text(method), []).append(dequantize(codes, scales))
            at += cells + 8 * head["images"]
    return BlockMaps(step, [_text(name) for name in head["names"]], maps, _text(head.get("why", "")))


def _is_grid(shape: Any) -> bool:
    is_pair = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    return is_pair and math.prod(shape) <= _MOST_CELLS


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters
