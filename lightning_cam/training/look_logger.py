"""The logging side of a look: its pictures and numbers, passed to the trainer's loggers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.explanation import Explanation
from lightning_cam.model.detection import Detection
from lightning_cam.model.parts import DenseTask
from lightning_cam.model.tasks import Embeddings, Pairs, Values
from lightning_cam.printable import printable
from lightning_cam.render.planes import evidence_of, spread
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import Depth
from lightning_cam.resolve.features import FeatureLayer
from lightning_cam.timeline.files import file_stem
from lightning_cam.timeline.planes import Planes
from lightning_cam.training.checks import Checks
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.data import find_class_names, loaders_of
from lightning_cam.training.finder import Taken
from lightning_cam.training.history import History
from lightning_cam.training.look import measure
from lightning_cam.training.pictures import holds, names_that_fit, pictures_of, truth_of, words_of_pictures
from lightning_cam.training.planes import MOST_KEPT, kept
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

_ABOUT = """Class activation maps of fixed {where} images{depth} at `{layers}`.

{taken}{beside} {holds}{bands}

- `{name}/<method>`: the newest look at the first eight images, each with its own color scale;
  `{name}/<method>/images_9-16` and so on show the others. Hot cells are evidence for {target}. {caption}
- `{name}/<method>/filmstrip`: the same images over the training, one color scale per row.
- `{name}/<method>/<metric>`: metrics of these maps.
- All looks: the CAM Timeline tab of TensorBoard{report}.
"""

_ABOUT_FEATURES = """What the features hold: maps of fixed {where} images at `{layer}`, where the network ends.

{taken} {holds}

- `{name}/cls_attention`: what the class token attends to in the last block, mean over heads.
- `{name}/cls_similarity`: the cosine between the features of each place and {summary}.
- `{name}/pca`: the first three principal components of the features of all images together, as red, green and blue:
  like colors are like features. The colors of a look are turned to those of the look before, so that epochs compare.
