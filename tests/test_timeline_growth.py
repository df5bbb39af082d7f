"""Long records, and several writers: linear, bounded, each writer with a file of its own."""

import base64
import gzip
import re
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from lightning_cam.timeline import TimelineWriter, find_timelines, read_timeline, timelapse
from lightning_cam.timeline.arrays import MapsOf
from lightning_cam.timeline.format import encode_record
from lightning_cam.timeline.pace import Pace, TooSlow
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from tests.test_cli_explain import run
from tests.test_timeline import pictures, write_steps


def long_record(folder, looks, count=16, grid=14, start=0):
    """Noise, which cannot be compressed, and as many metrics as a training has."""
    rng = np.random.default_rng(0)
    writer = TimelineWriter(folder)
    path = writer.probe(pictures(count), labels=np.arange(count) % 10)
    scales = np.ones((count, 2), "<f4").tobytes()
    with path.open("ab") as file:  # as the writer does, which takes most of its time for rounding maps
        for step in range(start, start + looks):
            head = {
                "kind": "look",
                "step": step,
                "epoch": step,
                "time": 1.0,
                "methods": {"m": [grid, grid]},
                "top": 0,
                "metrics": {f"cam/m/tag{n}": 0.5 for n in range(8)},
            }
            file.write(encode_record(head, rng.bytes(count * grid * grid) + scales))
            file.write(encode_record({"kind": "metrics", "step": step, "metrics": {"val_acc": step / 100}}, b""))
    writer.close()
    return path


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory):
    return long_record(tmp_path_factory.mktemp("long"), 10_000)


def seconds(action):
    """Of this process, and the best of three: the machine may be busy."""
    times = []
    for _ in range(3):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def test_reading_and_resuming_ten_thousand_looks_takes_a_second(ten_thousand):
    timeline = read_timeline(ten_thousand)
    assert timeline.maps["m"].shape == (10_000, 16, 14, 14)
    np.testing.assert_array_equal(timeline.metrics["val_acc"], np.arange(10_000) / 100)
    assert seconds(lambda: read_timeline(ten_thousand).maps["m"]) < 1
    size = ten_thousand.stat().st_size
    assert seconds(lambda: TimelineWriter(ten_thousand.parent).probe(pictures(16))) < 1
    assert ten_thousand.stat().st_size == size


def test_looks_that_were_replaced_over_and_over_are_read_in_linear_time(tmp_path):
    path = long_record(tmp_path, 2000, count=1, grid=1)
    records = path.read_bytes()
    with path.open("ab") as file:
        file.write(encode_record({"kind": "metrics", "step": 5000, "metrics": {"val_acc": 1}}, b""))
    for _ in range(3):
        long_record(tmp_path, 2000, count=1, grid=1)
    assert path.stat().st_size > 3 * len(records)
    timeline = read_timeline(path)
    np.testing.assert_array_equal(timeline.steps, range(2000))
    np.testing.assert_array_equal(timeline.metrics["val_acc"], np.arange(2000) / 100)
    assert seconds(lambda: read_timeline(path)) < 1


def test_the_report_of_a_long_run_is_thinned_evenly_and_says_so(ten_thousand, tmp_path, caplog):
    report = write_report(ten_thousand, tmp_path / "report.html")
    assert report.stat().st_size < 6e6  # of 38 MB
    said = "cam.lcam: 1,000 of 10,000 looks, evenly spaced"
    assert said in report.read_text() and caplog.messages == [f"{report} does not contain all looks: {said}."]
    assert seconds(lambda: write_report(ten_thousand, report)) < 4


def embedded_timeline(report, folder):
    text = re.search(r"data-timeline=[^>]*>([^<]+)<", report.read_text())[1]
    path = folder / "embedded.lcam"
    path.write_bytes(gzip.decompress(base64.b64decode(text)))
    return read_timeline(path)


def test_what_is_left_in_a_thinned_report_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cam.timeline.report._MOST_LOOKS", 4)
    path = write_steps(tmp_path, range(0, 90, 10))
    writer = TimelineWriter(tmp_path)
    writer.probe(pictures(4))
    for step in (30, 80):
        writer.add_metrics(step, {"val_acc": step})
    writer.append(85, 0, {"hirescam": np.ones((4, 4, 4))})
    writer.close()
    data = bytearray(path.read_bytes())
    data[data.index(b'"step":40') + 200] ^= 1  # the page knows nothing of damage
    path.write_bytes(data)
    whole, thinned = read_timeline(path), embedded_timeline(write_report(path), tmp_path)
    assert whole.steps.tolist() == [0, 10, 20, 30, 50, 60, 70, 80, 85]
    kept = [0, 3, 5, 8]
    assert thinned.steps.tolist() == [0, 30, 60, 85]
    np.testing.assert_array_equal(thinned.maps["hirescam"], whole.maps["hirescam"][kept])
    for tag in whole.metrics:
        np.testing.assert_array_equal(thinned.metrics[tag], whole.metrics[tag][kept])


