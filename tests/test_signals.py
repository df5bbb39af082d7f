"""Signals at any moment of a look: the model is as without it, checkpoints are good, nothing hangs."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils import checkpoint

from lightning_cam import TransformerCAMCallback, explain, find_target_layers
from lightning_cam.model.signals import signals_deferred, stop_if_interrupted
from tests.training import Lit, Pictures, assert_same, loader, options, tiny_vit, train

RUNS = int(os.environ.get("SIGNAL_RUNS", "12"))  # more by hand
IMAGES = Pictures(4).images


class Net(nn.Module):
    """Counts its forwards, has batch norms, dropout, a checkpoint, and a head that is still zero."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.vit = tiny_vit(depth=3, drop_rate=0.1)
        self.register_buffer("forwards", torch.zeros(()))
        nn.init.zeros_(self.vit.head.weight)

    def forward(self, x):
        self.forwards += 1
        return self.vit(checkpoint.checkpoint(self.stem, x, use_reentrant=False))


def everything(model):
    return (
        [(id(p), p.requires_grad, id(p.grad)) for p in model.parameters()],
        [p.detach().clone() for p in model.parameters()],
        [b.clone() for b in model.buffers()],
        [(m.training, sorted(map(hash, vars(m)))) for m in model.modules()],
        [[len(v) for k, v in vars(m).items() if k.endswith("_hooks")] for m in model.modules()],
        ["forward" in vars(m) for m in model.modules()],
        [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), "apply" in vars(checkpoint.CheckpointFunction)],
        torch.get_rng_state(),
    )


@pytest.fixture
def ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_at(delay, act):
    """Whether a Ctrl-C after a delay came through before `act` was done."""
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        act()
        timer.cancel()
        timer.join()
        time.sleep(0.001)  # one that has just been sent
    except KeyboardInterrupt:
        return True
    finally:
        timer.join()
    return False


@pytest.mark.parametrize("act", ["search", "first look", "later look", "perturbation"])
def test_ctrl_c_at_any_moment_leaves_the_model_as_it_was(ctrl_c, act):
    torch.manual_seed(0)
    model = Net().train()
    model(IMAGES).sum().backward()
    layers = find_target_layers(model, IMAGES)
    acts = {
        "search": lambda: find_target_layers(model, IMAGES),
        "first look": lambda: explain(model, IMAGES, "all"),
        "later look": lambda: explain(model, IMAGES, target_layers=layers),
        "perturbation": lambda: explain(model, IMAGES, ["ablationcam", "scorecam"], target_layers=layers),
    }
    lengths = []
    for _ in range(3):
        began = time.monotonic()
        acts[act]()
        lengths.append(time.monotonic() - began)
    before, came = everything(model), Counter()
    for run in range(RUNS):
        came[interrupted_at(random.Random(run).random() * min(lengths), acts[act])] += 1
        torch.testing.assert_close(everything(model), before, rtol=0, atol=0)
        with torch.no_grad():  # no mode of ours is left on
            assert not (model.vit.head.weight * 1).requires_grad
    assert came[True] > 0


def test_ctrl_c_does_not_wait_for_a_whole_sweep(ctrl_c):
    model = tiny_vit(depth=3).eval()
    sweep = lambda: explain(model, Pictures(64).images, ["scorecam"], batch_size=1)  # noqa: E731
    sweep()  # the first one takes longer
    began = time.monotonic()
    sweep()
    length = time.monotonic() - began
    began = time.monotonic()
    assert interrupted_at(0.1 * length, sweep)
    assert time.monotonic() - began < 0.8 * length


def test_a_second_ctrl_c_does_not_wait(ctrl_c):
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        pytest.fail("the second one waited")
    stop_if_interrupted()  # nothing is left over


class Signalled(TransformerCAMCallback):
    """Gets a signal at a random moment of each look."""

    number = signal.SIGUSR1

    def _look(self, trainer, module):
        delay = random.Random(trainer.global_step).random() * 0.01
        timer = threading.Timer(delay, os.kill, (os.getpid(), self.number))
        timer.start()
        super()._look(trainer, module)
        timer.join()


class Notes(Lit):
    """Keeps the weights that each validation begins with."""

    def __init__(self):
        super().__init__()
        self.noted = {}

    def on_validation_start(self):
        self.noted[self.trainer.global_step] = {k: v.clone() for k, v in self.state_dict().items()}


