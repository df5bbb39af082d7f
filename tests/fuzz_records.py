"""Damaged and made-up records against the reader and the resuming writer.

Whatever lies in a directory: reading answers or raises a RecordError, with memory in proportion to the file, and a
training that resumes there writes its look and cuts no whole record away.

    python -m tests.fuzz_records 600
"""

import json
import logging
import random
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cam.timeline import TimelineWriter, find_timelines, read_timeline
from lightning_cam.timeline.blocks import BlockMaps
from lightning_cam.timeline.format import (
    FILE_HEADER,
    MAGIC,
    SUFFIX,
    VERSION,
    RecordError,
    encode_record,
    find_records,
)
from lightning_cam.timeline.planes import Planes
from lightning_cam.timeline.report import write_report

COUNT = 2
IMAGES = np.random.default_rng(0).integers(0, 255, (COUNT, 3, 16, 16), np.uint8)
PROBE = {
    "kind": "probe",
    "name": "cam",
    "labels": [0, 1],
    "class_names": ["a", "b"],
    "size": [8, 8],
    "hashes": ["0", "1"],
    "bytes": [4, 4],
    "region_bytes": [],
}
PLANES = {"planes": {"kind": "slice", "count": 8, "numbers": [1, 3, 6]}}
LOOK = {"kind": "look", "step": 1, "epoch": 0, "time": 1.0, "methods": {"m": [2, 2]}, "top": 1, "metrics": {"x": 1.0}}
METRICS = {"kind": "metrics", "step": 1, "metrics": {"x": 2}}
BLOCKS = {"kind": "blocks", "step": 1, "names": ["a"], "methods": ["m"], "images": 2, "shapes": [[2, 2]]}
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**63,
    10**400,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "probe",
    "look",
    "\ud800",
    [],
    [1, 1],
    [10**6, 10**6],
    ["x"] * 3,
    {},
    {"m": [1, 1]},
    {"m": [2, 2], "n": [3]},
    {"m": [3, 2, 2]},
    {"x": "y"},
    [[[]]],
]


def planar_record(folder: Path) -> bytes:
    rng = np.random.default_rng(1)
    writer = TimelineWriter(folder)
    path = writer.probe(np.stack([IMAGES] * 3, 1), planes=Planes("slice", 8, (1, 3, 6)))
    for step in range(5):
        maps = {"m": rng.normal(size=(COUNT, 3, 3, 3)), "n": rng.normal(size=(COUNT, 2, 2, 2))}
        writer.append(step, 0, maps, evidence={"m": np.full((COUNT, 3), 0.3), "n": np.full((COUNT, 2), 0.5)})
    writer.close()
    return path.read_bytes()


def good_record(folder: Path) -> bytes:
    rng = np.random.default_rng(0)
    writer = TimelineWriter(folder)
    path = writer.probe(IMAGES, labels=[0, 1], class_names=["a", "b"], regions=rng.random((COUNT, 16, 16)) > 0.5)
    for step in range(5):
        maps = {"m": rng.normal(size=(COUNT, 3, 3)), "n": rng.normal(size=(COUNT, 2, 2))}
        writer.append(step, 0, maps, probabilities=rng.dirichlet(np.ones(4), COUNT), class_idx=[1, 0])
        writer.add_metrics(step, {"y": 1.0})
        blocks = [rng.normal(size=(COUNT, 2, 2)), rng.normal(size=(COUNT, 1, 2))]
        writer.add_blocks(BlockMaps(step, ["a", "head"], {"m": blocks}))
    writer.close()
    return path.read_bytes()


