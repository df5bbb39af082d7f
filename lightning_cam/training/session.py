"""The looks of one run: what they share, found out at the first, and each of them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_cam.explanation import Explanation, explain, find_methods
from lightning_cam.methods import DoesNotApply
from lightning_cam.model.classifier import classifier_of
from lightning_cam.model.untouched import random_states_kept, replaced
from lightning_cam.render import Captions, unnormalize
from lightning_cam.resolve import find_target_layers
from lightning_cam.training.checks import FEW, Checks, class_similarity, faithfulness
from lightning_cam.training.data import as_statistics, find_class_names, find_normalization, find_transform
from lightning_cam.training.history import History
from lightning_cam.training.look import compose
from lightning_cam.training.probe import ProbeBatch, images_in
from lightning_cam.training.ranks import gather, inside_wrapper, share_of
from lightning_cam.training.ride import Ride, Trunk, can_ride
from lightning_cam.training.settings import Settings
from lightning_cam.training.sinks import (
    SINKS,
    FilesSink,
    Introduction,
    Sink,
    SinkWorker,
    TimelineSink,
    directory_of,
    sink_of,
)
from lightning_cam.training.sinks.health import Health

_log = logging.getLogger(__name__)

_LONGEST_REASON = 200  # letters of a model's own error

_ABOUT = """Where the model looks: class activation maps of {count} fixed validation images at `{layers}`.

- `{name}/<method>`: the newest look, each image on a scale of its own. Hot cells speak for {target}. A caption reads
  label → prediction and its probability; the frame is green where the prediction is right, orange where it is wrong.
- `{name}/<method>/filmstrip`: the same images over the training, one scale per row.
- `{name}/<method>/<metric>`: numbers of the same maps.
- All looks: the CAM Timeline tab of TensorBoard{report}.
"""


class Session:
    """The looks of one run: what they share, found out at the first, and each of them.

    Args:
        settings: What the user asked for.
        trainer: The trainer.
        module: The model.
        probe: The fixed images, on the model's device.
        together: Whether all ranks look.

    Raises:
        ValueError: The model cannot be looked at, an argument does not fit, or the trainer has no logger.
    """

    def __init__(
        self, settings: Settings, trainer: Trainer, module: LightningModule, probe: ProbeBatch, *, together: bool
    ) -> None:
        self._settings, self._probe, self._together = settings, probe, together
        classifier = classifier_of(module, settings.forward)
        self._forward = _at_precision(trainer, inside_wrapper(trainer, module, classifier))
        self._layers = find_target_layers(
            module,
            probe.images,
            forward=_or_say_why(self._forward, module),
            target_layers=settings.target_layers,
            layout=settings.layout,
        )
        loaders = loaders_of(trainer)
        mean, std = (as_statistics(value, probe.images) for value in (settings.mean, settings.std))
        if mean is None or std is None:
            mean, std = find_normalization(probe.images, loaders, module)
        self._photos = unnormalize(probe.images.float(), mean, std)  # (B, 3, H, W) in [0, 1]
        self._class_names = settings.names() or find_class_names([loaders, getattr(trainer, "datamodule", None)])
        self._captions: Captions | None = None  # drawn at the first look, when the number of classes is known
        self._looks = 0
        self._methods = settings.methods
        methods = find_methods(settings.methods)
        self.ride: Ride | None = None
        if not together and settings.batch_size is None and can_ride(module, methods):
            trunk = Trunk(module, self._forward, probe.images[:2], self._layers)
            self.ride = Ride(trunk, classifier if isinstance(classifier, nn.Module) else None)
        introduction = Introduction(
            name=settings.name,
            methods=[method.name for method in methods],
            text=_ABOUT.format(
                count=len(probe.images),
                layers="`, `".join(layer.name for layer in self._layers),
                name=settings.name,
                target=settings.target(probe.labels is not None),
                report=f", and `{settings.name}_report.html` when the run has ended" if settings.report else "",
            ),
            photos=(self._photos * 255).round().to(torch.uint8),
            labels=probe.labels,
            regions=probe.regions,
            class_names=self._class_names,
        )
        self.worker = _open_worker(trainer, introduction, settings)

    def explain(self, trainer: Trainer, module: LightningModule) -> Explanation:
        """Explain the probe, or on each rank a share of it where it is shared out.

        Raises:
            ValueError: A label is none of the model's classes.
        """
        probe, class_idx = self._probe, self._settings.class_idx
        images, classes = probe.images, probe.labels if class_idx is None else class_idx
        if self._together and self._settings.shard_probe:
            share = share_of(trainer, len(images))
            images = images[share]
            classes = classes[share] if isinstance(classes, Tensor) else classes
        run = partial(self._explain, module, images, class_idx=classes, score=self._settings.score)
        explanation = run() if self.ride is None else self.ride.explain(run)
        num_classes = 0 if explanation.logits is None else explanation.logits.shape[1]
        if explanation.class_idx is not None and class_idx is None and probe.num_labels > num_classes:
            raise ValueError(
                f"the validation batch has the label {probe.num_labels - 1}, but the model only {num_classes} logits; "
                "give class_idx=, or score="
            )
        return explanation

    def whole(self, trainer: Trainer, part: Explanation) -> Explanation:
        """The explanation of the whole probe, where `explain` gave this rank's share."""
        return gather(trainer, part, len(self._photos)) if self._together and self._settings.shard_probe else part

    def check(self, module: LightningModule, explanation: Explanation) -> Checks:
        """Find out what is too dear for every look, of all images, on every rank that looks."""
        first, every = self._looks == 0, self._settings.faithfulness_every_n_looks
        thorough = every is not None and self._looks % every == 0
        self._looks += 1
        if not first and not thorough:
            return Checks()
        again = partial(self._explain, module, self._probe.images[:FEW])
        return Checks(
            faithfulness(module, self._forward, self._probe.images, explanation, self._settings.batch_size)
            if thorough
            else {},
            class_similarity(lambda classes: again(class_idx=classes), explanation),
        )

    def show(self, explanation: Explanation, checks: Checks, history: History, *, step: int, epoch: int) -> None:
        """Draw and measure a look, add it to the history, and hand it to the loggers."""
        look = compose(
            explanation,
            self._probe,
            self._photos,
            self._captions_for(self._probe.num_labels if explanation.logits is None else explanation.logits.shape[1]),
            history,
            name=self._settings.name,
            step=step,
            epoch=epoch,
            checks=checks,
        )
        if self.worker is not None:
            self.worker.submit(look)

    def close(self) -> None:
        """Write what waits."""
        if self.ride is not None:
            self.ride.end()
        if self.worker is not None:
            self.worker.close()

    def _explain(self, module: LightningModule, images: Tensor, **target: Any) -> Explanation:
        try:
            return explain(
                module,
                images,
                self._methods,
                target_layers=self._layers,
                forward=self._forward,
                batch_size=self._settings.batch_size,
                **target,
            )
        except DoesNotApply as error:
            names = [self._methods] if isinstance(self._methods, str | type) else self._methods
            others = [name for name in names if find_methods(name)[0].name != error.method]
            if not others:
                raise
            _log.warning("%s; it is left out.", error)
            self._methods = others
        return self._explain(module, images, **target)

    def _captions_for(self, num_classes: int) -> Captions:
        if self._captions is None:
            names = self._class_names or []
            if names and len(names) != num_classes:
                _log.warning(
                    "There are %d class names and %d classes; those without are numbered.", len(names), num_classes
                )
            names = [*names, *map(str, range(len(names), num_classes))]
            self._captions = Captions(names, self._photos.device)
        return self._captions