def test_a_handler_that_saves_a_checkpoint_in_a_look_saves_a_good_one(tmp_path):
    saved = []

    def run(trainer, lit, *loaders):
        def save(*args):
            saved.append(tmp_path / f"{len(saved)}.ckpt")
            trainer.save_checkpoint(saved[-1])

        before = signal.signal(signal.SIGUSR1, save)
        try:
            trainer.fit(lit, *loaders)
        finally:
            signal.signal(signal.SIGUSR1, before)

    arguments = {"max_epochs": RUNS // 3, "val_check_interval": 1}
    outcome = train(tmp_path / "with", Signalled(num_samples=3, on_error="raise"), Notes, run=run, **arguments)
    assert_same(outcome, train(tmp_path / "without", None, Notes, **arguments))
    assert len(saved) >= RUNS
    for path in saved:
        content = torch.load(path, weights_only=False)
        torch.testing.assert_close(
            dict(content["state_dict"]), outcome.lit.noted[content["global_step"]], rtol=0, atol=0
        )


def test_sigterm_in_a_look_ends_the_run_with_the_weights_that_were_validated(tmp_path):
    class Terminated(Signalled):
        number = signal.SIGTERM

        def _look(self, trainer, module):
            action = super()._look if trainer.global_step >= 3 else super(Signalled, self)._look
            action(trainer, module)

    lits = []

    def run(trainer, lit, *loaders):
        lits.append(lit)
        trainer.fit(lit, *loaders)

    with pytest.raises(SIGTERMException):
        train(tmp_path, Terminated(num_samples=3, on_error="raise"), Notes, run=run, val_check_interval=1)
    (lit,) = lits
    torch.testing.assert_close(lit.state_dict(), lit.noted[max(lit.noted)], rtol=0, atol=0)
    assert max(lit.noted) == 3 and not any(m._forward_hooks for m in lit.modules())


def test_a_handler_that_flushes_hangs_nobody(tmp_path):
    class Quiet(Lit):
        """Says when it validates: in the trainer's own calls of its writer no handler may flush, looks or not."""

        def log(self, *args, **kwargs):
            pass

        def on_validation_start(self):
            validating.set()

        def on_validation_end(self):
            validating.clear()

    look, logger = TransformerCAMCallback(num_samples=3, on_error="raise"), TensorBoardLogger(tmp_path)
    came, stop, validating = [], threading.Event(), threading.Event()
    assert logger.experiment  # a handler cannot import what is just being imported

    def flush(*args):
        if came and came[-1] is None:  # one at a time: the logger's writer has locks
            return
        came.append(None)
        look.flush()
        if validating.is_set():
            logger.experiment.flush()
        came.append(1)

    def shoot():
        while not stop.wait(0.003):
            os.kill(os.getpid(), signal.SIGUSR1)

    trainer = Trainer(callbacks=[look], **options(tmp_path, logger=logger, max_epochs=3, val_check_interval=1))
    before, shooter = signal.signal(signal.SIGUSR1, flush), threading.Thread(target=shoot)
    shooter.start()
    try:
        trainer.fit(Quiet(), loader(), loader(6))
    finally:
        stop.set()
        shooter.join()
        signal.signal(signal.SIGUSR1, before)
    assert 1 in came and trainer.state.finished


NO_IMPORTS = """
import sys, tempfile, threading
from pathlib import Path
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_cam.training.look import Look
from lightning_cam.training.run_info import RunInfo
from lightning_cam.training.sinks import SinkWorker, TimelineSink, sink_of

class Spy:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            seen.append(name)

seen = []
folder = Path(tempfile.mkdtemp())
logger = TensorBoardLogger(folder)
sink = sink_of(logger)
run = RunInfo("cam", ["hirescam"], "", torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), None, None)
sys.meta_path.insert(0, Spy())
worker = SinkWorker([TimelineSink(folder, timelapse="webp"), sink], run)
for step in range(3):
    worker.submit(Look(step, 0, {}, {"hirescam": torch.rand(2, 4, 4)}, torch.rand(2, 5), None))
worker.close()
assert (folder / "cam_report.html").exists() and (folder / "cam_timelapse.webp").exists()
print(sorted(seen))
"""


def test_the_writing_thread_imports_nothing_that_forked_workers_would_wait_for():
    done = subprocess.run([sys.executable, "-c", NO_IMPORTS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
