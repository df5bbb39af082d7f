"""Every logger gets the looks in its own way: tested against the real packages, offline."""

import csv
import json
import logging
import shutil
import struct
import time
from dataclasses import replace

import mlflow
import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from wandb.proto import wandb_internal_pb2

from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.training.look import Look
from lightning_cam.training.sinks import FilesSink, RunInfo, TimelineSink
from tests.test_callback import Lit, events, loaders, trainer
from tests.training import heard


def fit(tmp_path, logger, **arguments):
    looks = TransformerCAMCallback(on_error="raise", **arguments)
    trainer(tmp_path, looks, logger=logger, max_epochs=2).fit(Lit(), *loaders())


def test_the_record_report_and_timelapse_lie_with_the_event_file(tmp_path):
    fit(tmp_path, TensorBoardLogger(tmp_path), methods=["hirescam", "gradcam"])
    folder = next(tmp_path.rglob("events.*")).parent
    timeline = read_timeline(folder)
    assert timeline.steps.tolist() == [event.step for event in events(tmp_path).Scalars("cam/hirescam/entropy")]
    assert timeline.maps["gradcam"].shape == (2, 16, 4, 4)
    report = (folder / "cam_report.html").read_text()
    assert "data-timeline" in report and len(report) < 2e6
    with Image.open(folder / "cam_timelapse.webp") as timelapse:
        assert timelapse.n_frames == 2


def test_no_report_and_another_timelapse(tmp_path):
    fit(tmp_path, TensorBoardLogger(tmp_path), report=False, timelapse="gif")
    assert not list(tmp_path.rglob("*report.html")) and len(list(tmp_path.rglob("cam_timelapse.gif"))) == 1


def test_the_report_is_written_when_training_is_cut_short(tmp_path):
    class Fails(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                raise RuntimeError("no more data")

    looks = TransformerCAMCallback(on_error="raise")
    with pytest.raises(RuntimeError, match="no more data"):
        trainer(tmp_path, looks).fit(Fails(), *loaders())
    assert len(list(tmp_path.rglob("cam_report.html"))) == 1


def test_the_last_of_a_disk_is_left_to_the_trainer(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    sinks = [FilesSink(tmp_path), TimelineSink(tmp_path, timelapse="webp")]
    look = Look(0, 0, {}, {"a": torch.ones(1, 2, 2)}, None, None, pictures={"cam/a": images[0]})
    for sink in sinks:
        sink.open(RunInfo("cam", ["a"], "", images, None, None, None))
        sink.write(look)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * 2**20))
    for sink in sinks:
        with pytest.raises(OSError, match=r"only 15\.0 MiB are free"):
            sink.write(replace(look, step=1))
    with pytest.raises(RuntimeError, match=r"only 15\.0 MiB are free"):
        sinks[1].close()
    assert sorted(tmp_path.rglob("*")) == before and before


@pytest.mark.parametrize(
    "full", [["cam_report.html"], ["cam_timelapse.webp"], ["cam_report.html", "cam_timelapse.webp"]]
)
def test_a_file_that_cannot_be_written_is_named_and_the_others_are_written(tmp_path, full):
    folder = tmp_path / "default" / "version_0"
    folder.mkdir(parents=True)
    for name in full:
        (folder / name).symlink_to("/dev/full")  # takes nothing, and does not say its name
    looks = TransformerCAMCallback(on_error="warn")
    with heard() as said:
        trainer(tmp_path, looks, logger=TensorBoardLogger(tmp_path, "default", 0), max_epochs=1).fit(Lit(), *loaders())
    (message,) = (message for message in said if "TransformerCAMCallback" in message)
    assert "No space left on device" in message
    for name in ("cam_report.html", "cam_timelapse.webp"):
        assert (str(folder / name) in message) == (name in full)
        assert (folder / name).is_symlink() == (name in full)
        assert name in full or (folder / name).stat().st_size > 1000


