"""Trainings on two processes that share a cohort; each rank writes down what came of each.

Run as `python -m tests.distributed.cohorts FOLDER`; FOLDER holds `weights.pt`, of a model that goes by a mark. The
first Trainer starts the second process.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_cam import TransformerCAMCallback
from lightning_cam.training import allowance, cohort
from lightning_cam.training.cohort import CohortLooker
from lightning_cam.training.cohort_part import CohortCollector, CohortPart
from tests.distributed.scenarios import record, strategy
from tests.marked import marked, small_vit
from tests.training import Lit, heard, loader, tiny_vit, train


class Still(Lit):
    """Its weights stay as they are."""

    def __init__(self, weights):
        super().__init__(small_vit(), lambda parameters, lr: torch.optim.SGD(parameters, 0.0))
        self.model.load_state_dict(weights)


class Slow(Lit):
    """Evidence does not end."""

    def __init__(self, model):
        super().__init__(model, lambda parameters, lr: torch.optim.SGD(parameters, 1e-2))


class OnPlateau(Lit):
    """Its learning rate falls whenever a scalar of the callback does not."""

    tag = "cam/attnlrp/entropy"

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return [optimizer], [{"scheduler": scheduler, "monitor": self.tag}]


class ShardedOnPlateau(OnPlateau):
    tag = "cam/hirescam/entropy"


class ByRank(DataLoader):
    """Batches of other images on each rank, and other numbers of them; the ranks are known when it is run."""

    def __init__(self, parts):
        super().__init__(parts[0], 8)
        self.loaders = [DataLoader(part, 8) for part in parts]

    @property
    def own(self):
        return self.loaders[torch.distributed.get_rank()]

    def __iter__(self):
        return iter(self.own)

    def __len__(self):
        return len(self.own)


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


class Some(IterableDataset):
    """Images of one rank alone."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        rank = torch.distributed.get_rank()
        return (self.data[k] for k in range(len(self.data)) if rank == 0)


UNEVEN = (range(36), range(36, 60))


def look(**options):
    options = {"num_samples": 4, "report": False, "timelapse": None, "on_error": "raise", **options}
    return TransformerCAMCallback(**options)


def still(folder, weights, callback, data=None, *, ranks=True, trains=True, **options):
    """Three validations of a model that does not change, or one alone, of 60 images with a mark."""
    data = DataLoader(marked(60, 1), 8) if data is None else data
    many = {"strategy": strategy("ddp", "cpu"), "devices": 2} if ranks else {}
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[callback],
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        limit_train_batches=2,
        log_every_n_steps=1,
        **many,
        **options,
    )
    if trains:
        trainer.fit(Still(weights), DataLoader(marked(24, 0), 4), data)
    else:
        trainer.validate(Still(weights), data, verbose=False)
    return trainer


def fails(function, when):
    """The same, that fails where `when` says so."""

    def failing(self, *args, **options):
        if when():
            raise RuntimeError("only here")
        return function(self, *args, **options)

    return failing


def on(rank, times):
    """Whether it is a call on this rank, and the last of so many."""
    count = [0]

    def when():
        count[0] += torch.distributed.get_rank() == rank
        return count[0] == times

    return when


FAULTS = {
    "explaining on the second rank": (CohortPart, "explain", 1, 2),
    "explaining on the first rank": (CohortPart, "explain", 0, 2),
    "collecting on the second rank": (CohortCollector, "add", 1, 2),
    "beginning on the second rank": (CohortPart, "__init__", 1, 1),
    "finding": (CohortLooker, "_cohort", 0, 1),
}


class FirstLookFails(TransformerCAMCallback):
    """The looks at the probe end on the first rank; the second one only knows of the cohort."""

    def _look(self, trainer, module):
        if trainer.current_epoch == 1:
            raise RuntimeError("only here")
        super()._look(trainer, module)


