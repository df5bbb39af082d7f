"""Records that are damaged, foreign or made to do harm: one documented exception, bounded memory, nothing cut away."""

import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_cam.timeline import TimelineWriter, find_timelines, read_timeline
from lightning_cam.timeline.format import FILE_HEADER, MAGIC, VERSION, RecordError, encode_record
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from tests.fuzz_records import fuzz
from tests.test_timeline import pictures, write_steps

PROBE = {
    "kind": "probe",
    "name": "cam",
    "labels": [0],
    "class_names": ["a"],
    "size": [8, 8],
    "hashes": ["0"],
    "bytes": [0],
    "region_bytes": [],
}


def look(step, methods=None, top=0, **changes):
    return {
        "kind": "look",
        "step": step,
        "epoch": 0,
        "time": 1.0,
        "methods": methods or {},
        "top": top,
        "metrics": {},
        **changes,
    }


def write(folder, *records):
    path = folder / "cam.lcam"
    header = FILE_HEADER.pack(MAGIC, VERSION, b"12345678")
    path.write_bytes(header + b"".join(encode_record(head, body) for head, body in records))
    return path


def record_starts(data):
    at, starts = FILE_HEADER.size, []
    while at < len(data):
        starts.append(at)
        at += 8 + struct.unpack_from("<I", data, at)[0]
    return starts


@pytest.mark.parametrize("byte", [0, 2, 5, 30, 120], ids=["length", "high length", "checksum", "JSON", "arrays"])
def test_a_damaged_look_is_passed_over_and_kept_by_a_resumed_writer(tmp_path, byte, caplog):
    path = write_steps(tmp_path, [10, 20, 30, 40])
    data = bytearray(path.read_bytes())
    data[record_starts(data)[2] + byte] ^= 1
    path.write_bytes(data)
    assert read_timeline(path).steps.tolist() == [10, 30, 40]
    assert "damaged in 1 place" in caplog.text
    assert write_steps(tmp_path, [50]) == path
    assert path.read_bytes()[: len(data)] == bytes(data)
    assert read_timeline(path).steps.tolist() == [10, 30, 40, 50]


def test_no_flipped_bit_takes_more_than_the_record_it_is_in(tmp_path):
    good = write_steps(tmp_path / "good", range(6)).read_bytes()
    rng = np.random.default_rng(0)
    starts = [*record_starts(good), len(good)]
    for at in rng.integers(0, len(good), 150).tolist():
        folder = tmp_path / str(at)
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        data = bytearray(good)
        data[at] ^= 1 << int(rng.integers(0, 8))
        (folder / "cam.lcam").write_bytes(data)
        resumed = write_steps(folder, [6])
        steps = read_timeline(resumed).steps.tolist()
        if resumed.name == "cam.lcam":
            hit = int(np.searchsorted(starts, at, "right")) - 2  # which look
            assert steps == [step for step in range(7) if step != hit or at < FILE_HEADER.size]
        else:  # no record any more, or its probe images are damaged: the file is as it was
            assert at < starts[1] and steps == [6]
            assert (folder / "cam.lcam").read_bytes() == bytes(data)


def test_a_damaged_probe_record_is_kept_and_a_new_file_begun_which_is_said(tmp_path, caplog):
    path = write_steps(tmp_path, [10, 20])
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"probe images.*damaged"):
        read_timeline(path)
    new = write_steps(tmp_path, [30])
    assert new.name == "cam.2.lcam" and path.read_bytes() == bytes(data)
    (message,) = caplog.messages
    assert f"the probe images of {path} are damaged; the looks are recorded in {new} instead" in message


@pytest.mark.parametrize("content", [b"", b"LCAM", b"LCAM\1\0\0\0"])
def test_a_file_that_was_just_begun_is_started_anew(tmp_path, content):
    (tmp_path / "cam.lcam").write_bytes(content)
    assert write_steps(tmp_path, [1]).name == "cam.lcam"


@pytest.mark.parametrize("content", [b"mine", b"something else altogether"])
def test_a_file_of_something_else_is_never_written_to(tmp_path, content, caplog):
    (tmp_path / "cam.lcam").write_bytes(content)
    (tmp_path / "cam.2.lcam").mkdir()
    assert write_steps(tmp_path, [1]).name == "cam.3.lcam"
    assert (tmp_path / "cam.lcam").read_bytes() == content
    assert len(caplog.messages) == 1 and "is not a CAM timeline" in caplog.messages[0]


def test_one_foreign_file_does_not_end_the_report_of_all_runs(tmp_path, caplog):
    for run in "abc":
        write_steps(tmp_path / run, [1])
    (tmp_path / "a" / "x.lcam").write_bytes(b"something else altogether")
    (tmp_path / "b" / "x.lcam").write_bytes(FILE_HEADER.pack(MAGIC, 99, b"12345678") + bytes(40))
    (tmp_path / "c" / "x.lcam").mkdir()
    write(tmp_path, (PROBE, b""), (look(1, top=-1), b""))
    (tmp_path / "zero.lcam").symlink_to("/dev/zero")
    text = write_report(tmp_path).read_text()
    assert text.count("<script type=") - 2 == 3
    (message,) = caplog.messages
    assert all(f"{tmp_path / name}" in message for name in ("a/x.lcam", "b/x.lcam", "cam.lcam"))
    assert "version 99" in message and "not a CAM timeline" in message