- `{name}/<method>/filmstrip`: the same images over the training.
- `{name}/<method>/<metric>`: numbers of the same maps.
- All looks: the CAM Timeline tab of TensorBoard{report}.
"""


_CAPTION = """A caption reads
  label → prediction and its probability; the frame is green where the prediction is right, orange where it is wrong."""
_CAPTION_OF_PAIRS = """A caption reads
  similarity → text, where the text is known."""
_CAPTION_OF_VALUES = """A caption reads
  predicted → true value."""
_CAPTION_OF_PARTS = """One map for each
  {kind}, those of an image side by side. A caption reads class, {amount}, and intersection over union (IoU) with the
  truth; the frame is green from 0.5 on, else orange."""
_OUTLINES = " The blue line is what is predicted, the white one what is true."


class LookLogger:
    """Measures each look, and passes it to the thread that draws and logs it.

    Args:
        settings: What the user asked for.
        trainer: The trainer, of the rank that logs.
        module: The model.
        probe: The fixed images, on the model's device.
        layers: The target layers.
        taken: What is explained.
        depth: Where methods of the whole depth read relevance, if there are any.
        features: Where methods of features read them, if there are any.
        methods: Their names.
        planes: What images consist of: "slice", "frame" or "instance"; nothing where they are images.

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
        depth: Depth | None = None,
        features: FeatureLayer | None = None,
        methods: Sequence[str] = (),
        planes: str = "",
    ) -> None:
        self._settings, self._probe, self._task = settings, probe, taken.head.task
        loaders = loaders_of(trainer)
        sources = [loaders, getattr(trainer, "datamodule", None), module]
        count = taken.head.num_classes
        names = settings.names() or names_that_fit(taken.class_names or find_class_names(sources), count)
        if isinstance(self._task, Embeddings):
            names = None
        directory = self._directory(trainer)
        report = None  # a remote one is no file here that a logger could take along
        if settings.report and isinstance(directory, Path):
            report = directory / f"{file_stem(settings.name)}_report.html"
        self._parts = taken.head.parts(settings.class_idx)
        truth = truth_of(probe, taken.head, names or [], settings.class_idx or 0, self._parts)
        consists = _planes(probe.images, layers, None if depth is None else depth.embedding, planes)
        bands = words_of_pictures(probe, loaders, module, settings, consists)
        self._run = RunInfo(
            name=settings.name,
            methods=list(methods),
            text=self._about(layers, depth, features, report, taken, bands),
            images=pictures_of(probe, loaders, module, settings, consists),
            labels=probe.labels,
            regions=probe.regions,
            class_names=names,
            report=report,
            texts=truth.texts,
            present=truth.present,
            has_classes=self._task is None or self._task.has_classes,
            blocks=[block.layer.name for block in depth.blocks] if depth is not None else [],
            no_blocks=depth.why if depth is not None else "",
            has_values=self._task is not None and self._task.has_values,
            parts=self._parts,
            missing=self._task.missing(self._parts) if isinstance(self._task, DenseTask) else "",
            unpredicted=self._task.unpredicted if isinstance(self._task, DenseTask) else "",
            planes=consists,
        )
        _log.info("%s: %s%s %s%s", settings.name, taken.words, _beside(layers), self._holds(taken), bands)
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
        evidence = {}
        if self._probe.images.ndim == 5:  # planes below one another are like the rows of an image, to be measured
            evidence = {method: kept(evidence_of(maps)) for method, maps in explanation.maps.items()}
            below = {method: [kept(maps).flatten(1, 2)[None]] for method, maps in explanation.maps.items()}
            explanation = replace(explanation, layer_maps=below)
        look = measure(
            explanation,
            self._probe,
            history,
            name=self._settings.name,
            step=step,
            epoch=epoch,
            checks=checks,
            task=self._task,
            evidence=evidence,
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
        """Write all looks that are still queued."""
        self._worker.close()

    def _check_names(self, explanation: Explanation) -> None:
        names, logits = self._run.class_names, explanation.logits
        count = None if logits is None else logits.shape[1]
        if isinstance(self._task, Detection) and count is not None:
            count -= self._task.has_none
        if names and count is not None and len(names) != count and not self._names_checked:
            _log.warning(
                "There are %d class names for %d classes; classes without a name are numbered.", len(names), count
            )
        self._names_checked = True

    def _about(
        self,
        layers: Sequence[TargetLayer],
        depth: Depth | None,
        features: FeatureLayer | None,
        report: Path | None,
        taken: Taken,
        bands: str,
    ) -> str:
        where = "training" if self._settings.on == "train" else "validation"
        if features is not None and isinstance(self._task, Embeddings):
            return _ABOUT_FEATURES.format(
                taken=taken.words,
                holds=holds(self._probe, None),
                layer=features.name,
                where=where,
                summary="the class token"
                if features.class_token is not None
                else "their mean, as there is no class token",
                name=self._settings.name,
                report=f", and `{report.name}` when the run has ended" if report else "",
            )
        return _ABOUT.format(
            where=where,
            taken=taken.words,
            beside=_beside(layers),
            holds=self._holds(taken),
            bands=bands,
            layers="`, `".join(layer.name for layer in layers),
            depth="" if depth is None else f", of the whole depth at `{depth.embedding.name or 'the image'}`, others",
            name=self._settings.name,
            target=self._target(),
            caption=self._caption(),
            report=f", and `{report.name}` when the run has ended" if report else "",
        )

    def _holds(self, taken: Taken) -> str:
        if not isinstance(taken.head.task, DenseTask):
            return holds(self._probe, taken.head.num_classes)
        several = f", up to {self._parts} {taken.head.task.kind}s of each" if self._parts > 1 else ""
        count = len(self._probe.images) // self._parts
        return f"{count} image{'s' if count > 1 else ''}{several}."

    def _caption(self) -> str:
        if isinstance(self._task, Values):
            return _CAPTION_OF_PAIRS if isinstance(self._task, Pairs) else _CAPTION_OF_VALUES
        if not isinstance(self._task, DenseTask):
            return _CAPTION
        caption = _CAPTION_OF_PARTS.format(kind=self._task.kind, amount=self._task.amount)
        return caption + ("" if self._probe.images.ndim == 5 else _OUTLINES)  # slices are drawn without outlines

    def _target(self) -> str:
        """What is explained, in words."""
        if self._settings.score is None and isinstance(self._task, DenseTask):
            return self._task.explained
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
                "Trainer(logger=False): the maps need a logger "
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
                    _log.warning(
                        "%s can't log images, and no files can be written to %s.", type(logger).__name__, files
                    )
                    continue
                sink = FilesSink(files)
                _log.warning("%s can't log images; writing files to %s.", type(logger).__name__, files)
            sinks.append(sink)
        return sinks


def _planes(images: Tensor, layers: Sequence[TargetLayer], embedding: TargetLayer | None, kind: str) -> Planes | None:
    """Which planes of images (B, C, D, H, W) there are pictures of: as many as the finest maps have, up to 64."""
    if images.ndim == 4:
        return None
    places = [*layers, *([] if embedding is None else [embedding])]
    grids, count = [place.layout.grid_size for place in places], images.shape[2]
    finest = max((grid[0] for grid in grids if len(grid) == 3), default=count)  # instances may have grids of their own
    chosen = spread(count, min(finest, count, MOST_KEPT))
    return Planes(kind, count, tuple((chosen + 1).tolist()))


def _beside(layers: Sequence[TargetLayer]) -> str:
    """Which of several networks is shown, in a sentence."""
    last = layers[-1]
    if not last.beside:
        return ""
    others = "`, `".join(last.beside)
    return f" Its output combines several networks: maps at `{last.name}` show only that one, not `{others}`."