@contextmanager
def exchanges():
    """How often ranks wait for one another meanwhile, by the way in which."""
    counted = Counter()

    def counting(name, original):
        def call(*args, **options):
            counted[name] += 1
            return original(*args, **options)

        return call

    names = ("broadcast", "barrier", "all_reduce", "gather_object", "broadcast_object_list")
    before = {name: getattr(torch.distributed, name) for name in names}
    for name, original in before.items():
        setattr(torch.distributed, name, counting(name, original))
    try:
        yield counted
    finally:
        for name, original in before.items():
            setattr(torch.distributed, name, original)


def values(trainer):
    return {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("cam/")}


def cohorts(folder, weights):
    """What each scenario leaves on this rank, by name."""
    yield "shared", values(still(folder / "shared", weights, look(cohort=48, log_metrics=True)))
    still(folder / "alone", weights, look(cohort=48), trains=False)
    yield "validated alone", None
    data = ByRank([Subset(marked(60, 1), part) for part in UNEVEN])
    still(folder / "uneven", weights, look(cohort=60), data, use_distributed_sampler=False)
    yield "uneven", None
    still(folder / "one", weights, look(cohort=48), DataLoader(Some(marked(60, 1)), 8))
    yield "one", None
    before = allowance.BUDGET
    allowance.BUDGET = cohort.BUDGET = 1e3  # enough for all images
    still(folder / "auto", weights, look(cohort="auto"))
    allowance.BUDGET = cohort.BUDGET = before
    yield "auto", None
    for name, (cls, method, rank, times) in FAULTS.items():
        original = getattr(cls, method)
        setattr(cls, method, fails(original, on(rank, times)))
        with heard() as said:
            trainer = still(folder / name, weights, look(cohort=48, on_error="warn"))
        setattr(cls, method, original)
        yield name, (said, trainer.global_step)
    with heard() as said:
        trainer = still(folder / "off", weights, FirstLookFails(num_samples=4, cohort=48, report=False, timelapse=None))
    yield "off", (said, trainer.global_step)


def trainings(folder):
    """Trainings with and without a cohort, and such that act on its scalars."""
    some = {"strategy": None, "devices": 2, "val_loader": lambda: loader(8, batch_size=2), "max_epochs": 6}
    for name, make, cls in [
        ("alone", lambda: [], Lit),
        ("cohort", lambda: [look(cohort=8)], Lit),
        ("probe shared", lambda: [look(cohort=8, shard_probe=True)], Lit),
        ("monitored", lambda: _monitored(folder), Slow),
        ("plateau", lambda: [look(cohort=None, log_metrics=True, every_n_epochs=2)], OnPlateau),
        ("none", lambda: [look(cohort=None)], Lit),
        ("sharded", lambda: [look(log_metrics=True, methods="hirescam", every_n_epochs=2)], ShardedOnPlateau),
    ]:
        callbacks, kind = make(), "fsdp1" if name == "sharded" else "ddp"
        options = {**some, "strategy": strategy(kind, "cpu"), "enable_checkpointing": name == "monitored"}
        with exchanges() as counted:
            outcome = train(folder / "fits", callbacks, lambda: cls(tiny_vit(drop_rate=0.1)), **options)  # noqa: B023
        kept = record(outcome)
        kept["exchanges"] = counted
        kept["metrics"] = values(outcome.trainer)
        kept["lr"] = outcome.trainer.optimizers[0].param_groups[0]["lr"]
        for callback in callbacks:
            if isinstance(callback, EarlyStopping):
                kept["stopped"] = callback.stopped_epoch, callback.wait_count, float(callback.best_score)
            if isinstance(callback, ModelCheckpoint):
                kept["best"] = Path(callback.best_model_path).name, float(callback.best_model_score)
        yield name, kept


def _monitored(folder):
    tag = "cam/cohort/spread"
    return [
        EarlyStopping(tag, patience=3, min_delta=1, mode="max"),  # more than a spread can rise: it always stops
        look(cohort=8, log_metrics=True, every_n_epochs=2),
        ModelCheckpoint(folder / "best", "{epoch}", tag, save_top_k=1, mode="min"),
    ]


def main(folder):
    weights = torch.load(folder / "weights.pt", weights_only=True)
    for name, kept in chain(cohorts(folder, weights), trainings(folder)):
        torch.save(kept, folder / f"{name} {torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
