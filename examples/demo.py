"""Train a small vision transformer with the one-line callback and tell what it saw: `python -m examples.demo`."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples.classifier import Classifier
from examples.data import DigitsOnPhotos
from lightning_cam import TransformerCAMCallback

EPOCHS = 12
# Xavier initialization leaves the plateau of the first epochs sooner than timm's default at this width.
SMALL_VIT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "weight_init": "moco"}


def train(log_dir: str | Path = "demo_logs", *, epochs: int = EPOCHS, train_size: int = 6_000) -> Path:
    """Train the model and return the folder with the run's event file.

    Args:
        log_dir: The folder to which the run's own folder is added.
        epochs: How many epochs.
        train_size: How many training images.
    """
    seed_everything(0, verbose=False)
    data = DigitsOnPhotos(train_size=train_size)
    classifier = Classifier(
        "vit_tiny_patch16_224", img_size=data.image_size, model_kwargs=SMALL_VIT, lr=1.5e-3, weight_decay=1.0
    )
    logger = TensorBoardLogger(log_dir, name="")
    trainer = Trainer(
        callbacks=[TransformerCAMCallback()],
        max_epochs=epochs,
        logger=logger,
        accelerator="cpu",  # a model this small gains nothing from a GPU
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(classifier, data)
    return Path(logger.log_dir)


def save_filmstrip(run: Path) -> Path:
    """Write the newest filmstrip of a run's event file next to it, and return the picture's path."""
    picture = run / "filmstrip.jpg"
    picture.write_bytes(_events(run).Images("cam/attnlrp/filmstrip")[-1].encoded_image_string)
    return picture


def table(run: Path) -> str:
    """The looks of a run, one line each, from its event file."""
    events = _events(run)
    columns = [
        {event.step: event.value for event in events.Scalars(tag)}
        for tag in ("epoch", "val_acc", "cam/attnlrp/share_inside", "cam/attnlrp/pointing_game")
    ]
    lines = ["epoch  accuracy  share inside the box  pointing game"]
    for step in columns[1]:  # the look before the training has no accuracy, a training step has no look
        epoch, accuracy, share, pointing = (column[step] for column in columns)
        lines.append(f"{epoch:5.0f}  {accuracy:8.2f}  {share:20.2f}  {pointing:13.2f}")
    lines.append("chance     0.10                  0.25           0.25")
    return "\n".join(lines)


def _events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def main() -> None:
    """Train, then print the table, where the pictures and the report are, and how to open TensorBoard."""
    for host in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(host).setLevel(logging.WARNING)
    # The images are in memory: more processes would only slow it down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning on a newer torch
    started = time.monotonic()
    run = train()
    picture = save_filmstrip(run)
    tensorboard = Path(sys.executable).with_name("tensorboard")
    print(f"\n{table(run)}\n")
    print(f"Finished after {time.monotonic() - started:.0f} s.")
    print(f"The filmstrip, images in rows and epochs in columns: {picture}")
    print(f"A page to review it, offline: {run / 'cam_report.html'}, as one animation: {run / 'cam_timelapse.webp'}")
    print(f"All of it in TensorBoard: {tensorboard} --logdir {run.parent} --samples_per_plugin images=1000")


if __name__ == "__main__":
    main()
