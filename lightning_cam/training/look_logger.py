"""The user's side of a look: its pictures and numbers, handed to the trainer's loggers."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.explanation import Explanation, find_methods
from lightning_cam.render import Captions, to_uint8, unnormalize
from lightning_cam.resolve import TargetLayer
from lightning_cam.timeline.files import file_stem
from lightning_cam.training.checks import Checks
from lightning_cam.training.data import as_statistics, find_class_names, find_normalization, loaders_of
from lightning_cam.training.history import History
from lightning_cam.training.look import compose
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.settings import Settings
from lightning_cam.training.sinks import (
    SINKS,
    FilesSink,
    RunInfo,
    Sink,
    SinkWorker,
    TimelineSink,
    directory_of,
    sink_of,
)
from lightning_cam.training.sinks.health import Health

_log = logging.getLogger(__name__)

_ABOUT = """Where the model looks: class activation maps of {count} fixed validation images at `{layers}`.

- `{name}/<method>`: the newest look, each image on a scale of its own. Hot cells speak for {target}. A caption reads
  label → prediction and its probability; the frame is green where the prediction is right, orange where it is wrong.
- `{name}/<method>/filmstrip`: the same images over the training, one scale per row.
- `{name}/<method>/<metric>`: numbers of the same maps.
- All looks: the CAM Timeline tab of TensorBoard{report}.
"""


class LookLogger:
    """Draws and measures each look, and hands it to the loggers.

    Args:
        settings: What the user asked for.
        trainer: The trainer, of the rank that logs.
        module: The model.
        probe: The fixed images, on the model's device.
        layers: The target layers.

    Raises:
        ValueError: The trainer has no logger, or an argument does not fit.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Trainer,
        module: LightningModule,
        probe: ProbeBatch,
        layers: Sequence[TargetLayer],
    ) -> None:
        self._settings, self._probe = settings, probe
        loaders = loaders_of(trainer)
        mean, std = (as_statistics(value, probe.images) for value in (settings.mean, settings.std))
        if mean is None or std is None:
            mean, std = find_normalization(probe.images, loaders, module)
        self._display_images = unnormalize(probe.images.float(), mean, std)  # (B, 3, H, W) in [0, 1]
        self._class_names = settings.names() or find_class_names([loaders, getattr(trainer, "datamodule", None)])
        self._captions: Captions | None = None  # drawn at the first look, when the number of classes is known
        self._worker = None if trainer.fast_dev_run else self._open_worker(trainer, layers)  # type: ignore[attr-defined]

    def log(self, explanation: Explanation, checks: Checks, history: History, *, step: int, epoch: int) -> None:
        """Draw and measure a look, add it to the history, and hand it to the loggers; nothing waits for the device."""
        look = compose(
            explanation,
            self._probe,
            self._display_images,
            self._captions_for(self._probe.num_labels if explanation.logits is None else explanation.logits.shape[1]),
            history,
            name=self._settings.name,
            step=step,
            epoch=epoch,
            checks=checks,
        )
        if self._worker is not None:
            self._worker.submit(look)

    def add_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Put metrics of the user's model next to the look of this step."""
        if self._worker is not None:
            self._worker.add_metrics(step, metrics)

    def flush(self) -> None:
        """Wait until the looks so far are written."""
        if self._worker is not None:
            self._worker.flush()

    def close(self) -> None:
        """Write what waits."""
        if self._worker is not None:
            self._worker.close()

    @property
    def is_prepared(self) -> bool:
        """Whether what is drawn once, at the first look, is there."""
        return self._captions is not None

    def _captions_for(self, num_classes: int) -> Captions:
        if self._captions is None:
            names = self._class_names or []
            if names and len(names) != num_classes:
                _log.warning(
                    "There are %d class names and %d classes; those without are numbered.", len(names), num_classes
                )
            names = [*names, *map(str, range(len(names), num_classes))]
            self._captions = Captions(names, self._display_images.device)
        return self._captions

    def _open_worker(self, trainer: Trainer, layers: Sequence[TargetLayer]) -> SinkWorker:
        """Start the thread that writes the looks."""
        if not trainer.loggers:
            raise ValueError(
                "Trainer(logger=False): a logger is needed to show the maps "
                f"({', '.join(SINKS)}; any other gets files in its directory)"
            )
        settings, probe = self._settings, self._probe
        directory = directory_of(trainer.loggers[0], trainer.default_root_dir)
        report = directory / f"{file_stem(settings.name)}_report.html" if settings.report else None
        text = _ABOUT.format(
            count=len(probe.images),
            layers="`, `".join(layer.name for layer in layers),
            name=settings.name,
            target=settings.target(probe.labels is not None),
            report=f", and `{report.name}` when the run has ended" if report else "",
        )
        # Before the loggers', so that the report is there when the loggers' sinks are closed.
        sinks: list[Sink] = [Health(), TimelineSink(directory, report=settings.report, timelapse=settings.timelapse)]
        for logger in trainer.loggers:
            sink = sink_of(logger)
            if sink is None:
                files = directory_of(logger, trainer.default_root_dir)
                sink = FilesSink(files)
                _log.warning("%s takes no pictures; they go to files in %s.", type(logger).__name__, files)
            sinks.append(sink)
        run = RunInfo(
            name=settings.name,
            methods=[method.name for method in find_methods(settings.methods)],
            text=text,
            images=to_uint8(self._display_images),
            labels=probe.labels,
            regions=probe.regions,
            class_names=self._class_names,
            report=report,
        )
        return SinkWorker(sinks, run)
