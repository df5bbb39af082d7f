"""The record while the place that it lies in changes: a look may be lost, which is said once; training goes on."""

import errno
import logging
import os
import shutil

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.timeline.files import RecordFile
from lightning_cam.training.look import Look
from lightning_cam.training.sinks import FilesSink, RunInfo, TimelineSink
from tests.test_callback import Lit, loaders, trainer
from tests.test_timeline import pictures
from tests.test_timeline_growth import long_record
from tests.training import MemoryLogger, heard, told

IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


def look(step):
    return Look(step, 0, {}, {"m": torch.full((2, 2, 2), float(step))}, None, None)


def opened(folder, **options):
    sink = TimelineSink(folder, **{"report": False, **options})
    sink.open(RunInfo("cam", ["m"], "", IMAGES, None, None, None))
    return sink


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_directory_that_vanishes_is_made_again(tmp_path, caplog):
    folder = tmp_path / "run"
    sink = opened(folder, report=True)
    sink.write(look(1))
    shutil.rmtree(folder)
    for step in (2, 3):
        sink.write(look(step))
        sink.add_metrics(step, {"val_acc": 0.5})
    sink.close()
    timeline = read_timeline(folder)
    assert timeline.steps.tolist() == [2, 3] and (timeline.metrics["val_acc"] == 0.5).all()
    assert (folder / "cam_report.html").is_file()
    (message,) = warned(caplog)
    assert message.startswith("cam: ") and "the record no longer exists" in message and "continues at step 2" in message


def test_a_directory_that_vanishes_and_cannot_be_made_again(tmp_path, caplog):
    folder = tmp_path / "run"
    sink = opened(folder, report=True)
    sink.write(look(1))
    shutil.rmtree(folder)
    folder.write_text("in the way")
    sink.write(look(2))
    sink.add_metrics(2, {"val_acc": 0.5})
    sink.write(look(3))
    folder.unlink()
    sink.write(look(4))
    sink.close()
    assert read_timeline(folder).steps.tolist() == [4]
    (message,) = warned(caplog)
    assert "the look at step 2 could not be recorded" in message and "tried again" in message


@pytest.mark.parametrize("fault", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_place_that_cannot_be_written_to_for_a_while(tmp_path, monkeypatch, caplog, fault):
    sink = opened(tmp_path, report=True)
    sink.write(look(1))

    def refused(self, data):
        raise OSError(fault, os.strerror(fault), str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", refused)
        for step in (2, 3):
            sink.write(look(step))
            sink.add_metrics(step, {"val_acc": 0.5})
    sink.write(look(4))
    sink.close()
    assert read_timeline(tmp_path).steps.tolist() == [1, 4]
    assert len(warned(caplog)) == 1 and os.strerror(fault) in warned(caplog)[0]


def test_a_write_that_a_full_disk_cuts_short_leaves_nothing(tmp_path, monkeypatch):
    sink = opened(tmp_path)
    sink.write(look(1))
    path = tmp_path / "cam.lcam"
    before = path.read_bytes()
    raw = open  # the writer's file takes half of what it is given

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            return self._file.write(data[: len(data) // 2])

        def __getattr__(self, name):
            return getattr(self._file, name)

    with monkeypatch.context() as patch:
        patch.setattr("lightning_cam.timeline.files.open", lambda *args, **kw: Full(raw(*args, **kw)), raising=False)
        sink._let_go()
        sink.write(look(2))
    assert path.read_bytes() == before
    sink.write(look(3))
    sink.close()
    assert read_timeline(path).steps.tolist() == [1, 3]


def test_a_log_directory_that_is_removed_in_a_training(tmp_path):
    """With a logger that writes nothing there: Lightning's own end the training by themselves."""

    class Removes(Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 0:
                looks.flush()
                shutil.rmtree(tmp_path / "memory" / "0")

    looks = TransformerCAMCallback(num_samples=2, timelapse=None)
    with heard() as said:
        run = trainer(tmp_path, Removes(), looks, logger=MemoryLogger(), default_root_dir=tmp_path)
        run.fit(Lit(), *loaders())
    assert run.current_epoch == 3
    assert not [message for message in said if "switched itself off" in message]
    assert len(read_timeline(tmp_path).steps) == 2  # all but the first


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "con"])
def test_a_callbacks_name_leads_nowhere_else(tmp_path, name):
    root = tmp_path / "logs"
    loggers = [TensorBoardLogger(root, "board", 0), CSVLogger(root, "plain", 0)]
    looks = TransformerCAMCallback(name=name, num_samples=2, on_error="raise", timelapse=None)
    trainer(root, looks, logger=loggers, max_epochs=1).fit(Lit(), *loaders())
    assert list(tmp_path.iterdir()) == [root]
    (record,) = root.rglob("*.lcam")
    (pictures,) = (root / "plain" / "version_0").rglob("hirescam")
    assert record.parent == root / "board" / "version_0" and pictures.parent.parent == root / "plain" / "version_0"
    assert record.with_name(f"{record.stem}_report.html").is_file() and pictures.parent.name == record.stem
    assert read_timeline(record).name == name


def test_files_of_hostile_tags_stay_in_their_folder(tmp_path):
    sink = FilesSink(tmp_path / "run")
    sink.open(RunInfo("../x", ["m"], "", IMAGES, None, None, None))
    sink.write(Look(1, 0, {}, {}, None, None, pictures={"../x/../../m": IMAGES[0], "../x/gradcam++": IMAGES[0]}))
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert (tmp_path / "run" / "_x" / "gradcam++" / "00000001.jpg").is_file()


def test_what_takes_longer_than_a_training_should_wait_is_left_out_and_said_once(tmp_path, monkeypatch, caplog):
    record = long_record(tmp_path, 50, count=2, grid=2)
    sink = opened(tmp_path, report=True, timelapse="webp")
    sink._run_info = RunInfo("cam", ["m"], "", torch.from_numpy(pictures(2)), None, None, None)
    sink.write(look(60))
    monkeypatch.setattr("lightning_cam.training.sinks.timeline._SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == [record.name]
    (message,) = warned(caplog)
    assert "cam_report.html was not written" in message and "cam_timelapse.webp was not written" in message


def test_the_end_of_fit_says_in_one_line_where_report_and_timelapse_are(tmp_path):
    fit = trainer(tmp_path, TransformerCAMCallback(num_samples=2, cohort=None), logger=CSVLogger(tmp_path, "a\nb"))
    with told() as messages:
        fit.fit(Lit(), *loaders())
    folder = tmp_path / "a\nb" / "version_0"
    assert (folder / "cam_report.html").is_file() and (folder / "cam_timelapse.webp").is_file()
    (line,) = [line for line in messages if "cam_report" in line[1]]
    shown = f"{tmp_path}/a\\nb/version_0"
    assert line == (
        "INFO",
        f"cam: review this run in {shown}/cam_report.html (web page) and {shown}/cam_timelapse.webp (animation).",
    )


def test_nothing_is_said_of_files_that_are_not_there(tmp_path):
    with told() as messages:
        sink = opened(tmp_path / "neither")
        sink.write(look(1))
        sink.close()
        assert messages == []
        sink = opened(tmp_path / "one", timelapse="gif")
        sink.write(look(1))
        sink.close()
    assert messages == [("INFO", f"cam: review this run in {tmp_path}/one/cam_timelapse.gif (animation).")]
