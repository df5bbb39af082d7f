"""What blocks read, in a record: written, read, of versions before and after."""

import json
import struct
import zlib

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_cam import TransformerCAMCallback
from lightning_cam.timeline import TimelineWriter, read_timeline
from lightning_cam.timeline.blocks import MOST_BYTES, BlockMaps, encode_blocks
from lightning_cam.timeline.format import VERSION, RecordError, encode_record
from lightning_cam.timeline.report import write_report
from tests.test_timeline import pictures
from tests.training import Lit, train

NAMES = ["stages.0", "stages.1", "head"]
SHAPES = [(4, 6), (2, 3), (2, 3)]


def block_maps(step, count=3, methods=("attnlrp", "lrp_ln"), seed=0):
    rng = np.random.default_rng(seed)
    maps = {method: [rng.normal(size=(count, *shape)).astype(np.float32) for shape in SHAPES] for method in methods}
    return BlockMaps(step, NAMES, maps)


def write(folder, steps, count=3):
    writer = TimelineWriter(folder)
    path = writer.probe(pictures(count))
    for step in steps:
        writer.append(step, 0, {"attnlrp": np.ones((count, 4, 6))})
    return writer, path


def test_what_blocks_read_comes_back(tmp_path):
    writer, path = write(tmp_path, [10, 20])
    written = [block_maps(10, seed=1), block_maps(20, seed=2)]
    for one in written:
        writer.add_blocks(one)
    timeline = read_timeline(path)
    assert [(one.step, one.names, one.why) for one in timeline.blocks] == [(10, NAMES, ""), (20, NAMES, "")]
    for one, expected in zip(timeline.blocks, written, strict=True):
        for method, rows in expected.maps.items():
            for maps, wanted in zip(one.maps[method], rows, strict=True):
                largest = np.abs(wanted).max((1, 2), keepdims=True)
                assert maps.dtype == np.float32 and (np.abs(maps - wanted) <= largest / 127).all()
                assert np.array_equal(np.sign(maps), np.sign(wanted))


def test_those_of_looks_that_a_resumed_run_repeats_are_left_out(tmp_path):
    writer, path = write(tmp_path, [10, 20])
    for step in (10, 20):
        writer.add_blocks(block_maps(step))
    writer.append(20, 0, {"attnlrp": np.ones((3, 4, 6))})
    assert [one.step for one in read_timeline(path).blocks] == [10]


def test_why_there_are_none_comes_back(tmp_path):
    writer, path = write(tmp_path, [10])
    writer.add_blocks(BlockMaps(10, [], {}, "there are none"))
    (one,) = read_timeline(path).blocks
    assert (one.names, one.maps, one.why) == ([], {}, "there are none")


def test_a_record_holds_as_many_images_as_64_kb_do():
    rows = [np.ones((64, 14, 14), np.float32)] * 13
    head, arrays = encode_blocks(BlockMaps(1, [f"blocks.{n}" for n in range(12)] + ["head"], {"attnlrp": rows}))
    assert head["images"] == 24 and MOST_BYTES - 13 * 204 < len(arrays) <= MOST_BYTES
    head, _ = encode_blocks(BlockMaps(1, ["head"], {"attnlrp": [np.ones((2, 400, 400), np.float32)]}))
    assert head["images"] == 1


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"images": 4}, "images"),
        ({"images": True}, "images"),
        ({"names": ["a"]}, "shapes"),
        ({"names": "abc"}, "names"),
        ({"shapes": [[4, 6], [2, 3], [2, 300]]}, "longer than the record"),
        ({"shapes": [[4, 6], [2, 3], [2**40, 2**40]]}, "shapes"),
        ({"shapes": [[4, 6], [2, 3], [2, 0]]}, "shapes"),
        ({"methods": [1]}, "methods"),
        ({"why": 1}, "why"),
        ({"step": "1"}, "step"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, patch, message):
    writer, path = write(tmp_path, [10])
    head, arrays = encode_blocks(block_maps(10))
    writer.close()
    with path.open("ab") as file:
        file.write(encode_record({**head, **patch}, arrays))
    with pytest.raises(RecordError, match=message):
        read_timeline(path)


