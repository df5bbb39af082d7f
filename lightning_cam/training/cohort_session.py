"""The cohort's part of a run: whether there is one, its images as their batches pass, and the looks at it."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.model.private import metrics_step
from lightning_cam.training.allowance import MOST_IMAGES, Allowance
from lightning_cam.training.cohort import CohortCollector, CohortLooker, FoundLook
from lightning_cam.training.data import loaders_of
from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.finder import unlogged
from lightning_cam.training.observed import Guessed, Head, Seen
from lightning_cam.training.pictures import pictures_of
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.ranks import apart_from_training, is_sharded
from lightning_cam.training.settings import Settings

_log = logging.getLogger(__name__)


class CohortSession:
    """Collects the cohort in the first validation, and looks at it when it is told to.

    A fault ends the cohort, and not the looks at the probe.

    Args:
        settings: What the user asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._collector: CohortCollector | None = None
        self._looker: CohortLooker | None = None
        self._is_on = False
        self._allowance = Allowance(is_bounded=settings.cohort == "auto")

    @property
    def looker(self) -> CohortLooker | None:
        """Who looks at the cohort, once it is collected."""
        return self._looker

    def begin(self, trainer: Trainer) -> None:
        """Begin anew with the run of this trainer."""
        self._collector = self._looker = None
        self._allowance = Allowance(is_bounded=self._settings.cohort == "auto")
        self._is_on = self._settings.cohort is not None and self._settings.score is None
        if self._is_on and is_sharded(trainer):
            _log.info("There is no cohort: no rank has the whole model.")
            self._is_on = False

    def collects(self, trainer: Trainer) -> bool:
        """Whether images are collected in this validation."""
        return self._is_on and trainer.is_global_zero and self._looker is None and not trainer.sanity_checking

    def collect(self, trainer: Trainer, rows: ProbeBatch, source: Seen | Guessed) -> None:
        """Take what belongs to the cohort of a batch that passes.

        Args:
            trainer: The trainer.
            rows: Of all its images.
            source: What gave them.
        """
        if not self.collects(trainer):
            return
        if self._collector is None:
            most = self._settings.cohort
            self._collector = CohortCollector(most if isinstance(most, int) else MOST_IMAGES)
        self._collector.add(rows, source.heads[0].keys(rows))

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something for the cohort alone, at the cost of its allowance; a fault ends that, and nothing else."""
        if not self._is_on:
            return
        try:
            with self._allowance.spending():
                action()
        except Exception as error:
            self._is_on, self._looker, self._collector = False, None, None
            if self._settings.on_error == "raise":
                raise
            _log.warning("%s: nothing more is found of the cohort: %s", self._settings.name, error)

    def look(
        self,
        trainer: Trainer,
        module: LightningModule,
        seconds: float,
        *,
        head: Head,
        explainer: ProbeExplainer,
        source: Seen | Guessed,
        class_names: list[str] | None,
        methods: Sequence[str],
    ) -> FoundLook | None:
        """Look at the cohort; None where there is none, or none is paid for yet.

        Args:
            trainer: The trainer.
            module: The model.
            seconds: That the validation itself has taken.
            head: The output that is explained.
            explainer: Of the probe, which has found the layers.
            source: What gave the images.
            class_names: Names of the classes, or None.
            methods: Those of the probe; the first leads.
        """
        self._allowance.earn(seconds)
        if self._looker is None:
            collector, self._collector = self._collector, None
            found, task = None if collector is None else collector.found, head.task
            if collector is None or found is None or not (task is None or (task.has_classes and task.is_exclusive)):
                self._is_on = False
                return None

            def explainer_of(images: ProbeBatch) -> ProbeExplainer:
                return ProbeExplainer(self._settings, trainer, module, images, source, head, explainer, together=False)

            self._looker = CohortLooker(
                explainer_of,
                *found,
                partial(pictures_of, loaders=loaders_of(trainer), module=module, settings=self._settings),
                class_names,
                list(methods),
                len(source.rows.images),
                max(1.0, collector.seen / len(source.rows.images)),
                self._allowance,
                name=self._settings.name,
            )
        with unlogged(trainer, module), apart_from_training(trainer):
            return self._looker.look(module, metrics_step(trainer), trainer.current_epoch, seconds)
