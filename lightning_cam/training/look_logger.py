"""The user's side of a look: its pictures and numbers, handed to the trainer's loggers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.explanation import Explanation, find_methods
from lightning_cam.printable import printable
from lightning_cam.render.planes import MOST_PLANES, maps_side_by_side, spread
from lightning_cam.resolve import TargetLayer
from lightning_cam.timeline.files import file_stem
from lightning_cam.training.checks import Checks
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.data import find_class_names, loaders_of
from lightning_cam.training.finder import Taken
from lightning_cam.training.history import History
from lightning_cam.training.look import measure
from lightning_cam.training.pictures import holds, names_that_fit, pictures_of, truth_of, words_of_pictures
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.run_info import RunInfo
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

_ABOUT = """Where the model looks: class activation maps of fixed validation images{depth} at `{layers}`.

{taken}{beside} {holds}{bands}

- `{name}/<method>`: the newest look at the first eight images, each on a scale of its own, and
  `{name}/<method>/images_9-16` and so on at the others. Hot cells speak for {target}. A caption reads
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
        taken: What is explained.
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
        taken: Taken,
        embedding: TargetLayer | None = None,
    ) -> None:
        self._settings, self._probe, self._task = settings, probe, taken.head.task
        loaders = loaders_of(trainer)
        sources = [loaders, getattr(trainer, "datamodule", None), module]
        count = taken.head.num_classes
        names = settings.names() or names_that_fit(taken.class_names or find_class_names(sources), count)
        directory = self._directory(trainer)
        report = None  # a remote one is no file here that a logger could take along
        if settings.report and isinstance(directory, Path):
            report = directory / f"{file_stem(settings.name)}_report.html"
        self._planes = _planes(layers, embedding)
        bands = words_of_pictures(probe, loaders, module, settings, self._planes)
        truth = truth_of(probe, taken.head, names or [], settings.class_idx or 0)
        self._run = RunInfo(
            name=settings.name,
            methods=[method.name for method in find_methods(settings.methods)],
            text=self._about(layers, embedding, report, taken, bands),
            images=pictures_of(probe, loaders, module, settings, self._planes),
            labels=probe.labels,
            regions=probe.regions,
            class_names=names,
            report=report,
            texts=truth.texts,
            present=truth.present,
            has_classes=self._task is None or self._task.has_classes,
            slices=_slices(probe.images, self._planes),
        )
        _log.info("%s: %s%s %s%s", settings.name, taken.words, _beside(layers), holds(probe, count), bands)
        # In a `fast_dev_run` everything is tried, and nothing is written.
        self._worker = SinkWorker([] if directory is None else self._sinks(trainer, directory), self._run)
        self._names_checked = False

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, or None."""
        return self._run.class_names

    def log(
        self, explanation: Explanation, checks: Checks, history: History, *, step: int, epoch: int
    ) -> dict[str, Tensor]:
        """Measure a look, add it to the history, and hand it to the loggers' thread; nothing waits for the device.

        Returns:
            Its scalars by tag, () float32.
        """
        self._check_names(explanation)
        if self._probe.images.ndim == 5:
            laid = {
                method: [maps_side_by_side(maps, self._planes) for maps in of_layers]
                for method, of_layers in explanation.layer_maps.items()
            }
            explanation = replace(explanation, layer_maps=laid)
        look = measure(
            explanation,
            self._probe,
            history,
            name=self._settings.name,
            step=step,
            epoch=epoch,
            checks=checks,
            task=self._task,
        )
        self._worker.submit(look)
        return look.scalars

    def log_found(self, found: FoundLook) -> None:
        """Say what was found of the cohort, in one line, and hand it to the loggers' thread."""
        lines = [finding.text for finding in found.findings]
        level = logging.WARNING if any(f.status == "confirmed" for f in found.findings) else logging.INFO
        _log.log(level, "%s: %s", self._settings.name, printable(" ".join(lines)))
        self._worker.submit_found(found)

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

    def _about(
        self,
        layers: Sequence[TargetLayer],
        embedding: TargetLayer | None,
        report: Path | None,
        taken: Taken,
        bands: str,
    ) -> str:
        return _ABOUT.format(
            taken=taken.words,
            beside=_beside(layers),
            holds=holds(self._probe, taken.head.num_classes),
            bands=bands,
            layers="`, `".join(layer.name for layer in layers),
            depth="" if embedding is None else f", of the whole depth at `{embedding.name or 'the image'}`, others",
            name=self._settings.name,
            target=self._target(),
            report=f", and `{report.name}` when the run has ended" if report else "",
        )

    def _target(self) -> str:
        """What is explained, in words."""
        if self._settings.score is None and self._task is not None:
            if not self._task.has_classes:
                return "a higher value"
            if not self._task.is_exclusive and self._settings.class_idx is None:
                return "the label with the highest probability"
        return self._settings.target(self._probe.labels is not None)

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
        timeline = TimelineSink(
            directory, report=settings.report, timelapse=settings.timelapse, stored_size=settings.stored_size
        )
        sinks: list[Sink] = [Health(), timeline]
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


def _planes(layers: Sequence[TargetLayer], embedding: TargetLayer | None) -> int:
    """How many slices or frames are shown of each image: as many as the finest maps have, up to 16; 1 of pictures."""
    places = [*layers, *([] if embedding is None else [embedding])]
    counts = [place.layout.grid_size[0] for place in places if len(place.layout.grid_size) == 3]
    return min(max(counts, default=1), MOST_PLANES)


def _slices(images: Tensor, shown: int) -> tuple[int, ...]:
    """Numbers of the slices that are shown, from 1 on; none of what has colors, such as frames and patches."""
    is_volume = images.ndim == 5 and images.shape[1] != 3
    return tuple(int(number) + 1 for number in spread(images.shape[2], shown)) if is_volume else ()


def _beside(layers: Sequence[TargetLayer]) -> str:
    """Which network of several is shown, in a sentence."""
    last = layers[-1]
    if not last.beside:
        return ""
    others = "`, `".join(last.beside)
    return f" Its answer is put together of several networks: maps at `{last.name}` show that one, and not `{others}`."
