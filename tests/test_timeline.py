"""The record of maps: nothing that matters is lost, a killed writer leaves a readable file, it stays small."""

import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lightning_cam.timeline import TimelineWriter, find_timelines, read_timeline
from lightning_cam.timeline.format import FILE_HEADER, dequantize, quantize

RNG = np.random.default_rng(0)


def pictures(count=16, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 3, size, size), np.uint8)


def random_maps(count=16, grid=14):
    return RNG.normal(size=(count, grid, grid)).astype(np.float32)


def probabilities_of(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def write_steps(folder, steps, name="cam", images=None, value=None):
    images = pictures(4) if images is None else images
    with_labels = np.arange(len(images)) % 3
    writer = TimelineWriter(folder, name)
    path = writer.probe(images, labels=with_labels, class_names=["a", "b", "c"])
    for step in steps:
        maps = np.full((len(images), 4, 4), step if value is None else value, np.float32)
        writer.append(step, step // 10, {"hirescam": maps}, metrics={"loss": 1 / (1 + step)})
    writer.close()
    return path


def test_maximum_minimum_zero_and_every_sign_are_kept():
    maps = RNG.normal(size=(8, 14, 14)).astype(np.float32) * np.logspace(-20, 6, 8, dtype=np.float32)[:, None, None]
    maps[:, 0, :5] = 0
    maps[:, 1, 0] = 1e-30  # far below 1/127 of the maximum
    back = dequantize(*quantize(maps))
    np.testing.assert_array_equal(np.sign(back), np.sign(maps))
    np.testing.assert_array_equal(back.max((1, 2)), maps.max((1, 2)))
    np.testing.assert_array_equal(back.min((1, 2)), maps.min((1, 2)))
    largest = np.abs(maps).max((1, 2), keepdims=True)
    assert (np.abs(back - maps) / largest).max() < 1 / 127


def test_one_sided_maps_and_empty_maps():
    maps = np.stack([np.full((3, 3), 2.5), np.full((3, 3), -0.5), np.zeros((3, 3))]).astype(np.float32)
    np.testing.assert_array_equal(dequantize(*quantize(maps)), maps)


def test_map_with_nan_or_infinity_reads_back_as_nan_and_harms_no_other():
    maps = np.ones((3, 2, 2), np.float32)
    maps[0, 0, 0], maps[1, 1, 1] = np.nan, np.inf
    back = dequantize(*quantize(maps))
    assert np.isnan(back[:2]).all()
    np.testing.assert_array_equal(back[2], 1)


def test_everything_comes_back(tmp_path):
    images, labels = pictures(), np.arange(16) % 5
    labels[3] = -1
    logits, explained = RNG.normal(size=(16, 10)), RNG.integers(0, 10, 16)
    maps = {"hirescam": random_maps(), "gradcam": random_maps(grid=7)}
    writer = TimelineWriter(tmp_path, name="cam")
    regions = RNG.random((16, 32, 32)) > 0.5
    writer.probe(images, labels=labels, class_names=[f"c{i}" for i in range(10)], regions=regions)
    share = probabilities_of(logits)
    writer.append(7, 1, maps, probabilities=share, class_idx=explained, metrics={"x": 0.5, "y": float("nan")})
    writer.append(9, 2, {"hirescam": maps["hirescam"]}, probabilities=share, metrics={"x": 0.25})
    timeline = read_timeline(tmp_path)  # the writer is still open: the run goes on

    assert timeline.steps.tolist() == [7, 9] and timeline.epochs.tolist() == [1, 2]
    assert timeline.name == "cam" and timeline.class_names[2] == "c2"
    np.testing.assert_array_equal(timeline.regions, regions)
    np.testing.assert_array_equal(timeline.labels, labels)
    for method, given in maps.items():
        np.testing.assert_allclose(timeline.maps[method][0], given, atol=np.abs(given).max() / 127)
    assert np.isnan(timeline.maps["gradcam"][1]).all()
    order = np.argsort(-share, 1)[:, :3]
    np.testing.assert_array_equal(timeline.top_classes[0], order)
    np.testing.assert_array_equal(timeline.predictions[1], share.argmax(1))
    np.testing.assert_allclose(timeline.top_probabilities[0], np.take_along_axis(share, order, 1), atol=1e-5)
    known = labels >= 0
    np.testing.assert_allclose(timeline.label_probability[0, known], share[np.arange(16), labels][known], atol=1e-5)
    assert np.isnan(timeline.label_probability[0, ~known]).all()
    np.testing.assert_array_equal(timeline.class_idx, [explained, share.argmax(1)])
    np.testing.assert_array_equal(timeline.metrics["x"], [0.5, 0.25])
    assert np.isnan(timeline.metrics["y"]).all()


def test_what_is_true_in_words_and_predicted_values_come_back(tmp_path):
    writer, maps = TimelineWriter(tmp_path), {"hirescam": random_maps()[:2]}
    writer.probe(pictures(2), texts=["3.5", "cat, dög"])
    values = np.array([3.25, -1e-6], np.float32)
    writer.append(0, 0, maps)
    writer.append(1, 0, maps, class_idx=[1, 0], values=values)
    writer.append(2, 0, maps, values=-values)
    timeline = read_timeline(tmp_path)
    assert timeline.texts == ["3.5", "cat, dög"]
    np.testing.assert_array_equal(timeline.values, [[np.nan, np.nan], values, -values])
    np.testing.assert_array_equal(timeline.class_idx, [[-1, -1], [1, 0], [-1, -1]])


def test_metrics_known_later_join_the_look_of_their_step(tmp_path):
    writer = TimelineWriter(tmp_path)
    writer.probe(pictures(2))
    for step in (1, 2):
        writer.append(step, 0, {"m": np.ones((2, 2, 2))}, metrics={"early": step})
        writer.add_metrics(step, {"val_acc": step / 4, "val_loss": float("inf")})
    writer.add_metrics(99, {"val_acc": 1.0})  # of a step without a look
    timeline = read_timeline(tmp_path)
    np.testing.assert_array_equal(timeline.metrics["early"], [1, 2])
    np.testing.assert_array_equal(timeline.metrics["val_acc"], [0.25, 0.5])
    assert np.isnan(timeline.metrics["val_loss"]).all()


def test_images_come_back_as_a_person_sees_them_and_large_ones_smaller(tmp_path):
    ramp = np.linspace(0, 255, 900, dtype=np.uint8)
    picture = np.broadcast_to(ramp, (1, 3, 600, 900)).copy()
    picture[:, 1:] = 0  # red, brighter to the right
    TimelineWriter(tmp_path).probe(picture)
    images = read_timeline(tmp_path).images
    assert images.shape == (1, 299, 448, 3)
    expected = np.linspace(0, 255, 448)
    assert np.abs(images[0, :, :, 0].mean(0) - expected).max() < 12
    assert images[0, :, :, 1:].mean() < 12


def test_a_look_of_16_maps_on_14x14_takes_at_most_4_kb(tmp_path):
    writer = TimelineWriter(tmp_path)
    path = writer.probe(pictures(), labels=np.arange(16))
    before = path.stat().st_size
    metrics = {f"cam/hirescam/{tag}": RNG.normal() for tag in ("inside", "pointing", "entropy", "drift")}
    share = probabilities_of(RNG.normal(size=(16, 1000)))
    writer.append(123456, 100, {"hirescam": random_maps()}, probabilities=share, metrics=metrics)
    assert path.stat().st_size - before <= 4000


def test_torn_tail_is_ignored_by_the_reader_and_cut_off_by_the_next_writer(tmp_path):
    path = write_steps(tmp_path, [10, 20, 30])
    whole = path.read_bytes()
    for cut in (1, 7, 100):
        path.write_bytes(whole[:-cut])
        assert read_timeline(path).steps.tolist() == [10, 20]
    write_steps(tmp_path, [40])
    assert read_timeline(path).steps.tolist() == [10, 20, 40]
    assert len(find_timelines(tmp_path)) == 1


def test_a_flipped_byte_ends_the_record_there(tmp_path):
    path = write_steps(tmp_path, [10, 20, 30])
    data = bytearray(path.read_bytes())
    data[-5] ^= 0xFF
    path.write_bytes(data)
    assert read_timeline(path).steps.tolist() == [10, 20]


def test_readable_after_kill_9(tmp_path):
    code = f"""
        import os, signal, numpy as np
        from lightning_cam.timeline import TimelineWriter
        writer = TimelineWriter({str(tmp_path)!r})
        writer.probe(np.zeros((2, 3, 8, 8), np.uint8))
        for step in range(50):
            writer.append(step, 0, {{"m": np.ones((2, 4, 4))}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -9
    assert read_timeline(tmp_path).steps.tolist() == list(range(50))


def test_resuming_from_a_checkpoint_replaces_the_looks_after_it(tmp_path):
    write_steps(tmp_path, [10, 20, 30])
    write_steps(tmp_path, [20, 40], value=-1)
    timeline = read_timeline(tmp_path)
    assert timeline.steps.tolist() == [10, 20, 40]
    assert timeline.maps["hirescam"][:, 0, 0, 0].tolist() == [10, -1, -1]


def test_other_images_under_the_same_name_get_their_own_file(tmp_path):
    first = write_steps(tmp_path, [10])
    second = write_steps(tmp_path, [20], images=pictures(4, seed=1))
    again = write_steps(tmp_path, [30], images=pictures(4, seed=1))
    assert first != second == again
    assert read_timeline(first).steps.tolist() == [10]
    assert read_timeline(second).steps.tolist() == [20, 30]


def test_several_records_are_listed_and_hostile_names_make_plain_files(tmp_path):
    write_steps(tmp_path / "a", [1], name="../<b>/x")
    write_steps(tmp_path / "b", [1])
    found = find_timelines(tmp_path)
    assert [path.parent for path in found] == [tmp_path / "a", tmp_path / "b"]
    assert read_timeline(found[0]).name == "../<b>/x"
    with pytest.raises(ValueError, match=r"2 CAM timelines .*pass one"):
        read_timeline(tmp_path)
    with pytest.raises(FileNotFoundError, match="no CAM timeline"):
        read_timeline(tmp_path / "c")


def test_newer_version_is_named_and_never_written_to(tmp_path):
    path = write_steps(tmp_path, [10])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 99)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"version 99 .* up to version 2: upgrade"):
        read_timeline(path)
    assert write_steps(tmp_path, [20]) != path
    assert path.read_bytes() == bytes(data)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.lcam").write_bytes(b"something else altogether")
    with pytest.raises(ValueError, match="not a CAM timeline"):
        read_timeline(tmp_path)
    (tmp_path / "x.lcam").write_bytes(b"LCAM"[: FILE_HEADER.size])
    with pytest.raises(ValueError, match="no probe images yet"):
        read_timeline(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.probe(pictures(2).transpose(0, 2, 3, 1)), r"\(B, 3, H, W\) uint8"),
        (lambda w: w.probe(pictures(2), labels=[1]), "labels must be one per image: got 1 for 2"),
        (lambda w: w.append(1, 0, {"m": np.zeros((3, 2, 2))}), "m must be one per probe image: got 3 for 4"),
        (lambda w: w.append(1, 0, {}, probabilities=np.zeros((1, 5))), "probabilities must be one per"),
        (lambda w: w.probe(pictures(2), texts=["a"]), "texts must be one per image: got 1 for 2"),
        (lambda w: w.append(1, 0, {}, values=np.zeros(1)), "values must be one per probe image: got 1 for 4"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, call, message):
    writer = TimelineWriter(tmp_path)
    writer.probe(pictures(4))
    with pytest.raises(ValueError, match=message):
        call(writer)


def test_writing_before_probe_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match=r"call probe\(images\) first"):
        TimelineWriter(tmp_path).append(0, 0, {})


def test_timeline_needs_no_torch():
    code = "import sys, lightning_cam.timeline; assert not {'torch', 'lightning', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_size_of_stored_images_can_be_set(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 600, 900), dtype=np.uint8)
    for side, expected in ((448, (299, 448)), (700, (467, 700)), (5000, (600, 900))):
        writer = TimelineWriter(tmp_path / str(side))
        writer.probe(images, longest_side=side)
        writer.append(0, 0, {"hirescam": np.ones((2, 3, 3))})
        assert read_timeline(writer.path).images.shape[1:3] == expected
