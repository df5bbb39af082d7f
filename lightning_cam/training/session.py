"""The looks of one run: the fixed images, their history, and who explains and logs them."""

import logging
import weakref
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_cam.methods.defaults import OF_FEATURES
from lightning_cam.model.private import metrics_step
from lightning_cam.training.cohort import Ask
from lightning_cam.training.cohort_session import CohortSession
from lightning_cam.training.finder import ProbeFinder
from lightning_cam.training.history import History
from lightning_cam.training.meeting import LastWord, Meeting
from lightning_cam.training.newest import NewestScalars
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.ranks import apart_from_training, on_all_ranks
from lightning_cam.training.saved import ANEW, Saved
from lightning_cam.training.settings import Settings
from lightning_cam.training.shown import Shown, shown_of
from lightning_cam.training.unlogged import unlogged
from lightning_cam.training.validated import InputComparison

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Session:
    """Owns the probe, the history and what of them travels in a checkpoint; looks when it is told to.

    What is found out at the first look (network, outputs, layers, class names, files) is kept until `close`; the next
    look opens it anew.

    Args:
        settings: What the user asked for.

    Attributes:
        probe: The fixed images; None until they are collected.
        cohort: The images that findings are made of.
        histories: The looks so far, by head; "" where there is one only.
        last_step: Step of the newest look, -1 before the first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._together = False  # all ranks look
        self._trainer: weakref.ref[Trainer] | None = None  # of the looks so far
        self._said_too_large = False
        self._shown: list[Shown] = []
        self._comparison: InputComparison | None = None
        self._finder: ProbeFinder | None = None
        self._is_restored = False  # probe and history come from a checkpoint
        self._newest = NewestScalars(is_on=settings.log_metrics)
        self.cohort = CohortSession(settings)
        self.probe: ProbeBatch | None = None
        self.histories: dict[str, History] = {}
        self.last_step = -1

    def __getstate__(self) -> dict[str, Any]:
        """A copy, made in a run, has a history and files of its own."""
        closed = dict.fromkeys(("_trainer", "_comparison", "_finder"))
        anew = {"_shown": [], "cohort": CohortSession(self._settings), "histories": deepcopy(self.histories)}
        return {**vars(self), **closed, **anew, "_newest": deepcopy(self._newest)}

    @property
    def history(self) -> History:
        """The looks so far of the only head, or the first."""
        return next(iter(self.histories.values()), History())

    @property
    def is_open(self) -> bool:
        """Whether a look has found out what all looks share."""
        return bool(self._shown)

    def begin(self, trainer: Trainer, together: bool) -> None:
        """Go on with the run of this trainer, or begin another: one that is resumed gets its state after this.

        Args:
            trainer: The trainer.
            together: Whether all ranks look.
        """
        if self._trainer is None or self._trainer() is not trainer or metrics_step(trainer) < self.last_step:
            self._forget()
            self._finder = None
        self._trainer = weakref.ref(trainer)
        self._together = together
        self.cohort.begin(trainer)

    def begin_batch(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """See a batch of validation, or of training, before its step.

        Args:
            trainer: The trainer.
            module: The model.
            batch: On the model's device.
            batch_idx: Its number in its loader.
            dataloader_idx: Number of its loader.
        """
        if self._comparison is not None and not self._comparison.is_done and batch_idx == dataloader_idx == 0:
            self._comparison.begin(batch)
        for_probe = self._seeks_probe(trainer)
        if not for_probe and not self.cohort.collects(trainer):
            return
        if self._finder is None:
            self._finder = ProbeFinder(self._settings, trainer, module, together=self._together)
        finder = self._finder
        begin = partial(finder.begin_batch, batch, batch_idx, dataloader_idx, for_probe=for_probe)
        if for_probe:
            begin()
        else:
            self.cohort.attempt(begin)
        self._collect(trainer, finder)

    def end_step(self) -> None:
        """Leave the module alone after the forward of a training step, whose batch goes on."""
        if self._finder is not None:
            self._finder.end_step()

    def end_batch(self, trainer: Trainer, module: LightningModule, is_last: bool) -> None:
        """Leave the module alone again; take the probe once it is complete.

        Args:
            trainer: The trainer.
            module: The model.
            is_last: Whether it was the last batch of its validation, or epoch.

        Raises:
            ValueError: What the step does cannot be explained.
        """
        if self._comparison is not None:
            self._comparison.end()
        if self._finder is None:
            return
        if not self._seeks_probe(trainer):
            if self.cohort.collects(trainer):
                self.cohort.attempt(partial(self._finder.end_batch, trainer, module))
                self._collect(trainer, self._finder)
            return
        self._finder.end_batch(trainer, module)
        self._collect(trainer, self._finder)
        source = self._finder.source
        if self._is_restored and source is not None and self.probe is not None:
            channels = source.rows.images.shape[1], self.probe.images.shape[1]
            if channels[0] != channels[1]:
                _log.warning("%s: the saved images have a different number of channels.", ANEW)
                self._forget()
            elif not trainer.sanity_checking and self.last_step > metrics_step(trainer):
                _log.warning("%s: the saved looks are from later steps than this run.", ANEW)
                self._forget()
        if self.probe is None:
            self.probe = self._finder.probe(trainer, is_last)

    def _seeks_probe(self, trainer: Trainer) -> bool:
        """Whether the probe is collected here, and what it is explained with found out."""
        # In training the look comes at the end of the epoch: steps on the way there need not be seen.
        is_found = self.is_open or (trainer.training and self._finder is not None and self._finder.source is not None)
        return (self._together or trainer.is_global_zero) and not (is_found and self.probe is not None)

    def _collect(self, trainer: Trainer, finder: ProbeFinder) -> None:
        rows, finder.rows = finder.rows, None
        if rows is not None and finder.source is not None:
            self.cohort.attempt(partial(self.cohort.collect, trainer, rows, finder.source))

    def look(self, trainer: Trainer, module: LightningModule) -> None:
        """Explain the probe and log it.

        Raises:
            ValueError: The model cannot be looked at, an argument does not fit, or the trainer has no logger.
        """
        try:
            self._look(trainer, module)
        except Exception as error:
            if not self._is_restored:
                raise
            _log.warning("%s: the saved one cannot be explained (%s).", ANEW, error)
            self.close()
            self._forget()

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        step, epoch = metrics_step(trainer), -1 if trainer.sanity_checking else trainer.current_epoch
        with unlogged(trainer, module), apart_from_training(trainer):
            if not self._shown:
                self._open(trainer, module)
            looked = []
            # A run that stops early has its last look unawares.
            is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
            for shown in self._shown:
                explainer = shown.explainer
                part = self._on_looking_ranks(trainer, partial(explainer.explain, trainer, module))
                explanation = explainer.whole(trainer, part)
                check = partial(explainer.check, module, explanation, is_last=is_last)
                checks = self._on_looking_ranks(trainer, check)
                looked.append((shown, explanation, checks))
        # Lightning may log the first validation of the training at the step of the sanity check.
        self.last_step, self._is_restored = -1 if trainer.sanity_checking else step, False
        for shown, explanation, checks in looked:
            if shown.logger is not None:
                history = self.histories.setdefault(shown.head.name, History())
                self._newest.add(trainer, shown.logger.log(explanation, checks, history, step=step, epoch=epoch))

    def meets(self, trainer: Trainer) -> bool:
        """Whether all ranks have something to do together at the end of a validation."""
        return trainer.world_size > 1 and (self.cohort.is_shared or self._newest.is_on)

    def meet(self, trainer: Trainer, module: LightningModule, seconds: float | None, *, is_on: bool) -> None:
        """Do that, on each rank: share the cohort, and let all ranks know the scalars.

        Args:
            trainer: The trainer.
            module: The model.
            seconds: That the validation itself has taken; None where there was no look at the probe.
            is_on: Whether this rank has anything to give.
        """
        if not is_on:
            self.cohort.end()
        if self.cohort.is_shared:
            trainer.strategy.barrier()  # that a validation takes longer on another rank is not what the cohort costs
        meeting = Meeting(trainer, partial(self.cohort.answer, trainer, module))
        look = None if seconds is None else partial(self.look_at_cohort, trainer, module, seconds, meeting.ask)
        word, error = meeting.hold(look, lambda: LastWord(self.cohort.is_on, self._newest.values()))
        if not trainer.is_global_zero:
            self._newest.take(word.metrics, module.device)
        self.put_metrics(trainer)
        if not word.cohort:
            self.cohort.end()
            self.cohort.is_shared = False
        if error is not None:
            self.cohort.fail(error)

    def look_at_cohort(self, trainer: Trainer, module: LightningModule, seconds: float, ask: Ask | None = None) -> None:
        """Say what is found of the cohort, at the end of a validation in which there was a look at the probe.

        A fault ends the looks at the cohort, and not those at the probe.

        Args:
            trainer: The trainer.
            module: The model.
            seconds: That the validation itself has taken.
            ask: Asks all ranks, where they share the cohort.
        """
        if trainer.is_global_zero and self._shown and self._shown[0].logger is not None:
            shown = self._shown[0]
            methods = [method for method in self.histories[shown.head.name].maps if method not in OF_FEATURES]
            if not methods:
                self.cohort.end()
                return
            ask = ask or Meeting(trainer, partial(self.cohort.answer, trainer, module)).ask
            scalars = self.cohort.attempt(
                partial(self.cohort.look, trainer, module, seconds, ask, shown=shown, methods=methods)
            )
            self._newest.add(trainer, {tag: torch.tensor(value) for tag, value in (scalars or {}).items()})

    def put_metrics(self, trainer: Trainer) -> None:
        """Put the newest scalars into `trainer.callback_metrics`, if that is asked for."""
        self._newest.put(trainer)

    def add_metrics(self, trainer: Trainer) -> None:
        """Put the metrics of the user's model next to the look of their step, if there is one.

        All ranks have computed them by now, and Lightning keeps the values: to read them starts no communication.
        """
        if self.last_step == metrics_step(trainer):
            metrics = self._newest.others(trainer.callback_metrics)
            for shown in self._shown:
                if shown.logger is not None:
                    shown.logger.add_metrics(self.last_step, metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return probe and histories as tensors on the CPU; nothing before they are there, or if they are too large."""
        if self.probe is None:
            return {}
        saved = Saved(self.probe, self.histories, self._newest.values())
        state = saved.state_dict(self._settings)
        if state is None and not self._said_too_large:
            self._said_too_large = True
            saved.say_too_large()
        return state or {}

    def load_state_dict(self, state: Any) -> None:
        """Take the probe and histories of `state_dict`; what does not fit is said, and a new probe is taken."""
        saved = Saved.of(state, self._settings)
        if saved is None:
            return
        self.probe, self.histories, self._is_restored = saved.probe, saved.histories, True
        self._newest.take(saved.metrics)
        self.last_step = max((history.steps[-1] for history in self.histories.values() if history.steps), default=-1)

    def _forget(self) -> None:
        self.probe, self._is_restored, self.last_step = None, False, -1
        self.histories.clear()
        self._newest.take({})

    def flush(self) -> None:
        """Wait until the looks so far are written."""
        for shown in self._shown:
            if shown.logger is not None:
                shown.logger.flush()

    def close(self) -> None:
        """Write what waits, and let go of all that was opened."""
        shown, comparison, finder = self._shown, self._comparison, self._finder
        self._shown, self._comparison, self._finder = [], None, None
        if comparison is not None:
            comparison.stop()
        if finder is not None:
            finder.stop()
        for one in shown:
            if one.logger is not None:
                one.logger.close()

    def _open(self, trainer: Trainer, module: LightningModule) -> None:
        """Find out what all looks share: on all ranks the layers, on the first one where looks are logged."""
        probe = self.probe
        if self._together:  # the first rank's, which the others see too
            probe = trainer.strategy.broadcast(probe if probe is None else probe.to("cpu"))
        assert probe is not None  # or there is no look
        self.probe = probe = probe.to(module.device)
        self._shown = self._on_looking_ranks(trainer, lambda: self._opened(trainer, module, probe))
        assert self._finder is not None
        if self._finder.guessed is not None and not self._together:
            self._comparison = InputComparison(self._finder.guessed.network, probe.images)

    def _opened(self, trainer: Trainer, module: LightningModule, probe: ProbeBatch) -> list[Shown]:
        assert self._finder is not None  # it saw a batch
        return shown_of(self._settings, trainer, module, probe, self._finder, together=self._together)

    def _on_looking_ranks(self, trainer: Trainer, action: Callable[[], T]) -> T:
        return on_all_ranks(trainer, action) if self._together else action()
