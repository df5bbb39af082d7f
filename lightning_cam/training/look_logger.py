"""The user's side of a look: its pictures and numbers, handed to the trainer's loggers."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.explanation import Explanation, find_methods
from lightning_cam.render import to_uint8, unnormalize
from lightning_cam.resolve import TargetLayer
from lightning_cam.timeline.files import file_stem
from lightning_cam.training.checks import Checks
from lightning_cam.training.data import as_statistics, find_class_names, find_normalization, loaders_of
from lightning_cam.training.history import History
from lightning_cam.training.look import RunInfo, measure
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.settings import Settings
from lightning_cam.training.sinks import (
    SINKS,
    FilesSink,
    Sink,
    SinkWorker,
    TimelineSink,
    directory_of,
    sink_of,
)
from lightning_cam.training.sinks.health import Health

_log = logging.getLogger(__name__)

_ABOUT = """Where the model looks: class activation maps of {count} fixed validation images{depth} at `{layers}`.

- `{name}/<method>`: the newest look, each image on a scale of its own. Hot cells speak for {target}. A caption reads
  label → prediction and its probability; the frame is green where the prediction is right, orange where it is wrong.
- `{name}/<method>/filmstrip`: the same images over the training, one scale per row.
- `{name}/<method>/<metric>`: numbers of the same maps.
- All looks: the CAM Timeline tab of TensorBoard{report}.
"""


class LookLogger:
    """Measures each look, and hands it to the thread that draws and logs it.

    Args:
        settings: What the user asked for.
        trainer: The trainer, of the rank that logs.
        module: The model.
        probe: The fixed images, on the model's device.
        layers: The target layers.
        embedding: Where methods of the whole depth read relevance, if there are any.

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
        embedding: TargetLayer | None = None,
    ) -> None:
        self._settings, self._probe = settings, probe
        loaders = loaders_of(trainer)
        mean, std = (as_statistics(value, probe.images) for value in (settings.mean, settings.std))
        if mean is None or std is None:
            mean, std = find_normalization(probe.images, loaders, module)
        directory = self._directory(trainer)
        report = None  # a remote one is no file here that a logger could take along
        if settings.report and isinstance(directory, Path):
            report = directory / f"{file_stem(settings.name)}_report.html"
        self._run = RunInfo(
            name=settings.name,
            methods=[method.name for method in find_methods(settings.methods)],
            text=self._about(layers, embedding, report),
            images=to_uint8(unnormalize(probe.images.float(), mean, std)),
            labels=probe.labels,
            regions=probe.regions,
            class_names=settings.names() or find_class_names([loaders, getattr(trainer, "datamodule", None)]),
            report=report,
        )
        # In a `fast_dev_run` everything is tried, and nothing is written.
        self._worker = SinkWorker([] if directory is None else self._sinks(trainer, directory), self._run)
        self._names_checked = False

    def log(self, explanation: Explanation, checks: Checks, history: History, *, step: int, epoch: int) -> None:
        """Measure a look, add it to the history, and hand it to the loggers' thread; nothing waits for the device."""
        self._check_names(explanation)
        look = measure(
            explanation, self._probe, history, name=self._settings.name, step=step, epoch=epoch, checks=checks
        )
        self._worker.submit(look)

    def add_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Put metrics of the user's model next to the look of this step."""
        self._worker.add_metrics(step, metrics)

    def flush(self) -> None:
        """Wait until the looks so far are written."""
        self._worker.flush()

    def close(self) -> None:
        """Write what waits."""
        self._worker.close()

    def _check_names(self, explanation: Explanation) -> None:
        names, logits = self._run.class_names, explanation.logits
        if names and logits is not None and len(names) != logits.shape[1] and not self._names_checked:
            _log.warning(
                "There are %d class names and %d classes; those without are numbered.", len(names), logits.shape[1]
            )
        self._names_checked = True

    def _about(self, layers: Sequence[TargetLayer], embedding: TargetLayer | None, report: Path | None) -> str:
        return _ABOUT.format(
            count=len(self._probe.images),
            layers="`, `".join(layer.name for layer in layers),
            depth="" if embedding is None else f", of the whole depth at `{embedding.name or 'the image'}`, others",
            name=self._settings.name,
            target=self._settings.target(self._probe.labels is not None),
            report=f", and `{report.name}` when the run has ended" if report else "",
        )

    def _directory(self, trainer: Trainer) -> Path | str | None:
        """Where the record goes; None in a `fast_dev_run`."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        if not trainer.loggers:
            raise ValueError(
                "Trainer(logger=False): a logger is needed to show the maps "
                f"({', '.join(SINKS)}; any other gets files in its directory)"
            )
        return directory_of(trainer.loggers[0], trainer.default_root_dir)

    def _sinks(self, trainer: Trainer, directory: Path | str) -> list[Sink]:
        settings = self._settings
        # Before the loggers', so that the report is there when the loggers' sinks are closed.
        sinks: list[Sink] = [Health(), TimelineSink(directory, report=settings.report, timelapse=settings.timelapse)]
        for logger in trainer.loggers:
            sink = sink_of(logger)
            if sink is None:
                files = directory_of(logger, trainer.default_root_dir)
                if not isinstance(files, Path):
                    _log.warning("%s takes no pictures, and %s no files of them.", type(logger).__name__, files)
                    continue
                sink = FilesSink(files)
                _log.warning("%s takes no pictures; they go to files in %s.", type(logger).__name__, files)
            sinks.append(sink)
        return sinks
