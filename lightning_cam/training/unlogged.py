"""What the model logs in a look, kept out of the user's metrics and loggers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_cam.model.private import results_of
from lightning_cam.model.untouched import replaced


@contextmanager
def unlogged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Keep what the model logs in a look out of the user's metrics and loggers, by whatever name it calls them."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    muted = copy(trainer)
    muted.loggers = [DummyLogger()]
    with ExitStack() as stack:
        module.trainer = muted
        stack.callback(setattr, module, "trainer", trainer)
        for holder in (module, results_of(trainer)):  # the latter where a loop is running
            if holder is not None:
                stack.enter_context(replaced(holder, "log", nothing))
        yield
