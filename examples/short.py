"""A short training on little data, which the examples of other libraries share."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from examples.fruit import Fruit
from lightning_cam import TransformerCAMCallback


def run(module: LightningModule, log_dir: str | Path = "example_logs") -> Path:
    """Train for two epochs on a few pictures of fruit, and return the folder with pictures, record and report.

    Args:
        module: Takes batches with `image` (B, 3, 96, 96) and `label` (B,), of five classes.
        log_dir: The folder to which the run's own folder is added.
    """
    logger = CSVLogger(log_dir, name=type(module).__name__)
    trainer = Trainer(
        callbacks=[TransformerCAMCallback(cohort=50)],
        max_epochs=2,
        logger=logger,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, Fruit(train_size=200, val_size=50, drawings=10))
    print(f"Open the report in a browser: {Path(logger.log_dir) / 'cam_report.html'}")
    return Path(logger.log_dir)