def test_the_report_of_one_file_that_cannot_be_read_says_why(tmp_path):
    path = write(tmp_path, ({"kind": "probe"}, b""))
    with pytest.raises(RecordError, match="labels: expected integers"):
        write_report(path)


def planes(**changed):
    return {"planes": {"kind": "slice", "count": 8, "numbers": [1, 3], **changed}}


CONTENTS = {
    "labels": (PROBE | {"labels": [0.5]}, b"", None, b"", "labels: expected integers"),
    "bytes": (PROBE | {"bytes": [-1]}, b"", None, b"", "bytes: expected integers of at least 0"),
    "longer": (PROBE | {"bytes": [9]}, b"12345678", None, b"", "images are longer than the record"),
    "hashes": (PROBE | {"hashes": []}, b"", None, b"", "hashes: expected one per image"),
    "name": (PROBE | {"name": None}, b"", None, b"", "name: expected text"),
    "names": (PROBE | {"class_names": [1]}, b"", None, b"", "class_names: expected text"),
    "size": (PROBE | {"size": [1]}, b"", None, b"", "size: expected height and width"),
    "step": (PROBE, b"", look("1"), b"", "step, epoch: expected integers"),
    "large step": (PROBE, b"", look(2**63), b"", "step, epoch: expected integers"),
    "time": (PROBE, b"", look(1, time=None), b"", "time: expected a finite number"),
    "grid": (PROBE, b"", look(1, {"m": [2, -2]}), b"", "methods: m: expected integers of at least 1"),
    "colors": (
        PROBE,
        b"",
        look(1, {"m": [3, 2, 2]}),
        bytes(20),
        r"methods: m: expected rows and columns, got \[3, 2, 2\]",
    ),
    "colors of two": (PROBE, b"", look(1, {"m": [2, 2, 2]}) | {"colors": ["m"]}, b"", "methods: m: expected rows and"),
    "colors of none": (PROBE, b"", look(1, {"m": [2, 2]}) | {"colors": ["m"]}, b"", "methods: m: expected rows and"),
    "names of colors": (PROBE, b"", look(1) | {"colors": "m"}, b"", "colors: expected text"),
    "planes": (PROBE | planes(kind="slab"), b"", None, b"", "planes: expected kind, count and rising numbers"),
    "planes that fall": (PROBE | planes(numbers=[2, 1]), b"", None, b"", "planes: expected kind, count and rising"),
    "planes beyond": (PROBE | planes(numbers=[1, 9]), b"", None, b"", "planes: expected kind, count and rising"),
    "no planes": (PROBE | planes(numbers=[]), b"", None, b"", "planes: expected kind, count and rising numbers"),
    "many planes": (PROBE | planes(count=2**40), b"", None, b"", "planes: expected kind, count and rising numbers"),
    "planes of three": (PROBE | planes(), b"", look(1, {"m": [2, 2, 2, 2]}), b"", "methods: m: expected rows and"),
    "maps of planes": (PROBE | planes(), b"", look(1, {"m": [3, 2, 2]}), bytes(25), "take 26 bytes, but there are 25"),
    "methods": (PROBE, b"", look(1) | {"methods": [1]}, b"", "methods: expected values by name"),
    "arrays": (PROBE, b"", look(1, {"m": [2, 2]}), bytes(11), "take 12 bytes, but there are 11"),
    "top": (PROBE, b"", look(1, top=10**9), b"", "arrays of the look take"),
    "metric": (PROBE, b"", look(1, metrics={"x": "1"}), b"", "x: expected a finite number"),
    "metrics": (PROBE, b"", look(1, metrics=3), b"", "metrics: expected values by name"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_whole_records_that_say_what_cannot_be_are_refused_by_name(tmp_path, name):
    probe, images, head, arrays, message = CONTENTS[name]
    path = write(tmp_path, (probe, images), *([(head, arrays)] if head else []))
    with pytest.raises(RecordError, match=message):
        read_timeline(path)


def test_records_of_a_kind_to_come_are_passed_over(tmp_path):
    path = write(tmp_path, (PROBE, b""), ({"kind": "note", "text": "x"}, b""), (look(1), b""))
    assert read_timeline(path).steps.tolist() == [1]


def payload(data):
    return FILE_HEADER.pack(MAGIC, VERSION, b"12345678") + struct.pack("<II", len(data), zlib.crc32(data)) + data


def hostile(name):
    header, probe = FILE_HEADER.pack(MAGIC, VERSION, b"12345678"), encode_record(PROBE, b"")
    looks = b"".join(encode_record(look(step), b"") for step in range(1, 20_000))
    if name == "one large map":
        return header + probe + encode_record(look(0, {"m": [1000, 1000]}), bytes(10**6 + 8)) + looks
    if name == "one look of many classes":
        return header + probe + encode_record(look(0, top=10**5), bytes(6 * 10**5 + 2)) + looks
    if name == "many images":
        many = {"labels": [0] * 10**5, "hashes": [""] * 10**5, "bytes": [0] * 10**5}
        return header + encode_record(PROBE | many, b"") + looks
    if name == "a metric of its own for each look":
        return header + probe + b"".join(encode_record(look(s, metrics={f"{s}": 1}), b"") for s in range(20_000))
    if name == "4 GiB declared":
        return header + struct.pack("<II", 2**32 - 1, 0) + b"x"
    if name == "deep JSON":
        return payload(struct.pack("<I", 200_000) + b"[" * 200_000)
    if name == "records that are none":  # each would have the rest of the file checked
        return header + probe + (struct.pack("<III", 300_000, 0, 9) + b'{"kind":') * 30_000
    return header + probe + bytes(2**22)


@pytest.mark.parametrize(
    "name",
    [
        "one large map",
        "one look of many classes",
        "many images",
        "a metric of its own for each look",
        "4 GiB declared",
        "deep JSON",
        "records that are none",
        "zeros",
    ],
)
def test_small_files_take_little_memory_and_time(tmp_path, name):
    path = tmp_path / "cam.lcam"
    path.write_bytes(hostile(name))
    started = time.process_time()
    tracemalloc.start()
    try:
        timeline = read_timeline(path)
        for method in timeline.maps:
            timeline.maps[method]
    except RecordError:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + 64 * 2**20
    assert time.process_time() - started < 20  # tracing takes most of it
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        write_steps(tmp_path, [1])  # a training goes on, whatever lies there


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_of_too_many_pixels_are_refused(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "x.png")
    png = (tmp_path / "x.png").read_bytes()
    arrays = np.array([127], np.int8).tobytes() + np.ones((1, 2), "<f4").tobytes()
    path = write(tmp_path, (PROBE | {"bytes": [len(png)]}, png), (look(0, {"m": [1, 1]}), arrays))
    with pytest.raises(RecordError, match="12000×12000 pixels are too large"):
        read_timeline(path).images  # noqa: B018
    with pytest.raises(RecordError, match="too large"):
        write_timelapse(path)
    path = write(tmp_path, (PROBE | {"bytes": [4]}, b"oops"), (look(0, {"m": [1, 1]}), arrays))
    with pytest.raises(RecordError, match="probe image is damaged"):
        read_timeline(path).images  # noqa: B018


def test_a_map_of_another_grid_is_left_out_and_said(tmp_path, caplog):
    """As when another model resumes the run."""
    writer = TimelineWriter(tmp_path)
    writer.probe(pictures(2))
    writer.append(1, 0, {"m": np.ones((2, 2, 2))})
    writer.append(2, 0, {"m": np.ones((2, 3, 3))})
    writer.close()
    maps = read_timeline(tmp_path).maps["m"]
    assert maps.shape == (2, 2, 3, 3) and np.isnan(maps[0]).all() and (maps[1] == 1).all()
    assert "m has a different grid at 1 look" in caplog.text


NAMES = [
    "../x",
    "/etc/x",
    "",
    "a" * 300,
    "é" * 200,
    "tab\tline\nnull\0bell\a",
    "con",
    "LPT1.txt",
    "..",
    "a/b\\c:d*?<>|",
    " ",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_a_path(tmp_path, name):
    folder = tmp_path / "run"
    path = write_steps(folder, [1], name=name)
    assert path.parent == folder and list(tmp_path.iterdir()) == [folder]
    stem = path.name.removesuffix(".lcam")
    assert 0 < len(path.name.encode()) <= 120
    assert not set(stem) & set('/\\:*?"<>| \t\n\0\a') and stem.split(".")[0].lower() not in ("con", "lpt1")
    assert read_timeline(path).name == name
    assert write_steps(folder, [2], name=name) == path  # and goes on with it


def test_two_names_of_one_file_name_get_a_file_each(tmp_path):
    assert write_steps(tmp_path, [1], name="a/b") != write_steps(tmp_path, [1], name="a:b")
    assert [read_timeline(path).name for path in find_timelines(tmp_path)] == ["a:b", "a/b"]


def test_pipes_are_not_waited_for(tmp_path):
    code = (
        "import os, sys; from tests.test_timeline import write_steps; from pathlib import Path; "
        "os.mkfifo(sys.argv[1] + '/cam.lcam'); print(write_steps(Path(sys.argv[1]), [1]).name)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "cam.2.lcam\n", done.stderr
    assert [path.name for path in find_timelines(tmp_path)] == ["cam.2.lcam"]


def test_whatever_lies_there_is_read_or_refused_and_a_training_resumes(tmp_path):
    tally = fuzz(tmp_path, seed=0, cases=600)
    for kind in ("damaged", "other_contents", "other_lengths"):
        assert tally[kind, "refused"] > 20
    assert tally["damaged", "read"] > 20 and tally["other_contents", "read"] > 20
