"""Whatever goes wrong in a look: it is said once, the callback switches itself off, and training ends the same."""

import errno
import os
import shutil
import signal
import subprocess
import warnings
import weakref
from collections import namedtuple

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_cam import TransformerCAMCallback
from lightning_cam.training.sinks import Sink, register_sink
from tests.training import Lit, MemoryLogger, MemorySink, assert_same, heard, loader, tiny_vit, train

SAMPLES = 3  # a size that no batch has: the model knows a look by it


class Fault(nn.Module):
    """Does something when a look of the third validation run or later comes through."""

    def __init__(self, act):
        super().__init__()
        self.vit, self.act = tiny_vit(drop_rate=0.1), act

    def forward(self, images):
        if len(images) == SAMPLES and not self.training:
            self.act(images)
        return self.vit(images)


class Diverges(Fault):
    """Does so in validation too."""

    def forward(self, images):
        if not self.training:
            self.act(images)
        return self.vit(images)


def after_two_looks(act, model=Fault):
    """A model whose `act` comes into play at the third look, however often a look runs it."""

    def make():
        def acts(images):
            if lit.trainer.fit_loop.epoch_loop._batches_that_stepped >= 2:
                act(images)

        lit = Lit(model(acts))
        return lit

    return make


def fails(error):
    def act(images):
        raise error

    return act


def run(tmp_path, look, make=Lit, **options):
    """A training of six looks, and what it said of the callback."""
    with heard() as said:
        outcome = train(tmp_path, look, make, val_check_interval=1, **options)
    return outcome, [message for message in said if "TransformerCAMCallback" in message]