def test_plain_files_and_one_line_for_loggers_without_pictures(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lightning_cam"):
        fit(tmp_path, CSVLogger(tmp_path))
    said = [
        record.getMessage() for record in caplog.records if "can't log images; writing files to" in record.getMessage()
    ]
    assert len(said) == 1 and "CSVLogger" in said[0]
    (folder,) = tmp_path.rglob("cam/hirescam")
    steps = [int(path.stem) for path in sorted(folder.glob("*.jpg"))]
    assert len(steps) == 2
    with Image.open(folder / f"{steps[0]:08d}.jpg") as picture:
        assert picture.format == "JPEG" and np.asarray(picture).std() > 10
    assert len(list((folder / "filmstrip").glob("*.jpg"))) == 2
    rows = list(csv.DictReader((folder.parent / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["tag"] == "cam/hirescam/entropy"] == steps


def wandb_records(path):
    """Records of an offline run: LevelDB's log format behind a header of 7 bytes."""
    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        if 32768 - offset % 32768 < 7:  # the rest of a block is padding
            offset += 32768 - offset % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        if offset + 7 + length > len(data):  # not all of it is there yet
            return
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def finished_records(path):
    """All records of a finished run: W&B's own process may write the last of them after `finish` has returned."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = list(wandb_records(path))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def wandb_items(history):
    """Keys and values of a row; what is nested is written either as one value or as one item for each part."""
    for item in history.item:
        name, value = item.key or "/".join(item.nested_key), json.loads(item.value_json)
        yield from (
            {f"{name}/{part}": inner for part, inner in value.items()}.items()
            if isinstance(value, dict)
            else [(name, value)]
        )


def test_weights_and_biases_offline(tmp_path):
    logger = WandbLogger(project="cam", save_dir=tmp_path, offline=True)
    fit(tmp_path, logger)
    wandb.finish()
    (path,) = tmp_path.rglob("*.wandb")
    records = finished_records(path)
    artifacts = [r for r in records if r.HasField("artifact") or r.request.HasField("log_artifact")]
    history = [dict(wandb_items(record.history)) for record in records if record.HasField("history")]
    shown = [row for row in history if "cam/hirescam/_type" in row]
    assert [row["cam/hirescam/_type"] for row in shown] == ["images/separated"] * 2
    assert [row["cam/hirescam/format"] for row in shown] == ["jpg"] * 2
    entropies = {
        row["trainer/global_step"]: row["cam/hirescam/entropy"] for row in history if "cam/hirescam/entropy" in row
    }
    assert list(entropies) == [row["trainer/global_step"] for row in shown] == [2, 5]
    assert artifacts


def test_mlflow_with_a_local_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need all of MLflow
    logger = MLFlowLogger(experiment_name="cam", tracking_uri=f"file:{tmp_path}/store")
    names = ["top (left)", "top, right", "low & left", "low right?"]
    fit(tmp_path, logger, methods=["gradcam++"], cohort=8, class_names=names)  # a number of images is looked at always
    client = mlflow.MlflowClient(f"file:{tmp_path}/store")
    metrics = client.get_metric_history(logger.run_id, "cam/gradcampp/entropy")
    assert [metric.step for metric in metrics] == [2, 5]
    stored = [str(path) for path in (tmp_path / "store").rglob("images/*gradcampp*")]
    for tag in ("gradcampp+", "gradcampp~images_9-", "gradcampp~filmstrip"):
        assert len([path for path in stored if tag in path and path.endswith(".png")]) == 2
    assert {item.path for item in client.list_artifacts(logger.run_id, "cam")} == {
        "cam/about.md",
        "cam/findings.md",
        "cam/cam_report.html",
    }


def test_several_loggers_at_once(tmp_path):
    fit(tmp_path, [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")])
    assert len(list((tmp_path / "csv").rglob("cam/hirescam/*.jpg"))) == 2
    assert len(events(tmp_path / "board").Images("cam/hirescam")) == 2
    assert len(list(tmp_path.rglob("*.lcam"))) == 1


def test_a_logger_of_the_users_own(tmp_path):
    class Own(Logger):
        name, version, save_dir = "own", 3, str(tmp_path)

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, params, *args, **kwargs):
            pass

    fit(tmp_path, Own())
    assert len(list((tmp_path / "own/3/cam/hirescam").glob("*.jpg"))) == 2