def record(head, arrays=b""):
    """One record, by the description of version 1."""
    text = json.dumps(head).encode()
    payload = struct.pack("<I", len(text)) + text + arrays
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def version_1(folder, images):
    """A file as version 1 was written: two images, one look, its metrics."""
    whole = TimelineWriter(folder / "for_its_pictures")
    path = whole.probe(images)
    whole.close()
    payload = path.read_bytes()[16 + 8 :]
    (length,) = struct.unpack_from("<I", payload)
    probe, bytes_of_pictures = json.loads(payload[4 : 4 + length]), payload[4 + length :]
    codes = np.array([[[127, 0], [-127, 64]], [[0, 0], [1, 127]]], np.int8)
    scales = np.array([[2.0, 1.0], [0.5, 0.0]], "<f4")
    top = np.array([[1, 0], [0, 1]], "<i4").tobytes() + np.array([[52428, 13107], [65535, 0]], "<u2").tobytes()
    look = {"kind": "look", "step": 7, "epoch": 1, "time": 5.0, "methods": {"m": [2, 2]}, "top": 2, "metrics": {"a": 1}}
    arrays = codes.tobytes() + scales.tobytes() + top + np.array([0, 65535], "<u2").tobytes()
    old = folder / "cam.lcam"
    old.write_bytes(
        struct.pack("<4sI8s", b"LCAM", 1, b"12345678")
        + record(probe, bytes_of_pictures)
        + record(look, arrays)
        + record({"kind": "metrics", "step": 7, "metrics": {"b": 2.5}})
    )
    return old


def test_a_file_of_version_1_is_read_and_gone_on_with(tmp_path):
    images = pictures(2)
    path = version_1(tmp_path, images)
    timeline = read_timeline(path)
    assert timeline.steps.tolist() == [7] and timeline.blocks == [] and timeline.findings == []
    expected = [[[2, 0], [-1, 128 / 127]], [[0, 0], [0.5 / 127, 0.5]]]
    np.testing.assert_allclose(timeline.maps["m"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(timeline.top_probabilities[0], [[0.8, 0.2], [1, 0]], rtol=1e-6)
    assert timeline.metrics["a"].tolist() == [1] and timeline.metrics["b"].tolist() == [2.5]

    writer = TimelineWriter(tmp_path)
    assert writer.probe(images) == path
    writer.append(8, 1, {"m": np.ones((2, 2, 2))})
    writer.close()
    assert struct.unpack_from("<4sI", path.read_bytes()) == (b"LCAM", VERSION)
    assert read_timeline(path).steps.tolist() == [7, 8]


def test_a_file_of_version_3_is_refused_and_not_written_to(tmp_path):
    _, path = write(tmp_path, [10])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 3)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"version 3 of the CAM timeline format.* up to version 2: upgrade"):
        read_timeline(path)
    assert TimelineWriter(tmp_path).probe(pictures(3)) != path and path.read_bytes() == bytes(data)


def test_a_thinned_report_keeps_the_looks_with_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cam.timeline.report._MOST_LOOKS", 5)
    writer, path = write(tmp_path, range(40))
    for step in (0, 1, 3, 39):
        writer.add_blocks(block_maps(step))
    writer.close()
    page = write_report(path).read_text()
    assert "7 of 40 looks" in page  # 0, 10, 20, 29, 39, with 1 and 3


def test_a_training_keeps_what_blocks_read_at_the_looks_1_2_4_and_so_on_and_the_last(tmp_path):
    callback = TransformerCAMCallback(num_samples=4, cohort=None, timelapse=None, on_error="raise")
    train(tmp_path, callback, logger=CSVLogger(tmp_path, "run"), max_epochs=6)
    timeline = read_timeline(tmp_path)
    count = len(timeline.steps)
    kept = sorted({n for n in (0, 1, 3, 7, 15) if n < count} | {count - 1})
    assert count >= 6 and [one.step for one in timeline.blocks] == timeline.steps[kept].tolist()
    for one in timeline.blocks:
        assert one.names == ["model.blocks.0", "model.blocks.1", "head"] and list(one.maps) == ["attnlrp"]
        assert [maps.shape for maps in one.maps["attnlrp"]] == [(4, 4, 4)] * 3
        assert one.maps["attnlrp"][0].any() and not one.maps["attnlrp"][2].any()  # a class token is all that is read


def test_why_a_training_has_no_blocks_is_in_its_record(tmp_path):
    class Twice(Lit):
        def forward(self, images):
            return self.model(images) + self.model(images.flip(-1))

    callback = TransformerCAMCallback(num_samples=4, cohort=None, timelapse=None, report=False, on_error="raise")
    train(tmp_path, callback, Twice, logger=CSVLogger(tmp_path, "run"))
    assert {one.why for one in read_timeline(tmp_path).blocks} == {"the network runs several times for each image"}
