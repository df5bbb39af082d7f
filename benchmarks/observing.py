"""What it costs to see what a validation step does: the batches of the first and of the second validation.

    python -m benchmarks.observing --batches 4 --rounds 3

Seconds are those that the one computing thread was at work, so that other work on the machine counts little; on a
GPU, where that thread only waits, those that passed. Looks are left out; `benchmarks.speed` measures them.
"""

import argparse
import logging
import tempfile
import time
from statistics import median
from typing import Any

import lightning.pytorch as pl
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_cam import TransformerCAMCallback


def _now() -> float:
    if not torch.cuda.is_available():
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Classifier(pl.LightningModule):
    """A plain classifier; its training step learns nothing, as only validations are timed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = timm.create_model(name, num_classes=10)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return 0 * self.model.head.weight.sum()

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


class Looks(TransformerCAMCallback):
    """Knows how long it has looked, the search for layers included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    @override
    def _look(self, *args: Any) -> None:
        begin = _now()
        super()._look(*args)
        self.seconds += _now() - begin


class Timer(pl.Callback):
    """Seconds at work in each validation, without those of looks. The first of the callbacks."""

    def __init__(self, looks: Looks | None) -> None:
        self.seconds: list[float] = []
        self._looks = looks

    def _now(self) -> float:
        return _now() - (0 if self._looks is None else self._looks.seconds)

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = self._now()

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds.append(self._now() - self._begin)


def main() -> None:
    """Print the ratios of validations with the callback to those without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Classifier(options.model)
    data = TensorDataset(torch.rand(16 * options.batches, 3, 224, 224), torch.arange(16 * options.batches) % 10)
    pairs = [[validations(model, data, callback) for callback in (False, True)] for _ in range(options.rounds)]
    for number, name in enumerate(("first", "second")):
        ratios = sorted(watched[number] / plain[number] for plain, watched in pairs)
        print(f"{name} validation: {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) times that without")


def validations(model: Classifier, data: TensorDataset, callback: bool) -> list[float]:
    """Seconds of the batches of two validations, 16 images each."""
    looks = Looks() if callback else None
    timer = Timer(looks)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=2,
            limit_train_batches=1,
            num_sanity_val_steps=0,
            callbacks=[timer, *([looks] if looks else [])],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader(data, 1), DataLoader(data, 16))
    return timer.seconds


if __name__ == "__main__":
    main()
