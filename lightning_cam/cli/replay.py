"""`lightning-cam replay`: what the callback would have shown, from existing Lightning checkpoints."""

import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from lightning_cam.cli.checkpoints import load_weights, read_checkpoint
from lightning_cam.cli.errors import CommandError, UsageError
from lightning_cam.cli.images import ImageFiles, find_images, match
from lightning_cam.cli.models import load_object
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.model.output import named_tensors
from lightning_cam.model.private import metrics_step_of, set_metrics_step
from lightning_cam.timeline import read_timeline
from lightning_cam.timeline.format import SUFFIX, RecordError
from lightning_cam.training.callback import TransformerCAMCallback
from lightning_cam.training.data import find_class_names
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.unlogged import unlogged

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A Lightning checkpoint's place in its training.

    Args:
        file: The file.
        step: Step of the validation metrics that were logged before it was written.
        epoch: Its epoch.
    """

    file: Path
    step: int
    epoch: int


def find_checkpoints(pattern: str, trust: bool = False) -> list[Checkpoint]:
    """Find checkpoints and order them by their step; of several at one step the last by name is taken.

    Args:
        pattern: A glob pattern, a folder or a file.
        trust: See `read_checkpoint`.

    Raises:
        UsageError: There is none, or one is not of Lightning.
    """
    path = Path(os.path.expanduser(pattern))
    names = sorted(path.rglob("*.ckpt") if path.is_dir() else match(path, "--checkpoints")[1])
    if not names:
        raise UsageError(f"--checkpoints: there is no file {pattern!r}; expected a quoted glob pattern or a folder")
    found: dict[int, Checkpoint] = {}
    for name in names:
        content = read_checkpoint(name, trust)
        if "global_step" not in content or "state_dict" not in content:
            raise UsageError(
                f"--checkpoints: {name} is not a Lightning checkpoint (without global_step and state_dict)"
            )
        step = _metrics_step(content)
        if step in found:
            _log.info("%s and %s are both from step %d; the latter is used.", found[step].file, name, step)
        found[step] = Checkpoint(name, step, content.get("epoch", 0))
    return [found[step] for step in sorted(found)]


def build_module(path: str, checkpoint: Path, args: dict[str, Any], trust: bool = False) -> LightningModule:
    """Make a LightningModule with the hyperparameters that a checkpoint holds.

    Args:
        path: `package.module:Class`.
        checkpoint: Whose hyperparameters are taken.
        args: Arguments that go before them.
        trust: See `read_checkpoint`.

    Raises:
        UsageError: The class is no LightningModule or needs other arguments.
    """
    cls = load_object(path, "--module")
    if not (isinstance(cls, type) and issubclass(cls, LightningModule)):
        raise UsageError(f"--module: {path} is not a LightningModule")
    accepted = inspect.signature(cls).parameters.values()
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted)
    known = dict(read_checkpoint(checkpoint, trust).get("hyper_parameters", {}))
    names = {parameter.name for parameter in accepted}
    try:
        module: LightningModule = cls(**{k: v for k, v in known.items() if open_ended or k in names} | args)
    except TypeError as error:
        raise UsageError(f"--module, --module-args: {path} cannot be created: {error}") from error
    return module


def folder_probe(path: str, num_samples: int, preprocessing: Preprocessing) -> ProbeBatch:
    """Read the first images of a folder; those that cannot be read are named and left out.

    Raises:
        CommandError: None can be read.
    """
    root, files = find_images(path, option="--probe")
    items = ImageFiles(files, preprocessing)
    images: list[Tensor] = []
    names: list[str] = []
    for index in range(len(items)):
        if len(images) == num_samples:
            break
        read, image = items[index]
        if image is None:
            _log.warning("%s is skipped: %s", read.file.relative_to(root), read.error)
        else:
            images.append(image)
            names.append(read.file.name)
    if not images:
        raise CommandError(f"--probe: none of the images in {path!r} can be read")
    return ProbeBatch(torch.stack(images), names=tuple(names))


def first_batches(data: LightningDataModule, count: int) -> tuple[list[Any], list[str] | None]:
    """The first validation batches of a data module, one at least, and the names of its classes.

    Args:
        data: The data module.
        count: As many as hold so many images, if there are.
    """
    data.prepare_data()
    data.setup("fit")
    loader = data.val_dataloader()
    loader = loader[0] if isinstance(loader, (list, tuple)) else loader
    batches, left = [], max(1, count)
    for batch in loader:
        batches.append(data.on_after_batch_transfer(batch, 0))
        left -= max((len(tensor) for _, tensor in named_tensors(batch) if tensor.ndim), default=1)
        if left <= 0:
            break
    return batches, find_class_names([loader, data])


def check_folder(folder: Path, name: str) -> None:
    """Make sure that the looks of two replays do not mix.

    Args:
        folder: Log directory.
        name: Prefix of all tags.

    Raises:
        UsageError: There are looks of this name in the folder.
    """
    if record := _find_looks(folder, name):
        raise UsageError(
            f"--output: {folder} already contains a timeline with --name {name} ({record.name}); give another --output "
            "or --name"
        )


@contextmanager
def nothing_left_of_a_failure(folder: Path, name: str) -> Iterator[None]:
    """Take away the events of a replay that failed before its first look: they would mix with those of the next try.

    Args:
        folder: Log directory.
        name: Prefix of all tags.
    """

    def written() -> set[Path]:
        # Another process may write to this folder: an event file's name holds the number of its process.
        return {*folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"), *folder.glob("hparams.yaml")}

    before = written()
    try:
        yield
    except BaseException:
        if _find_looks(folder, name) is None:
            for file in written() - before:
                file.unlink()
        raise


def replay(
    module: LightningModule,
    checkpoints: list[Checkpoint],
    batches: list[Any],
    callback: TransformerCAMCallback,
    output: Path,
    *,
    device: torch.device,
    precision: str = "32-true",
    trust: bool = False,
    is_whole: bool = False,
) -> None:
    """Look at each checkpoint with the callback, whose hooks are called as a Trainer's validation calls them.

    Args:
        module: Takes the weights of one checkpoint after the other.
        checkpoints: In the order of their steps.
        batches: What the first validation batches were; the cohort is collected from all, at the first checkpoint.
        callback: Does all the rest.
        output: Log directory.
        device: Where to run.
        precision: That of the training, as the Trainer takes it.
        trust: See `read_checkpoint`.
        is_whole: Whether the batch is one that the validation step takes, so that it can be seen what it does.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # no word on idle devices
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=precision,  # type: ignore[arg-type]
        logger=TensorBoardLogger(output, name="", version=""),
        callbacks=[callback],
        max_epochs=checkpoints[-1].epoch + 1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module.to(device).eval()
    module.trainer = trainer
    batches = [trainer.precision_plugin.convert_input(move_data_to_device(batch, device)) for batch in batches]
    try:
        callback.setup(trainer, module, "validate")
        for checkpoint in tqdm(checkpoints, unit="checkpoint", disable=None):
            content = read_checkpoint(checkpoint.file, trust)
            module.on_load_checkpoint(content)
            loaded = load_weights(module, content["state_dict"])
            if loaded.missing or loaded.unexpected:
                _log.warning("%s: %s", checkpoint.file, loaded)
            set_metrics_step(trainer, checkpoint.step)
            trainer.fit_loop.epoch_progress.current.completed = checkpoint.epoch
            callback.on_validation_start(trainer, module)
            seen = batches if checkpoint is checkpoints[0] else batches[:1]
            for index, batch in enumerate(seen):
                callback.on_validation_batch_start(trainer, module, batch, index)
                if is_whole:
                    _run_step(trainer, module, batch, index)
                trainer.fit_loop.epoch_loop.val_loop.batch_progress.is_last_batch = index == len(seen) - 1
                callback.on_validation_batch_end(trainer, module, None, batch, index)
            callback.flush()  # a training would rather lose a look than wait
    finally:
        callback.teardown(trainer, module, "validate")
        for logger in trainer.loggers:
            logger.finalize("success")


def _run_step(trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
    """Let the callback see what the validation step does with the batch."""
    with unlogged(trainer, module), torch.no_grad(), trainer.precision_plugin.forward_context():
        try:
            module.validation_step(batch, index)
        except Exception as error:  # whatever the user's step needs that there is not outside of a training
            _log.info("The validation step cannot be run (%s): the output to explain is a guess.", error)


def _find_looks(folder: Path, name: str) -> Path | None:
    """The record in a folder that holds looks of this name, or None."""
    for record in folder.glob(f"*{SUFFIX}"):
        try:
            timeline = read_timeline(record)
        except RecordError:  # the looks will go to a file of their own
            continue
        if timeline.name == name and len(timeline.steps):
            return record
    return None


def _metrics_step(content: dict[str, Any]) -> int:
    """The step that the validation before this checkpoint logged its metrics at."""
    loop = content.get("loops", {}).get("fit_loop")
    if loop is None:  # saved with `save_weights_only`
        return max(int(content["global_step"]) - 1, 0)
    # Lightning counts a batch after the validation that follows it: a checkpoint of the end of an epoch is one further.
    progress = loop["epoch_progress"]["current"]
    ended = progress["processed"] > progress["completed"]
    return metrics_step_of(loop) - ended