ERRORS = {
    "forward": (RuntimeError("mat1 and mat2 cannot be multiplied"), "mat1 and mat2"),
    "without a word": (AssertionError(), "AssertionError"),
    "memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    "stop": (StopIteration("no more"), "no more"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_models_forward_raises(tmp_path, name):
    error, reason = ERRORS[name]
    outcome, said = run(tmp_path, TransformerCAMCallback(num_samples=SAMPLES), after_two_looks(fails(error)))
    assert len(said) == 1 and "switched itself off" in said[0] and reason in said[0]
    assert len(outcome.looks) == 2  # both that came before were written
    assert_same(outcome, run(tmp_path, None, after_two_looks(fails(error)))[0])


def test_a_fault_while_layers_are_searched(tmp_path):
    class OnlyLarge(nn.Module):
        """Takes batches of at least three images: those of the search have two."""

        def __init__(self):
            super().__init__()
            self.vit = tiny_vit()

        def forward(self, images):
            if len(images) < 3:
                raise RuntimeError("too small")
            return self.vit(images)

    data = {"val_loader": lambda: loader(8)}
    outcome, said = run(tmp_path, TransformerCAMCallback(), lambda: Lit(OnlyLarge()), **data)
    assert len(said) == 1 and "too small" in said[0]
    assert_same(outcome, run(tmp_path, None, lambda: Lit(OnlyLarge()), **data)[0])


def test_a_users_hook_raises(tmp_path):
    def make():
        lit = Lit()

        def hook(module, inputs, output):
            step = lit.trainer.fit_loop.epoch_loop._batches_that_stepped
            if len(output) == SAMPLES and not module.training and step >= 2:
                raise ValueError("in the user's hook")

        lit.model.blocks[0].register_forward_hook(hook)
        return lit

    outcome, said = run(tmp_path, TransformerCAMCallback(num_samples=SAMPLES), make)
    assert len(said) == 1 and "in the user's hook" in said[0]
    assert_same(outcome, run(tmp_path, None, make)[0])


def test_memory_is_released_after_a_fault(tmp_path):
    """The next training step has all the memory that the look had, without waiting for a garbage collection."""
    large, alive = [], []

    def act(images):
        memory = torch.zeros(1000)
        large.append(weakref.ref(memory))
        raise torch.OutOfMemoryError("out of memory")

    class Watches(Callback):
        def on_train_batch_start(self, *args):
            alive.extend(reference() for reference in large)

    _, said = run(
        tmp_path,
        TransformerCAMCallback(num_samples=SAMPLES),
        after_two_looks(act),
        callbacks=lambda looks: [*looks, Watches()],
    )
    assert len(said) == 1 and len(large) == 1
    assert alive and set(alive) == {None}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_look_that_is_too_large_for_the_gpu(tmp_path):
    def act(images):
        return torch.zeros(2**46, dtype=torch.uint8, device=images.device)

    outcome, said = run(
        tmp_path,
        TransformerCAMCallback(num_samples=SAMPLES),
        after_two_looks(act),
        accelerator="gpu",
        devices=1,
    )
    assert len(said) == 1 and "out of memory" in said[0]
    assert len(outcome.looks) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite(tmp_path, value):
    """A run that diverges is looked at to its end: the record is what tells when it did."""

    def act(images):
        images[1:] = value

    look = TransformerCAMCallback(num_samples=SAMPLES, methods=["hirescam", "eigencam", "gradcam++"])
    outcome, said = run(tmp_path, look, after_two_looks(act, Diverges))
    assert said == [] and len(outcome.looks) == 6
    for maps in outcome.looks[-1].maps.values():
        assert maps[0].isfinite().all() and not maps[1:].isfinite().any()
    assert_same(outcome, run(tmp_path, None, after_two_looks(act, Diverges))[0])


class FailingLogger(MemoryLogger):
    """Its writer raises at the third look."""


@register_sink("FailingLogger")
class FailingSink(MemorySink):
    def write(self, look):
        super().write(look)
        if len(self.logger.looks) == 3:
            with open("/dev/full", "wb") as file:
                file.write(b"picture")


class UnwillingLogger(MemoryLogger):
    """Its writer raises before the first look."""


@register_sink("UnwillingLogger")
class UnwillingSink(Sink):
    def __init__(self, logger):
        pass

    def open(self, run):
        raise ConnectionError("nobody listens")

    def write(self, look):
        raise AssertionError("after a failure nothing is written")


@pytest.mark.parametrize(
    ("logger", "reason"), [(FailingLogger, os.strerror(errno.ENOSPC)), (UnwillingLogger, "nobody listens")]
)
def test_a_logger_whose_writer_raises(tmp_path, logger, reason):
    logs = [logger() for _ in range(2)]
    with_callback, said = run(tmp_path, TransformerCAMCallback(), logger=logs[0])
    without, _ = run(tmp_path, None, logger=logs[1])
    assert len(said) == 1 and reason in said[0]
    assert logs[0].metrics == logs[1].metrics
    assert_same(with_callback, without)


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A folder on a disk of 17 MiB: a real one where we may mount it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=17m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
        return

    usage = namedtuple("usage", "total used free")

    def disk_usage(path):
        used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return usage(17 * 2**20, used, 17 * 2**20 - used)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    yield folder


def test_a_disk_that_fills_up_is_left_to_the_trainers_own_metrics(tmp_path, small_disk):
    """Before pictures take the last of a disk, they stop: a failed write would end the run."""
    (small_disk / "checkpoint").write_bytes(bytes(2**20 - 100_000))
    look = TransformerCAMCallback(num_samples=4)
    outcome, said = run(tmp_path, look, logger=TensorBoardLogger(small_disk))
    assert len(said) == 1 and "MiB are free" in said[0]
    assert look._session.history.steps  # it was going well before
    assert_same(outcome, run(tmp_path, None, logger=TensorBoardLogger(tmp_path / "large"))[0])
    assert shutil.disk_usage(small_disk).free >= 15.9 * 2**20


class InterruptsAnyway(Callback):
    """Interrupts at the same place as the look below, without one."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking and batch_idx == 0:
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 3:
                raise KeyboardInterrupt


def test_an_interrupt_in_a_look_ends_the_run_and_leaves_the_model(tmp_path):
    def fit(trainer, lit, *loaders):
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                trainer.fit(lit, *loaders)
        finally:
            signal.signal(signal.SIGINT, before)

    look = TransformerCAMCallback(num_samples=SAMPLES)
    interrupted, said = run(tmp_path, look, after_two_looks(fails(KeyboardInterrupt())), run=fit)
    assert said == [] and len(interrupted.looks) == 2
    expected, _ = run(
        tmp_path, None, after_two_looks(fails(KeyboardInterrupt())), run=fit, callbacks=lambda _: [InterruptsAnyway()]
    )
    assert interrupted.trainer.interrupted and expected.trainer.interrupted
    assert_same(interrupted, expected)


def test_what_a_signals_handler_raises_is_raised(tmp_path):
    def time_is_up(*args):
        raise TimeoutError("time is up")

    class Signals(Lit):
        def forward(self, images):
            if not any(parameter.requires_grad for parameter in self.parameters()):  # in a look
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().forward(images)

    before = signal.signal(signal.SIGUSR1, time_is_up)
    try:
        with pytest.raises(TimeoutError, match="time is up"):
            train(tmp_path, TransformerCAMCallback(), Signals)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_error_of_the_users_own_in_validation_leaves_no_hook_behind(tmp_path):
    class Fails(Lit):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if self.trainer.global_step > 3:
                raise ValueError("the user's own")

    def fit(trainer, lit, *loaders):
        with pytest.raises(ValueError, match="the user's own"):
            trainer.fit(lit, *loaders)

    failed, said = run(tmp_path, TransformerCAMCallback(num_samples=SAMPLES), Fails, run=fit)
    assert said == [] and len(failed.looks) == 3
    assert_same(failed, run(tmp_path, None, Fails, run=fit)[0])


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_the_reason_is_said_whatever_is_done_with_warnings(tmp_path, action):
    make = after_two_looks(fails(RuntimeError("in the look")))
    with warnings.catch_warnings():
        warnings.filterwarnings(action, message=".*TransformerCAMCallback")
        outcome, said = run(tmp_path, TransformerCAMCallback(num_samples=SAMPLES), make)
    assert outcome.trainer.state.finished and len(said) == 1 and "in the look" in said[0]


def test_a_fault_in_one_run_does_not_reach_the_next(tmp_path):
    look = TransformerCAMCallback(num_samples=SAMPLES)
    _, said = run(tmp_path, look, after_two_looks(fails(RuntimeError("once"))))
    again, said_again = run(tmp_path, look)
    assert len(said) == 1 and said_again == [] and again.looks


def test_a_fault_of_one_callback_leaves_the_other(tmp_path):
    looks = [TransformerCAMCallback(name="good"), TransformerCAMCallback(name="bad", target_layers=["nothing"])]
    outcome, said = run(tmp_path, looks)
    assert len(said) == 1 and "nothing" in said[0]
    assert {tag.split("/")[0] for look in outcome.looks for tag in look.pictures} == {"good"}
