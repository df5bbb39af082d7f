"""Records, reports and timelapses in stores that fsspec knows, with the store in memory that comes with it."""

import fsspec
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.tensorboard_plugin.plugin import CamTimelinePlugin
from lightning_cam.timeline.remote import RemoteFolder
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from lightning_cam.training.look import Look
from lightning_cam.training.run_info import RunInfo
from lightning_cam.training.sinks import TimelineSink
from tests.training import Lit, MemoryLogger, heard, loader, options, told

STORE = fsspec.filesystem("memory")
RUN = RunInfo("cam", ["m"], "", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None, None, None)


@pytest.fixture
def url():
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]
    yield "memory://logs/run"
    STORE.store.clear()


def look(step):
    return Look(step, 0, {}, {"m": torch.full((2, 2, 2), float(step + 1))}, None, None)


def sink_with(url, steps, **options):
    sink = TimelineSink(url, **options)
    sink.open(RUN)
    for step in steps:
        sink.write(look(step))
    return sink


def test_record_report_and_timelapse_are_there_at_the_end(url, tmp_path):
    sink_with(url, range(5), timelapse="webp").close()
    assert {name.rpartition("/")[2] for name in STORE.find("logs")} == {
        "cam.lcam",
        "cam_report.html",
        "cam_timelapse.webp",
    }
    for place in (url, f"{url}/cam.lcam", "memory://logs"):
        timeline = read_timeline(place)
        np.testing.assert_array_equal(timeline.steps, range(5))
        np.testing.assert_array_equal(timeline.maps["m"][:, 0, 0, 0], [1, 2, 3, 4, 5])
    report = write_report(url, tmp_path / "report.html")
    assert "memory" not in report.name and report.stat().st_size > 100_000
    assert write_timelapse(url, tmp_path / "t.webp").stat().st_size > 100


def test_a_record_can_be_read_while_it_grows_and_is_not_copied_at_each_look(url, monkeypatch):
    copies, copy = [], RemoteFolder.copy

    def noted(self, file):
        copies.append(file.stat().st_size)
        copy(self, file)

    monkeypatch.setattr(RemoteFolder, "copy", noted)
    sink = sink_with(url, range(1))
    assert len(read_timeline(url).steps) == 1
    for step in range(1, 400):
        sink.write(look(step))
    assert len(read_timeline(url).steps) > 300
    assert len(copies) < 40 and sum(copies) < 6 * copies[-1]
    sink.close()
    assert len(read_timeline(url).steps) == 400


def test_a_resumed_run_goes_on_with_the_remote_record(url):
    sink_with(url, range(3), report=False).close()
    sink_with(url, range(3, 5), report=False).close()
    np.testing.assert_array_equal(read_timeline(url).steps, range(5))
    assert len(STORE.find("logs")) == 1


def test_a_store_that_fails_loses_no_look(url, monkeypatch):
    sink = sink_with(url, range(1), report=False)

    def refuse(*args, **kwargs):
        raise OSError("the store cannot be reached")

    with heard() as said:
        monkeypatch.setattr(type(STORE), "put_file", refuse)
        for step in range(1, 50):
            sink.write(look(step))
        monkeypatch.undo()
        sink.write(look(50))
    assert ["the store cannot be reached" in message for message in said] == [True]
    sink.close()
    np.testing.assert_array_equal(read_timeline(url).steps, range(51))


def test_what_is_not_there_and_where_to_write_are_said(url, tmp_path):
    with pytest.raises(FileNotFoundError, match="memory://logs/run does not exist"):
        read_timeline(url)
    sink_with(url, range(1), report=False).close()
    for write in (write_report, write_timelapse):
        with pytest.raises(
            ValueError, match="path: expected a file to write, because memory://logs/run is not on this"
        ):
            write(url)


def test_a_training_with_a_remote_log_directory(url, tmp_path):
    class Remote(MemoryLogger):
        log_dir = url

    logger = Remote()
    trainer = Trainer(callbacks=[TransformerCAMCallback(on_error="raise")], **options(tmp_path, logger=logger))
    with told() as messages:
        trainer.fit(Lit(), loader(), loader(6))
    assert [f"in {url}/cam_report.html (" in message for _, message in messages if "report" in message] == [True]
    assert list(read_timeline(url).steps) == [0, 2, 5] and not (tmp_path / "memory:").exists()
    assert STORE.exists("logs/run/cam_report.html")


@pytest.mark.parametrize("logdir", ["memory://logs", "memory://logs/run"])
@pytest.mark.parametrize("spec", [False, True])
def test_the_page_reads_what_tensorboards_file_layer_reads(url, logdir, spec):
    sink_with(url, range(40), report=False).close()
    STORE.pipe("logs/run/key.lcam", b"a private key")
    flags = type("Flags", (), {"logdir_spec": f"mine:{logdir}"})()
    context = TBContext(flags=flags) if spec else TBContext(logdir=logdir)
    apps = {route: Client(app) for route, app in CamTimelinePlugin(context).get_plugin_apps().items()}
    (listed,) = apps["/timelines"].get("/timelines").get_json()["timelines"]
    whole = STORE.cat("logs/run/cam.lcam")
    assert listed["bytes"] == len(whole) and not listed["empty"]
    assert listed["id"] == "/".join([*["mine"] * spec, *["run"] * (logdir == "memory://logs"), "cam.lcam"])
    for begin, size in ((0, 10**6), (100, 50), (len(whole), 10)):
        query = {"id": listed["id"], "from": begin, "limit": size}
        assert apps["/record"].get("/record", query_string=query).data == whole[begin : begin + size]
