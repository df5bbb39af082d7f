"""What the looks of one run share: found out at the first, used by all."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.health import Health
from lightning_cam.pipeline import as_statistics, find_class_names, find_normalisation
from lightning_cam.probe import ProbeBatch
from lightning_cam.render import Captions, unnormalise
from lightning_cam.resolve import TargetLayer
from lightning_cam.sinks import SINKS, FilesSink, Introduction, Sink, SinkWorker, TimelineSink, directory_of, sink_of
from lightning_cam.trunk import Ride

_log = logging.getLogger(__name__)

_ABOUT = """Where the model looks: class activation maps of {count} fixed validation images at `{layers}`.

- `{name}/<method>`: the newest look. Hot cells speak for {target}. A caption reads label → prediction and its
  probability; the frame is green where the prediction is right, orange where it is wrong.
- `{name}/<method>/filmstrip`: the same images over the training, one scale per row.
- `{name}/<method>/<metric>`: numbers of the same maps.

TensorBoard keeps ten random steps of each picture. To keep all, start it with
`tensorboard --logdir {logdir} --samples_per_plugin images=1000`.
"""


@dataclass
class Session:
    """What the looks of one run share.

    Args:
        forward: What maps images to logits, at the trainer's precision.
        layers: The target layers.
        photos: (B, 3, H, W) in [0, 1], the probe's images as a person would see them.
        class_names: Names of the classes, or None.
        worker: Writes the looks; None on ranks that only take part, and in a `fast_dev_run`.
        captions: Set at the first look, when the number of classes is known.
        looks: How many there were.
        ride: How to use the validation forward that runs anyway, or None.
    """

    forward: Callable[[Tensor], Any]
    layers: list[TargetLayer]
    photos: Tensor
    class_names: list[str] | None
    worker: SinkWorker | None
    captions: Captions | None = None
    looks: int = 0
    ride: Ride | None = None

    def captions_for(self, num_classes: int) -> Captions:
        """The names of the classes, or their numbers, drawn once."""
        if self.captions is None:
            names = self.class_names or [str(index) for index in range(num_classes)]
            self.captions = Captions(names, self.photos.device)
        return self.captions


def open_session(
    trainer: Trainer,
    module: LightningModule,
    probe: ProbeBatch,
    forward: Callable[[Tensor], Any],
    layers: list[TargetLayer],
    *,
    name: str,
    methods: list[str],
    target: str,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    class_names: list[str] | None,
    report: bool,
    timelapse: Literal["webp", "gif"] | None,
) -> Session:
    """Find out what stays the same over all looks of a run, and open what they are written to.

    Args:
        trainer: The trainer.
        module: The model.
        probe: The fixed images, on the model's device.
        forward: What maps images to logits, at the trainer's precision.
        layers: The target layers.
        name: First part of all tags.
        methods: Names of the methods.
        target: What is explained, in words.
        mean: Mean that the images were normalised with; None to find it.
        std: Standard deviation that the images were normalised with; None to find it.
        class_names: Names of the classes; None to find them.
        report: Whether to write the report when the run ends.
        timelapse: Format of the timelapse to write when the run ends, or None.

    Raises:
        ValueError: The trainer has no logger.
    """
    loaders = loaders_of(trainer)
    means, stds = as_statistics(mean, probe.images), as_statistics(std, probe.images)
    if means is None or stds is None:
        means, stds = find_normalisation(probe.images, loaders, module)
    photos = unnormalise(probe.images.float(), means, stds)
    class_names = class_names or find_class_names([loaders, getattr(trainer, "datamodule", None)])
    introduction = Introduction(
        name=name,
        methods=methods,
        text=_ABOUT.format(
            count=len(probe.images),
            layers="`, `".join(layer.name for layer in layers),
            name=name,
            target=target,
            logdir=getattr(trainer.logger, "save_dir", None) or "DIR",
        ),
        photos=(photos * 255).round().to(torch.uint8),
        labels=probe.labels,
        regions=probe.regions,
        class_names=class_names,
    )
    worker = _open_worker(trainer, introduction, report, timelapse)
    return Session(forward, layers, photos, class_names, worker)


def _open_worker(
    trainer: Trainer, introduction: Introduction, report: bool, timelapse: Literal["webp", "gif"] | None
) -> SinkWorker | None:
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        return None
    if not trainer.loggers:
        raise ValueError(
            "Trainer(logger=False): a logger is needed to show the maps "
            f"({', '.join(SINKS)}; any other gets files in its directory)"
        )
    directory = directory_of(trainer.loggers[0], trainer.default_root_dir)
    # Before the loggers', so that the report is there when the loggers' sinks are closed.
    sinks: list[Sink] = [Health(), TimelineSink(directory, report=report, timelapse=timelapse)]
    for logger in trainer.loggers:
        sink = sink_of(logger)
        if sink is None:
            files = directory_of(logger, trainer.default_root_dir)
            sink = FilesSink(files)
            _log.warning("%s takes no pictures; they go to files in %s.", type(logger).__name__, files)
        sinks.append(sink)
    written = directory / f"{introduction.name}_report.html" if report else None
    return SinkWorker(sinks, replace(introduction, report=written))


def loaders_of(trainer: Trainer) -> Any:
    """The loaders of the loop that runs, as the user gave them."""
    return trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders


def at_precision(trainer: Trainer, forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`forward` as the trainer would run it. Only that: the arithmetic of the maps stays in float32."""

    def run(images: Tensor) -> Any:
        with trainer.precision_plugin.forward_context():
            return forward(images)

    return run


@contextmanager
def unlogged(module: LightningModule) -> Iterator[None]:
    """Keep what the model's forward logs in a look out of the user's metrics."""
    before = vars(module).copy()
    vars(module)["log"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        if "log" in before:
            vars(module)["log"] = before["log"]
        else:
            del vars(module)["log"]