def damaged(rng: random.Random, good: bytes) -> bytes:
    """Bytes that were flipped, lost, repeated or left zero."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 64)
        match rng.choice(["bit", "byte", "cut", "drop", "repeat", "zero"]):
            case "bit" if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case "byte" if at < len(data):
                data[at] = rng.randrange(256)
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length]
            case "zero":
                data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


def other_contents(rng: random.Random, good: bytes) -> bytes:
    """Whole records whose JSON says something else."""
    data = FILE_HEADER.pack(MAGIC, VERSION, b"12345678")
    for n in range(rng.randint(1, 5)):
        probe = PROBE | rng.choice([{}, PLANES])
        head: Any = dict(probe if n == 0 else rng.choice([LOOK, LOOK, METRICS, BLOCKS]))
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            key = rng.choice([*head, "class_idx"])
            if rng.random() < 0.3:
                head.pop(key, None)
            else:
                head[key] = rng.choice(VALUES)
        if rng.random() < 0.05:
            head = rng.choice(VALUES)
        text = json.dumps(head).encode()
        arrays = rng.randbytes(rng.choice([0, 13, 46, 200, 200]))
        payload = struct.pack("<I", len(text)) + text + arrays
        data += struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    return data


def other_lengths(rng: random.Random, good: bytes) -> bytes:
    """Right checksums over payloads whose text is of any length."""
    data = FILE_HEADER.pack(MAGIC, rng.choice([0, 1, 1, 1, 2, 2**32 - 1]), b"12345678")
    for _ in range(rng.randint(0, 4)):
        payload = struct.pack("<I", rng.choice([0, 4, 2**32 - 1, rng.randrange(60)])) + rng.randbytes(rng.randrange(60))
        payload = payload[: rng.choice([0, 2, 4, 100])]
        data += struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    return data + rng.choice([b"", encode_record(PROBE, bytes(8))])


def whole_records(path: Path) -> set[bytes]:
    try:
        with path.open("rb") as file:
            return {payload for _, payload in find_records(file, path)}
    except RecordError:
        return set()


def fuzz(folder: Path, seed: int, *, cases: int | None = None, seconds: float = 0) -> Counter[tuple[str, str]]:
    """Try so many cases, or for so long; return how often what came of which kind."""
    rng, tally = random.Random(seed), Counter[tuple[str, str]]()
    whole, run = [good_record(folder / "good"), planar_record(folder / "planar")], folder / "run"
    run.mkdir()
    end = time.monotonic() + seconds
    while sum(tally.values()) < cases if cases is not None else time.monotonic() < end:
        kind = rng.choice([damaged, damaged, other_contents, other_lengths])
        data = kind(rng, rng.choice(whole))
        for path in run.iterdir():
            path.unlink()
        path = run / f"cam{SUFFIX}"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            timeline = read_timeline(path)
            assert all(len(maps) == len(timeline.steps) for maps in timeline.maps.values())
            assert all(len(values) == len(timeline.steps) for values in timeline.metrics.values())
            assert all(len(shares) == len(timeline.steps) for shares in timeline.evidence.values())
            assert (np.diff(timeline.steps) > 0).all()
            outcome = "read"
            with suppress(RecordError):  # the images may be damaged all the same
                _ = timeline.predictions, timeline.regions, timeline.images
        except RecordError:
            outcome = "refused"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * len(data) + 2**20, (peak, len(data))
        if outcome == "read" and rng.random() < 0.1 and len(timeline.steps):
            write_report(path)
        before = whole_records(path)
        writer = TimelineWriter(run)
        resumed = writer.probe(IMAGES)
        writer.append(10**6, 0, {"m": np.ones((COUNT, 3, 3))})
        writer.close()
        with resumed.open("rb") as file:
            last = [payload for _, payload in find_records(file, resumed)][-1]
        assert b'"step":1000000' in last
        assert before <= whole_records(path)
        assert len(find_timelines(run)) <= 2
        tally[kind.__name__, outcome] += 1
    return tally


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as place:
        for (kind, outcome), number in sorted(fuzz(Path(place), int(time.time()), seconds=float(sys.argv[1])).items()):
            print(f"{number:8,} {kind}: {outcome}")