def test_the_report_of_many_runs_is_bounded_too(tmp_path, monkeypatch, caplog):
    for name in "abcd":
        write_steps(tmp_path / name, range(50))
    size = sum(path.stat().st_size for path in find_timelines(tmp_path))
    monkeypatch.setattr("lightning_cam.timeline.report._MOST_BYTES", size // 8)
    write_report(tmp_path)
    (message,) = caplog.messages
    assert message.count(" of 50 looks") == 4


def test_a_time_limit_leaves_out_or_thins_and_says_so_once(ten_thousand, tmp_path, caplog):
    with pytest.raises(TooSlow), Pace(0) as pace:
        write_report(ten_thousand, tmp_path / "x.html", pace=pace)
    with pytest.raises(TooSlow), Pace(0) as pace:
        write_timelapse(ten_thousand, tmp_path / "x.webp", pace=pace)
    assert list(tmp_path.iterdir()) == [] and caplog.messages == []


def test_a_timelapse_without_time_for_all_looks_has_the_first_and_the_newest(tmp_path, monkeypatch, caplog):
    path = write_steps(tmp_path, range(40))
    drawn = []

    class Hurried(Pace):
        @property
        def left(self):
            return 1000.0 if len(drawn) < 6 else 1e-9

    draw = timelapse.draw_lines
    monkeypatch.setattr(
        timelapse, "draw_lines", lambda lines, *args: drawn.append(int(lines[0].split()[1])) or draw(lines, *args)
    )
    with Hurried() as pace:
        made = write_timelapse(path, pace=pace)
    assert {0, 39} < set(drawn) and len(drawn) == 6
    assert np.diff(sorted(drawn)).max() <= 20  # evenly, as far as it came
    with Image.open(made) as picture:
        assert picture.n_frames == 6
    assert caplog.messages == [f"{made} shows 6 looks, because 40 take too long."]


def test_the_timelapse_reads_only_the_looks_that_it_draws(ten_thousand, tmp_path, monkeypatch):
    read, whole = [], MapsOf.read
    monkeypatch.setattr(MapsOf, "read", lambda self, file, looks=None: read.append(looks) or whole(self, file, looks))
    monkeypatch.setattr("lightning_cam.timeline.timelapse._FRAMES", 3)
    write_timelapse(ten_thousand, tmp_path / "x.webp")
    assert sorted(np.concatenate(read).tolist()) == [0, 5000, 9999]


def test_the_command_shows_a_bar_on_a_terminal(ten_thousand, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("lightning_cam.timeline.pace.tqdm", lambda **given: shown.append(given) or Bar())

    class Bar:
        read, closed = 0, False

        def update(self, more):
            Bar.read += more

        def close(self):
            Bar.closed = True

    assert run("report", ten_thousand, "--output", tmp_path / "x.html") == 0
    assert [own["total"] for own in shown] == [ten_thousand.stat().st_size] == [Bar.read + 16] and Bar.closed
    assert shown[0]["disable"] is None and shown[0]["delay"] > 0


WRITE = """
    import sys, time, numpy as np
    from lightning_cam.timeline import TimelineWriter
    folder, value, wait = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    writer = TimelineWriter(folder)
    print(writer.probe(np.zeros((2, 3, 8, 8), np.uint8)).name, flush=True)
    for step in range(20):
        writer.append(step, 0, {"m": np.full((2, 2, 2), value)})
        time.sleep(0.02)
    sys.stdin.readline()
"""


def start(folder, value):
    command = [sys.executable, "-c", textwrap.dedent(WRITE), str(folder), str(value), "0"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_in_one_directory_write_a_file_each_which_is_said(tmp_path):
    """A requeued job beside the old one."""
    both = [start(tmp_path, value) for value in (1, 2)]
    names = [process.stdout.readline().strip() for process in both]
    said = [process.communicate("\n", timeout=120)[1] for process in both]
    assert sorted(names) == ["cam.2.lcam", "cam.lcam"]
    for name, value, err in zip(names, (1, 2), said, strict=True):
        timeline = read_timeline(tmp_path / name)
        assert timeline.steps.tolist() == list(range(20)) and (timeline.maps["m"] == value).all()
        expected = (
            f"{tmp_path}/cam.lcam is being written by another process; "
            f"the looks are recorded in {tmp_path}/cam.2.lcam instead."
        )
        assert err.strip() == (expected if name == "cam.2.lcam" else "")
    # both have ended: the newest is continued
    assert write_steps(tmp_path, [50], images=np.zeros((2, 3, 8, 8), np.uint8)).name == "cam.2.lcam"


def test_a_killed_process_and_a_forked_child_hold_no_lock(tmp_path):
    old = start(tmp_path, 1)
    old.stdout.readline()
    old.kill()
    old.communicate()
    code = """
        import os, sys, numpy as np
        from lightning_cam.timeline import TimelineWriter
        writer = TimelineWriter(sys.argv[1])
        images = np.zeros((2, 3, 8, 8), np.uint8)
        writer.probe(images)
        reader, waits = os.pipe()
        if os.fork() == 0:  # such as a worker that loads data
            os.close(waits)
            os.read(reader, 1)
            os._exit(0)
        writer.close()
        print(writer.probe(images).name)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "cam.lcam", done.stderr


def test_a_file_system_without_locks_goes_without(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    assert write_steps(tmp_path, [1]) == write_steps(tmp_path, [2])
    assert read_timeline(tmp_path).steps.tolist() == [1, 2]
