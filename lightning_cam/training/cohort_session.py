"""The cohort of a run: whether there is one, collecting its images from the batches, and the looks at it."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.model.parts import DenseTask
from lightning_cam.model.private import metrics_step
from lightning_cam.training.allowance import MOST_IMAGES, Allowance
from lightning_cam.training.cohort import Ask, CohortLooker
from lightning_cam.training.cohort_part import CohortCollector, CohortPart
from lightning_cam.training.data import loaders_of
from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.found_layers import FoundLayers
from lightning_cam.training.pictures import pictures_of
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.ranks import apart_from_training, is_sharded
from lightning_cam.training.self_supervised import SeenFeatures, Source
from lightning_cam.training.settings import Settings
from lightning_cam.training.shown import Shown
from lightning_cam.training.unlogged import unlogged

T = TypeVar("T")
_log = logging.getLogger(__name__)


class CohortSession:
    """Collects the cohort in the first validation, and looks at it when it is told to.

    On several ranks each collects and explains images of its own; the first one says what is found. A fault ends the
    cohort, and not the looks at the probe.

    Args:
        settings: What the user asked for.

    Attributes:
        is_shared: Whether several ranks have to meet for it at the end of each validation.
        is_on: Whether this rank has a part in it.
        part: Its images here, once they are collected.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._collector: CohortCollector | None = None
        self._source: Source | None = None  # of the images
        self._looker: CohortLooker | None = None
        self._allowance = Allowance(is_bounded=settings.cohort == "auto")
        self._is_collected = False
        self.part: CohortPart | None = None
        self.is_on = self.is_shared = False

    def begin(self, trainer: Trainer) -> None:
        """Begin anew with the run of this trainer."""
        self._forget()
        self._allowance = Allowance(is_bounded=self._settings.cohort == "auto")
        self.is_on = self._settings.cohort is not None and self._settings.score is None
        self.is_on &= self._settings.on == "validation"
        if self.is_on and is_sharded(trainer):
            _log.info("There are no findings: no rank holds the whole model.")
            self.is_on = False
        self.is_shared = self.is_on and trainer.world_size > 1

    def collects(self, trainer: Trainer) -> bool:
        """Whether images are collected in this validation."""
        return self.is_on and not self._is_collected and not trainer.sanity_checking

    def collect(self, trainer: Trainer, rows: ProbeBatch, source: Source) -> None:
        """Take what belongs to the cohort of a batch that passes.

        Args:
            trainer: The trainer.
            rows: Of all its images.
            source: What gave them.
        """
        if rows.images.ndim == 5:  # patterns and suspicions are told of images
            self.end()
        if not self.collects(trainer):
            return
        if isinstance(source, SeenFeatures):  # of which there is nothing to find
            self.is_on = False
            return
        task = source.heads[0].task
        if isinstance(task, DenseTask):
            _log.info(
                "No findings in this run: findings are about classes of whole images, but here each %s has a class.",
                task.kind,
            )
            self.end()
            return
        self._collector, self._source = self._collector or CohortCollector(self._most), source
        self._collector.add(rows, source.heads[0].keys(rows))

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Do something for the cohort alone, at the cost of its allowance; a fault ends that, and nothing else."""
        if not self.is_on:
            return None
        try:
            with self._allowance.spending():
                return action()
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """Switch the cohort off and log why."""
        self.end()
        if self._settings.on_error == "raise":
            raise error
        _log.warning("%s: findings are switched off: %s", self._settings.name, error)

    def end(self) -> None:
        """Leave the cohort. Other ranks learn of it when they meet."""
        self.is_on = False
        self._forget()

    def look(
        self,
        trainer: Trainer,
        module: LightningModule,
        seconds: float,
        ask: Ask,
        *,
        shown: Shown,
        methods: list[str],
    ) -> dict[str, float]:
        """Look at the cohort, on the first rank, and have logged what is found, unless no look is paid for yet.

        Args:
            trainer: The trainer.
            module: The model.
            seconds: That the validation itself has taken.
            ask: Asks all ranks, see `answer`.
            shown: The output, who explains the probe, and who logs.
            methods: Those of the probe; the first leads.

        Returns:
            Numbers by tag; none where there was no look.
        """
        assert shown.logger is not None
        self._allowance.earn(seconds)
        with unlogged(trainer, module), apart_from_training(trainer):
            self._looker = self._looker or self._made(ask, shown.explainer.found, shown.logger.class_names, methods)
            if self._looker is None:
                self.end()
                return {}
            found = self._looker.look(ask, metrics_step(trainer), trainer.current_epoch, seconds)
        if found is None:
            return {}
        shown.logger.log_found(found)
        return found.scalars

    def _made(
        self, ask: Ask, layers: FoundLayers, class_names: list[str] | None, methods: list[str]
    ) -> CohortLooker | None:
        """Who looks at the images that were collected; None where there can be none."""
        collector, source = self._collector, self._source
        task = None if source is None else source.heads[0].task
        if collector is None or source is None or not (task is None or (task.has_classes and task.is_exclusive)):
            return None
        ask("open", layers, methods)
        if self.part is None:
            return None
        batches = max(1.0, collector.seen / len(source.rows.images))
        return CohortLooker(ask, self.part, class_names, self._most, batches, self._allowance, name=self._settings.name)

    def answer(self, trainer: Trainer, module: LightningModule, question: str, *args: Any) -> Any:
        """What this rank answers to a question about its images: a method of its part, or "open", which makes that.

        Raises:
            RuntimeError: This rank has no part in the cohort any more.
        """
        if not self.is_on:
            raise RuntimeError("the cohort was switched off")
        with ExitStack() as stack:
            if not trainer.is_global_zero:  # which asks in a look
                stack.enter_context(unlogged(trainer, module))
                stack.enter_context(apart_from_training(trainer))
            if question == "open":
                self._open(trainer, module, *args)
                return None
            return None if self.part is None else getattr(self.part, question)(*args)

    def _open(self, trainer: Trainer, module: LightningModule, layers: FoundLayers, methods: list[str]) -> None:
        """Make a part of the images that were collected, if there are any."""
        collector, source, settings = self._collector, self._source, self._settings
        found, seen = (None, 0) if collector is None else (collector.found, collector.seen)
        self._collector, self._is_collected = None, True
        if found is None or source is None:
            return
        head, here = source.heads[0], layers if trainer.is_global_zero else layers.of(module)

        def explainer_of(images: ProbeBatch) -> ProbeExplainer:
            return ProbeExplainer(settings, trainer, module, images, source, head, here, together=False)

        draw = partial(pictures_of, loaders=loaders_of(trainer), module=module, settings=settings)
        self.part = CohortPart(explainer_of, module, *found, seen, draw, methods, len(source.rows.images))

    @property
    def _most(self) -> int:
        most = self._settings.cohort
        return most if isinstance(most, int) else MOST_IMAGES

    def _forget(self) -> None:
        self._collector = self._source = self._looker = self.part = None
        self._is_collected = False
