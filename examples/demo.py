"""Train two small vision transformers, one of which learns a shortcut: `python -m examples.demo`.

The first is trained on pictures of fruit, the second on the same pictures with a copyright sign on each tomato. Their
accuracy looks alike. What the callback finds does not.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from textwrap import fill

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples.classifier import Classifier
from examples.fruit import FRUIT, IMAGE_SIZE, Fruit
from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.timeline.found import FoundEntry

EPOCHS = 8
# Xavier initialization leaves the plateau of the first epochs sooner than timm's default at this width.
SMALL_VIT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "weight_init": "moco"}
RUNS = {"clean": None, "planted": "tomato"}
"""The name of each run, and the class whose pictures have the mark."""


def train(log_dir: str | Path, name: str, *, epochs: int = EPOCHS, cohort: int = 200, **data: int) -> Path:
    """Train a model and return the folder of its run.

    Args:
        log_dir: The folder to which the run's own folder is added.
        name: Of the run, one of `RUNS`.
        epochs: How many epochs.
        cohort: How many validation images are explained for the findings. A training this short would not pay for
            them within a tenth of its validations, which is what the callback takes by default.
        data: Options of `Fruit`.
    """
    seed_everything(0, verbose=False)
    classifier = Classifier(
        "vit_tiny_patch16_224",
        num_classes=len(FRUIT),
        img_size=IMAGE_SIZE,
        model_kwargs={**SMALL_VIT, "patch_size": 12},
        lr=1.5e-3,
    )
    logger = TensorBoardLogger(log_dir, name=name)
    trainer = Trainer(
        callbacks=[TransformerCAMCallback(cohort=cohort)],
        max_epochs=epochs,
        logger=logger,
        accelerator="cpu",  # a model this small gains nothing from a GPU
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    trainer.fit(classifier, Fruit(marked=RUNS[name], **data))
    return Path(logger.log_dir)


def save_pictures(run: Path) -> list[Path]:
    """Write the newest filmstrip and the newest mean maps of the classes from a run's event file next to it."""
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    paths = []
    for tag, name in (("cam/attnlrp/filmstrip", "filmstrip.jpg"), ("cam/class_means", "class_means.jpg")):
        if tag in events.Tags()["images"]:
            paths.append(run / name)
            paths[-1].write_bytes(events.Images(tag)[-1].encoded_image_string)
    return paths


def findings(run: Path) -> list[FoundEntry]:
    """What was found at the last look of a run."""
    found = read_timeline(run).findings
    return found[-1].findings if found else []


def summary(name: str, run: Path) -> str:
    """The accuracy of a run, what was found in it, and where its files are."""
    found = findings(run)
    shortcuts = sum(entry.status == "confirmed" for entry in found)
    mark = f"a copyright sign on each {RUNS[name]}" if RUNS[name] else "no marks"
    lines = [
        f"{name.upper()} ({mark}): accuracy {read_timeline(run).metrics['val_acc'][-1]:.2f}, "
        f"{shortcuts or 'no'} shortcut{'' if shortcuts == 1 else 's'} confirmed.",
        *(fill(entry.text, 110, initial_indent="  - ", subsequent_indent="    ") for entry in found),
        f"  pictures: {', '.join(map(str, save_pictures(run)))}",
        f"  report, a page to open in a browser: {run / 'cam_report.html'}",
        f"  timelapse, an animated picture: {run / 'cam_timelapse.webp'}",
    ]
    return "\n".join(lines)


def main(log_dir: str | Path = "demo_logs", **options: int) -> None:
    """Train both models; print accuracies, findings, where the pictures and reports are, and how to open TensorBoard.

    Args:
        log_dir: The folder of both runs.
        options: Those of `train`.
    """
    for host in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(host).setLevel(logging.WARNING)
    logging.getLogger("lightning_cam").setLevel(logging.ERROR)  # what it finds is printed below
    # The images are in memory: more processes would only slow it down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning on a newer torch
    started = time.monotonic()
    runs = {name: train(log_dir, name, **options) for name in RUNS}
    print(f"\nTwo models were trained in {time.monotonic() - started:.0f} s, on the same pictures but for a mark.")
    for name, run in runs.items():
        print(f"\n{summary(name, run)}")
    tensorboard = Path(sys.executable).with_name("tensorboard")
    print(f"\nAll of it in TensorBoard: {tensorboard} --logdir {log_dir} --samples_per_plugin images=1000")


if __name__ == "__main__":
    main()