def _open_worker(trainer: Trainer, introduction: Introduction, settings: Settings) -> SinkWorker | None:
    """Writes the looks; None on ranks that only take part, and in a `fast_dev_run`."""
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        return None
    if not trainer.loggers:
        raise ValueError(
            "Trainer(logger=False): a logger is needed to show the maps "
            f"({', '.join(SINKS)}; any other gets files in its directory)"
        )
    directory = directory_of(trainer.loggers[0], trainer.default_root_dir)
    # Before the loggers', so that the report is there when the loggers' sinks are closed.
    sinks: list[Sink] = [Health(), TimelineSink(directory, report=settings.report, timelapse=settings.timelapse)]
    for logger in trainer.loggers:
        sink = sink_of(logger)
        if sink is None:
            files = directory_of(logger, trainer.default_root_dir)
            sink = FilesSink(files)
            _log.warning("%s takes no pictures; they go to files in %s.", type(logger).__name__, files)
        sinks.append(sink)
    written = directory / f"{introduction.name}_report.html" if settings.report else None
    return SinkWorker(sinks, replace(introduction, report=written))


def loaders_of(trainer: Trainer) -> Any:
    """The loaders of the loop that runs, as the user gave them."""
    return trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders


def take_probe(settings: Settings, trainer: Trainer, module: LightningModule, batch: Any) -> ProbeBatch:
    """The images to look at: the first of a validation batch, or those of the folder that the user gave."""
    if settings.probe is None:
        return ProbeBatch.from_batch(batch, settings.num_samples)
    with random_states_kept():  # transforms of validation can be random too
        probe = ProbeBatch.from_folder(settings.probe, settings.num_samples, find_transform(loaders_of(trainer)))
    seen = images_in(batch)
    if seen is not None and seen.shape[2:] != probe.images.shape[2:]:
        _log.warning(
            "probe: the images of %r are %d×%d after the validation transform, those of the validation batch "
            "%d×%d; should the model not take them, resize and crop them in that transform.",
            settings.probe,
            *probe.images.shape[2:],
            *seen.shape[2:],
        )
    return replace(probe, images=trainer.precision_plugin.convert_input(probe.images.to(module.device)))


def _or_say_why(forward: Callable[[Tensor], Any], module: LightningModule) -> Callable[[Tensor], Any]:
    """`forward`; if that fails, the first line of why, and how to have something else called."""

    def run(images: Tensor) -> Any:
        try:
            return forward(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if len(why) > _LONGEST_REASON:  # some hold the whole model in their middle
                why = f"{why[: _LONGEST_REASON // 2]} … {why[-_LONGEST_REASON // 2 :]}"
            raise ValueError(
                f"forward: what {type(module).__name__} calls with images of shape {tuple(images.shape)} failed "
                f"({why}); if it takes something else, give forward=, the name of the part that maps images to "
                'logits, such as forward="model", or a function'
            ) from error

    return run


def _at_precision(trainer: Trainer, forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`forward` as the trainer would run it. Only that: the arithmetic of the maps stays in float32."""

    def run(images: Tensor) -> Any:
        with trainer.precision_plugin.forward_context():
            return forward(images)

    return run


@contextmanager
def unlogged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Keep what the model's forward logs in a look out of the user's metrics, by whatever name it calls `log`."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        for holder in (module, trainer._results):  # the latter where a loop is running
            if holder is not None:
                stack.enter_context(replaced(holder, "log", nothing))
        yield
