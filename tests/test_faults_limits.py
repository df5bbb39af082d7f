"""What long runs, slow disks and killed processes do: nothing grows, nothing is lost without a word."""

import gc
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_cam import TransformerCAMCallback
from lightning_cam.training.look import Look
from lightning_cam.training.sinks import RunInfo, Sink, SinkWorker, register_sink
from tests.training import Lit, MemoryLogger, MemorySink, loader, tiny_vit, train

EARLY, LOOKS = 800, 1000  # at the first of them the caches of drawn captions, which are bounded, are full


class Usage(Callback):
    """Counts what could leak, early and at the end."""

    def __init__(self, look):
        self.look, self.counts = look, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in (EARLY, LOOKS):
            self.look.flush()  # on a busy machine looks wait for the thread that writes
            gc.collect()
            objects = gc.get_objects()
            self.counts[trainer.global_step] = {
                "tensors": sum(issubclass(type(item), torch.Tensor) for item in objects),  # a dead proxy has no class
                "objects": len(objects),
                "hooks": sum(len(v) for m in pl_module.modules() for k, v in vars(m).items() if k.endswith("_hooks")),
                "threads": threading.active_count(),
                "files": len(os.listdir("/proc/self/fd")),
                "memory": _resident(),
                "cuda": torch.cuda.memory_allocated() if torch.cuda.is_available() else 0,
            }


def _resident():
    """Resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class ForgetfulLogger(MemoryLogger):
    def log_metrics(self, metrics, step=None):
        pass


@register_sink("ForgetfulLogger")
class ForgetfulSink(MemorySink):
    def write(self, look):
        pass


def _thousand(tmp_path, **options):
    look = TransformerCAMCallback(num_samples=1, report=False, timelapse=None, on_error="raise")
    usage = Usage(look)
    outcome = train(
        tmp_path,
        look,
        lambda: Lit(tiny_vit(depth=1, embed_dim=8, num_heads=1)),
        callbacks=lambda looks: [*looks, usage],
        train_loader=lambda: loader(100, 1),
        val_loader=lambda: loader(1, 1),
        val_check_interval=1,
        max_epochs=-1,
        max_steps=LOOKS + 1,
        num_sanity_val_steps=0,
        logger=ForgetfulLogger(),
        **options,
    )
    assert look._session.last_step >= LOOKS - 1 and look._session.history.steps[0] == 0
    return usage.counts, outcome


def test_a_thousand_looks_leak_nothing(tmp_path):
    threads = threading.active_count()
    counts, _ = _thousand(tmp_path)
    early, late = counts[EARLY], counts[LOOKS]
    for what in ("hooks", "threads", "files", "cuda"):
        assert late[what] == early[what], what
    # A look under way on the worker thread, and Lightning's own progress, are worth a few.
    assert late["tensors"] - early["tensors"] < 20
    assert late["objects"] - early["objects"] < 500
    assert late["memory"] - early["memory"] < 20
    assert threading.active_count() == threads


class Slow(Sink):
    def __init__(self):
        self.written, self.begun, self.gate = [], threading.Event(), threading.Event()

    def open(self, run):
        pass

    def write(self, look):
        self.begun.set()
        self.gate.wait()
        self.written.append(look.step)


def _look(step):
    return Look(step, step, {}, {"hirescam": torch.zeros(1, 2, 2)}, None, None)


def _worker(*sinks, capacity=8):
    run = RunInfo("cam", ["hirescam"], "", torch.zeros(1, 3, 2, 2, dtype=torch.uint8), None, None, None)
    return SinkWorker(sinks, run, capacity)


class Weak(Slow):
    def write(self, look):
        self.written.append(weakref.ref(look.maps["hirescam"]))


def test_a_look_that_is_written_is_let_go():
    sink = Weak()
    worker = _worker(sink)
    worker.submit(_look(1))
    worker.flush()
    gc.collect()
    assert [maps() for maps in sink.written] == [None]
    worker.close()


def test_a_disk_slower_than_the_looks_bounds_the_queue_and_says_what_is_missing(caplog):
    sink = Slow()
    worker = _worker(sink, capacity=4)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "lightning_cam"):
        for step in range(50):
            worker.submit(_look(step))
            assert sink.begun.wait(5)  # one is being written, four more wait
        assert time.monotonic() - started < 5  # the training does not wait for the disk
        assert worker._queue.qsize() <= 4
        sink.gate.set()
        worker.close()
    first, last = (record.getMessage() for record in caplog.records)
    assert sink.written == [0, 1, 2, 3, 4]
    assert "step 5 is not logged" in first
    assert "45 looks were not logged" in last


def test_a_fast_disk_gets_every_look_in_order():
    sink = Slow()
    sink.gate.set()
    worker = _worker(sink)
    for step in range(200):
        worker.submit(_look(step))
        worker.flush()
    worker.close()
    assert sink.written == list(range(200))


SCRIPT = """
import sys
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_cam import TransformerCAMCallback
from tests.training import loader, train
assert "pytorch_lightning" not in sys.modules  # who does not use it pays nothing for it
train(
    sys.argv[1], TransformerCAMCallback(methods=["hirescam", "gradcam"]), logger=TensorBoardLogger(sys.argv[1]),
    max_epochs=100000, val_check_interval=1,
)
"""


def _events(folder):
    return EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()


def test_event_files_of_a_killed_run_are_complete_up_to_the_last_look(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            folders = {path.parent for path in tmp_path.rglob("events.*")}
            if folders and len(_images(_events(next(iter(folders))), "cam/gradcam")) >= 5:
                break
            time.sleep(0.1)
        assert process.poll() is None, process.stderr.read().decode()[-2000:]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    log = _events(next(iter(folders)))
    steps = [event.step for event in _images(log, "cam/hirescam")]
    # The look before the training, and one after each step.
    assert len(steps) >= 5 and steps == [0, *range(len(steps) - 1)]
    for tag in ("cam/hirescam", "cam/gradcam", "cam/hirescam/filmstrip", "cam/gradcam/filmstrip"):
        events = _images(log, tag)
        assert [event.step for event in events] == steps
        for event in events:
            Image.open(io.BytesIO(event.encoded_image_string)).load()
    assert [event.step for event in log.Scalars("cam/hirescam/entropy")] == steps


def _images(log, tag):
    return log.Images(tag) if tag in log.Tags()["images"] else []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_thousand_looks_on_the_gpu_leak_nothing(tmp_path):
    counts, _ = _thousand(tmp_path, accelerator="gpu", devices=1)
    assert counts[LOOKS]["cuda"] <= counts[EARLY]["cuda"] + 2**20
