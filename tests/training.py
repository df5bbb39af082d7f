"""One tiny training, run with or without the callback, and everything of it that must not differ."""

import copy
import logging
import random
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.data import DataLoader, Dataset

from lightning_cam import TransformerCAMCallback
from lightning_cam.training.sinks import Sink, register_sink
from tests.models import class_token_vit

torch.set_num_threads(1)  # the models are too small for more, and tests run side by side

SIZE = 16
CLASSES = 3


def tiny_vit(**changes):
    options = {"img_size": SIZE, "patch_size": 4, "depth": 2, "num_classes": CLASSES}
    return class_token_vit(**{**options, **changes})


def _pair(image, label):
    return image, label


class Pictures(Dataset):
    """Fixed noise; `pack` makes an item's form."""

    def __init__(self, count=12, pack=None, size=SIZE):
        self.images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(count) % CLASSES
        self.pack = pack or _pair

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.pack(self.images[index], self.labels[index])


def loader(count=12, batch_size=4, **options):
    pack, size = options.pop("pack", None), options.pop("size", SIZE)
    return DataLoader(Pictures(count, pack, size), batch_size, **options)


class Lit(LightningModule):
    """A classifier with dropout that logs its losses."""

    def __init__(self, model=None, optimizer=torch.optim.AdamW):
        super().__init__()
        self.model = tiny_vit(drop_rate=0.1, drop_path_rate=0.1) if model is None else model
        self.train()  # the models that tests share are in eval mode
        self.optimizer = optimizer

    def forward(self, images):
        return self.model(images)

    def loss(self, batch):
        images, labels = batch
        return nn.functional.cross_entropy(self(images).float(), labels)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.loss(batch), add_dataloader_idx=False)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return self.optimizer([p for p in self.parameters() if p.requires_grad], 1e-2)


@contextmanager
def heard():
    """What this package says meanwhile."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("lightning_cam")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


@contextmanager
def told():
    """What Lightning shows of itself meanwhile."""
    messages = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    # Of the two packages the one that was imported last speaks for both; the demo, if tried here, makes them quieter.
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield messages
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class MemoryLogger(Logger):
    """Keeps metrics and looks in lists."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.metrics, self.looks, self.runs = [], [], []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, {name: float(value) for name, value in metrics.items()}))

    def log_hyperparams(self, *args, **kwargs):
        pass


@register_sink("MemoryLogger")
class MemorySink(Sink):
    def __init__(self, logger):
        self.logger = logger

    def open(self, run):
        self.logger.runs.append(run)

    def write(self, look):
        self.logger.looks.append(look)


def _inner(value):
    """What an entry of a state that cannot be compared is made of."""
    if isinstance(value, torch.dtype):
        return {str(value): None}
    if is_lazy(value):
        return None
    if is_traceable_wrapper_subclass(value) and type(value).__name__ != "DTensor":  # which compares by itself
        return {name: _inner(getattr(value, name)) for name in value.__tensor_flatten__()[0]}
    return value


class Outcome:
    """What a training left behind.

    `looks` are those that were logged in the training, `before` those of the sanity check; `same` and `plain` are
    everything that must not depend on the callback.
    """

    def __init__(self, trainer, lit, logger):
        self.trainer, self.lit = trainer, lit
        self.looks = [look for look in logger.looks if look.epoch >= 0]
        self.before = [look for look in logger.looks if look.epoch < 0]
        self.runs = logger.runs
        self.same = {
            "weights": {name: copy.deepcopy(_inner(value)) for name, value in lit.state_dict().items()},
            "gradients": [None if p.grad is None else p.grad.clone() for p in lit.parameters()],
            # DeepSpeed's have no "state"; what they made of the weights shows in the metrics of the steps.
            "optimizers": [copy.deepcopy(optimizer.state_dict().get("state")) for optimizer in trainer.optimizers],
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
            "metrics": logger.metrics,
            "results": dict(trainer.callback_metrics),
        }
        self.plain = {
            "flags": [p.requires_grad for p in lit.parameters()],
            "modes": [module.training for module in lit.modules()],
            "hooks": [[len(v) for k, v in vars(m).items() if k.endswith("_hooks")] for m in lit.modules()],
            "attributes": [sorted(vars(module)) for module in lit.modules()],
            "progress": (trainer.global_step, trainer.current_epoch, trainer.state),
        }

    def steps(self):
        return [look.step for look in self.looks]


def options(tmp_path, **changes):
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    return {**defaults, **changes}


def train(tmp_path, look=None, make=Lit, *, callbacks=(), run=None, train_loader=None, val_loader=None, **changes):
    """Run one training from a fixed seed.

    Args:
        tmp_path: Where the trainer may write.
        look: The callback, or callbacks, under test; None for the run to compare with.
        make: Makes the LightningModule.
        callbacks: A function that makes other callbacks, given `look` as a list, and returns all in order.
        run: Called with the trainer, the module and both loaders in place of `fit`.
        train_loader: Makes the training loader.
        val_loader: Makes the validation loader.
        changes: Arguments of the trainer.
    """
    seed_everything(0, verbose=False)
    looks = [] if look is None else list(look) if isinstance(look, (list, tuple)) else [look]
    logger = MemoryLogger()
    trainer = Trainer(
        callbacks=callbacks(looks) if callable(callbacks) else [*callbacks, *looks],
        **options(tmp_path, logger=changes.pop("logger", logger), **changes),
    )
    lit = make()
    loaders = (train_loader or (lambda: loader(shuffle=True)))(), (val_loader or (lambda: loader(count=6)))()
    if run is None:
        trainer.fit(lit, *loaders)
    else:
        run(trainer, lit, *loaders)
    return Outcome(trainer, lit, logger)


def assert_same(one, other):
    """Bit for bit, and NaN where NaN was."""
    assert one.plain == other.plain
    torch.testing.assert_close(one.same, other.same, rtol=0, atol=0, equal_nan=True)


def compare(tmp_path, looks=None, callback=None, **arguments):
    """Train with and without the callback, demand that nothing differs, return the run with it.

    Args:
        tmp_path: Where the trainers may write.
        looks: How many looks must have been logged; None for any but zero.
        callback: Makes the callback or callbacks under test.
        arguments: Of `train`.
    """
    make = callback or (lambda: TransformerCAMCallback(num_samples=3, on_error="raise"))
    with_callback = train(tmp_path / "with", make(), **arguments)
    assert_same(with_callback, train(tmp_path / "without", **arguments))
    assert len(with_callback.looks) == looks if looks is not None else with_callback.looks
    return with_callback


def assert_finite(looks):
    """Every map shows something."""
    for look in looks:
        for maps in look.maps.values():
            assert maps.dtype == torch.float32 and maps.isfinite().all() and (maps != 0).any()
