"""What the user's model logs in a validation stands in the record, next to the look of that validation."""

import threading

import numpy as np
import pytest
import torch
from torchmetrics import MaxMetric

from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.training.sinks import RunInfo, Sink, SinkWorker
from tests.no_sync import forbid_sync
from tests.test_callback import Lit, events, loaders, trainer


class Logs(Lit):
    """Logs what a user may: a mean over batches, a metric object, a value of the epoch, one that is not finite."""

    def __init__(self):
        super().__init__()
        self.best = MaxMetric()

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)  # logs val_loss
        self.log("val_acc", (self.model(batch["image"]).argmax(1) == batch["label"]).float().mean())
        self.best.update(self.trainer.global_step + batch_idx / 8)
        self.log("val_best", self.best)

    def on_validation_epoch_end(self):
        self.log("val_of_epoch", self.trainer.global_step / 7)
        self.log("val_nan", torch.tensor(torch.nan))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", batch["image"].mean())


LOGGED = ("val_loss", "val_acc", "val_best", "val_of_epoch", "val_nan")


def logged(log, tag):
    return {event.step: event.value for event in log.Scalars(tag)}


@pytest.mark.parametrize("every_n_epochs", [1, 2])
def test_the_record_holds_what_the_logger_got_at_the_steps_of_the_looks(tmp_path, every_n_epochs):
    looks = TransformerCAMCallback(every_n_epochs=every_n_epochs, on_error="raise")
    trainer(tmp_path, looks, val_check_interval=2, max_epochs=2).fit(Logs(), *loaders(batch_size=7))
    timeline, log = read_timeline(tmp_path), events(tmp_path)
    assert len(timeline.steps) == 4 // every_n_epochs
    for name in LOGGED:
        values = logged(log, name)
        assert len(values) == 4
        np.testing.assert_allclose(timeline.metrics[name], [values[step] for step in timeline.steps], rtol=1e-5)
    assert len(set(timeline.metrics["val_loss"])) == len(timeline.steps)  # or the comparison would say little
    assert np.isnan(timeline.metrics["val_nan"]).all()


def test_metrics_of_a_test_run(tmp_path):
    _, testing = loaders()
    trainer(tmp_path, TransformerCAMCallback(on_error="raise")).test(Logs(), testing, verbose=False)
    assert read_timeline(tmp_path).metrics["test_loss"] == pytest.approx(events(tmp_path).Scalars("test_loss")[0].value)


def test_taking_them_waits_for_nothing(tmp_path):
    class Watched(TransformerCAMCallback):
        taken = 0

        def on_validation_end(self, trainer, pl_module):
            with forbid_sync():
                super().on_validation_end(trainer, pl_module)
            self.taken += not trainer.sanity_checking

    looks = Watched(on_error="raise")
    trainer(tmp_path, looks).fit(Logs(), *loaders())
    assert looks.taken == 3 and np.isfinite(read_timeline(tmp_path).metrics["val_acc"]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_taking_them_on_the_gpu_never_waits(tmp_path):
    class Watched(TransformerCAMCallback):
        def _add_metrics(self, trainer):
            torch.cuda.set_sync_debug_mode("error")
            try:
                super()._add_metrics(trainer)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    looks = Watched(on_error="raise")
    trainer(tmp_path, looks, accelerator="gpu", devices=1).fit(Logs(), *loaders())
    timeline, log = read_timeline(tmp_path), events(tmp_path)
    for name in LOGGED:
        np.testing.assert_allclose(timeline.metrics[name], list(logged(log, name).values()), rtol=1e-5)


class Keeps(Sink):
    def __init__(self):
        self.metrics = []

    def open(self, run):
        pass

    def write(self, look):
        pass

    def add_metrics(self, step, metrics):
        self.metrics.append((step, metrics))


def worker(sink, capacity=8):
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    return SinkWorker([sink], RunInfo("cam", ["hirescam"], "", images, None, None, None), capacity)


def test_only_plain_scalars_are_taken_as_they_were_when_given():
    class Distributed(torch.Tensor):
        """Stands for a tensor whose value only all ranks together can tell."""

    sink = Keeps()
    taking = worker(sink)
    counter = torch.tensor([3])
    taking.add_metrics(
        7,
        {
            "count": counter,
            "half": torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True),
            "classes": torch.zeros(4),
            "distributed": torch.ones(()).as_subclass(Distributed),
            "text": "none",
        },
    )
    counter += 1
    taking.add_metrics(8, {"classes": torch.zeros(4)})
    taking.close()
    assert sink.metrics == [(7, {"count": 3.0, "half": 0.5})]


def test_metrics_that_find_no_place_are_left_out_quietly(caplog):
    gate = threading.Event()

    class Slow(Keeps):
        def open(self, run):
            gate.wait()

    sink = Slow()
    taking = worker(sink, capacity=2)
    for step in range(5):
        taking.add_metrics(step, {"val_acc": torch.tensor(0.5)})
    gate.set()
    taking.close()
    assert [step for step, _ in sink.metrics] == [0, 1]
    assert not caplog.records
