"""Finds the probe and the output to explain, in the first validation batches."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.explanation import find_methods
from lightning_cam.model.classifier import classifier_of
from lightning_cam.model.output import named_tensors
from lightning_cam.model.untouched import random_states_kept
from lightning_cam.observe.forms import AS_SHOWN, Form
from lightning_cam.observe.programs import filled, tensors_of
from lightning_cam.training.batch import are_images, images_in
from lightning_cam.training.collect import Collector
from lightning_cam.training.data import find_class_names, find_transform, loaders_of
from lightning_cam.training.heads import Head, Wanted
from lightning_cam.training.in_words import words_of
from lightning_cam.training.observed import Direct, Guessed, Seen
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.ranks import apart_from_training
from lightning_cam.training.self_supervised import SeenFeatures, Source
from lightning_cam.training.settings import Settings
from lightning_cam.training.sources import FolderImages, batch_of_indices, first_loader, images_of_folder
from lightning_cam.training.unlogged import unlogged
from lightning_cam.training.watch import StepWatch

_log = logging.getLogger(__name__)

_ALL = 2**31  # rows


@dataclass(frozen=True)
class Taken:
    """What is explained, for people.

    Args:
        head: The output.
        words: Network, images, output and task in a sentence, and what of it was guessed.
        class_names: Names that came with the probe, or None.
    """

    head: Head
    words: str
    class_names: list[str] | None = None


class ProbeFinder:
    """Sees validation batches until the probe is complete.

    Args:
        settings: What the user asked for.
        trainer: The trainer.
        module: The model.
        together: Whether all ranks look.

    Attributes:
        source: What is explained, once a batch has passed.
        rows: All images of the batch that passes, and what is known of them; None where that is not known, or not yet.
    """

    def __init__(self, settings: Settings, trainer: Trainer, module: LightningModule, *, together: bool) -> None:
        self._settings, self._trainer, self._module = settings, trainer, module
        self._collector = Collector(settings.num_samples)
        self._watch: StepWatch | None = None
        self._for_probe = True
        self._can_repeat = together or trainer.world_size == 1
        self._loader = -1  # the first one that a batch came from
        self._batch: Any = None
        self._given: FolderImages | None = None
        self._direct: Direct | None = None
        self.source: Source | None = None
        self.rows: ProbeBatch | None = None

    @property
    def guessed(self) -> Guessed | None:
        """What is explained, if that is a guess, or what the user said."""
        return self.source if isinstance(self.source, Guessed) else None

    def begin_batch(self, batch: Any, batch_idx: int, dataloader_idx: int, *, for_probe: bool = True) -> None:
        """See a batch before its step; only those of the loader that came first.

        Args:
            batch: On the model's device.
            batch_idx: Its number in its loader.
            dataloader_idx: Number of its loader.
            for_probe: Whether the probe is not complete. For the cohort alone steps are watched only where what the
                network gets cannot be read off the batch.
        """
        self._loader = dataloader_idx if self._loader < 0 else self._loader
        self._batch = self.rows = None
        if dataloader_idx != self._loader:
            return
        self._batch, self._for_probe = batch, for_probe
        if not for_probe and self._direct is not None:
            self.rows, self._batch = self._direct.rows(batch), None
            return
        if for_probe and batch_idx == 0 and self._settings.probe is None:  # the sanity check has seen the same images
            self._collector = Collector(self._num_images)
        given = self.source is not None and self._settings.probe is not None and for_probe
        # Of training steps it is seen too whether they say anything of classes.
        if (self._settings.forward is None or self._trainer.training) and not given:
            self._watch = StepWatch(self._trainer, self._module, self._wanted, can_repeat=self._can_repeat)
            self._watch.begin(batch, batch_idx, dataloader_idx)

    def end_step(self) -> None:
        """See no more of a training step that goes on with its backward."""
        if self._watch is not None:
            self._watch.leave()

    def end_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """See a batch after its step, and keep what of it belongs to the probe.

        Raises:
            ValueError: What validation does cannot be explained.
        """
        if self._batch is None:
            return
        watch, self._watch = self._watch, None
        with unlogged(trainer, module), apart_from_training(trainer):
            found = self._or_guess(watch.end() if watch is not None else None)
            is_first = self.source is None
            self.source = self.source or found
            if type(found) is type(self.source):
                self.rows = found.rows
            if is_first:
                self._collector = Collector(self._num_images)
            if is_first and watch is not None and isinstance(found, Seen):
                self._direct = Direct.of(found, watch.batch)
            if self._settings.probe is not None and is_first and self._for_probe:
                found = self._of_given_probe(found, watch)
        if not self._for_probe or (not is_first and self._settings.probe is not None):
            return
        if type(found) is not type(self.source):
            return
        keys = self.source.heads[0].keys(found.rows)
        self._collector.add(found.rows, keys or [0] * len(found.rows.images))
        self._batch = None

    def probe(self, trainer: Trainer, is_last: bool) -> ProbeBatch | None:
        """The probe, once it is complete: no later batch of the data could change it, or there is none.

        Args:
            trainer: The trainer.
            is_last: Whether the batch was the last of its validation.
        """
        probe = self._collector.probe
        if probe is None or self.source is None:
            return None
        classes = self.source.heads[0].num_classes if len(set(self._collector.keys)) > 1 or self._labeled else None
        if self._settings.probe is not None or self._collector.is_settled(classes):
            return probe
        if not is_last:
            return None
        if trainer.sanity_checking and sum(trainer.num_sanity_val_batches) < sum(trainer.num_val_batches):
            _log.info(
                "No look before the training: the sanity check's batches have too few images or classes; "
                "Trainer(num_sanity_val_steps=-1) makes it use all of them."
            )
            return None
        return probe

    @property
    def _num_images(self) -> int:
        """How many images the probe has at most: fewer where several parts of each are explained."""
        parts = 1 if self.source is None else self.source.heads[0].parts(self._settings.class_idx)
        return max(1, self._settings.num_samples // parts)

    @property
    def _labeled(self) -> bool:
        assert self.source is not None and self._collector.probe is not None
        return self.source.heads[0].keys(self._collector.probe) is not None

    def taken(self, head: Head) -> Taken:
        """What is explained, for people."""
        assert self.source is not None
        names = None if self._given is None else self._given.class_names
        return Taken(head, words_of(self.source, head, self._module), names)

    def stop(self) -> None:
        """See nothing more."""
        if self._watch is not None:
            self._watch.stop()

    @cached_property
    def _wanted(self) -> Wanted:
        settings, trainer = self._settings, self._trainer
        sources = [loaders_of(trainer), getattr(trainer, "datamodule", None), self._module]
        names = settings.names() or find_class_names(sources)
        return Wanted(
            head=settings.head,
            whole=settings.score is not None,
            any_class=settings.class_idx is not None,
            num_names=None if names is None else len(names),
            features=not any(method.asks_score for method in find_methods(settings.methods)),
            step="training" if trainer.training else "validation",
            axes=None if settings.axes is None else tuple(settings.axes),
        )

    def _or_guess(self, seen: Seen | SeenFeatures | None) -> Source:
        """What was seen, with the network that the user named; or a guess."""
        settings, is_training = self._settings, self._trainer.training
        if seen is not None and settings.forward is None:
            return seen
        if isinstance(seen, SeenFeatures):
            return replace(seen, network=classifier_of(self._module, settings.forward), words="")
        if is_training and settings.forward is None:
            raise ValueError(
                "the training step was not seen to give images to a network, as where its code is compiled; give "
                "forward=, the part that is given the images"
            )
        guess = self._guess(self._batch)
        if self._wanted.features or (is_training and not self._wanted.any_class and self._has_views(guess)):
            return SeenFeatures(guess.network, replace(guess.rows, labels=None))
        return guess

    def _has_views(self, guess: Guessed) -> bool:
        """Whether a batch whose step was not seen looks like one of training without classes."""
        views = [tensor for _, tensor in named_tensors(self._batch) if are_images(tensor)]
        return guess.rows.labels is None or len(views) > 1

    def _guess(self, batch: Any) -> Guessed:
        network = classifier_of(self._module, self._settings.forward)
        form = Form(axes=tuple(self._settings.axes or ()))
        if self._settings.probe is None or images_in(batch) is not None:
            rows = ProbeBatch.from_batch(batch, _ALL)
            turned = rows if form == AS_SHOWN else replace(rows, images=form.shown(rows.images), regions=None)
            return Guessed(network, turned, form=form)
        return Guessed(network, ProbeBatch(torch.zeros(1, 3, 1, 1)))  # the given probe comes in its place

    def _of_given_probe(self, found: Source, watch: StepWatch | None) -> Source:
        """The same with the rows of the images that the user named."""
        given = self._settings.probe
        if isinstance(given, (str, Tensor, ProbeBatch)):
            return self._of_images(found, watch, *self._images(given, found))
        with random_states_kept():  # transforms of validation can be random too
            batch = given
            if isinstance(given, (list, tuple)) and all(isinstance(index, int) for index in given):
                batch = batch_of_indices(given, first_loader(loaders_of(self._trainer)))
            batch = self._trainer.precision_plugin.convert_input(batch)
            batch = self._trainer.strategy.batch_to_device(batch)
        if not isinstance(found, Seen):
            return replace(found, rows=self._guess(batch).rows)
        return self._repeated(watch, batch)

    def _of_images(self, found: Source, watch: StepWatch | None, images: Tensor, known: FolderImages | None) -> Source:
        labels = None if known is None or known.labels is None else known.labels.to(images.device)
        names: tuple[str, ...] = () if known is None else known.names
        count = len(images)

        def cycled(rows: Tensor) -> Tensor:
            return rows[torch.arange(count, device=rows.device) % len(rows)]

        if found.rows.names:  # texts, which these images are compared with too
            texts = found.rows.names
            names = tuple(f"{name}: {texts[row % len(texts)]}" for row, name in enumerate(names or [""] * count))
        if not isinstance(found, Seen):
            return replace(found, rows=ProbeBatch(found.form.shown(images), labels, names=names).counted())
        if found.unchanged:
            inputs = {place: cycled(rows) for place, rows in found.rows.inputs.items()}
            rows = ProbeBatch(found.form.shown(images), labels, inputs=inputs, names=names)
        else:
            assert watch is not None  # it saw what was found
            tensors, place = tensors_of(watch.batch), found.place
            length = 0 if place is None else len(tensors[place])
            batch = [
                images.to(tensor.dtype) if index == place
                else cycled(tensor) if tensor.ndim and len(tensor) == length
                else tensor
                for index, tensor in enumerate(tensors)
            ]  # fmt: skip
            rows = replace(self._repeated(watch, filled(watch.batch, batch)).rows, names=names)
        # What the other rows of the batch are compared with says nothing of these images.
        return replace(found, rows=replace(rows, labels=labels, targets={}).counted())

    def _repeated(self, watch: StepWatch | None, batch: Any) -> Seen:
        if watch is None or not self._can_repeat:
            raise ValueError(
                "probe: with several training processes, what the validation step does with these images cannot be "
                "observed; leave probe= out, or give forward=, the network for these images"
            )
        seen = watch.repeated(batch)
        if not isinstance(seen, Seen):
            raise ValueError("probe: the validation step was not seen to pass these images to a network")
        return seen

    def _images(self, given: str | Tensor | ProbeBatch, found: Source) -> tuple[Tensor, FolderImages | None]:
        """The images on the model's device, and what is known of them."""
        known, rows = None, found.rows
        if isinstance(given, ProbeBatch):
            known = FolderImages(given.images, given.labels, None, given.names)
            given = given.images
        elif isinstance(given, str):
            loaders = loaders_of(self._trainer)
            names = find_class_names([loaders, getattr(self._trainer, "datamodule", None), self._module])
            with random_states_kept():  # transforms of validation can be random too
                known = images_of_folder(given, self._settings.num_samples, find_transform(loaders), names)
            given = known.images
        self._given = known
        seen = rows.images if rows.shown is None else rows.shown
        sides = found.form.shown(given).shape[2:] if given.ndim == found.form.num_axes else given.shape[2:]
        if sides != seen.shape[2:] and seen.shape[2:] != (1, 1):
            _log.warning(
                "probe: the images of %r are %s after the validation transform, those of the validation batch "
                "%s; if the model does not accept them, resize and crop them in that transform.",
                self._settings.probe if isinstance(self._settings.probe, str) else "the tensor",
                "×".join(map(str, sides)),
                "×".join(map(str, seen.shape[2:])),
            )
        return self._trainer.precision_plugin.convert_input(given.to(self._module.device)), known
